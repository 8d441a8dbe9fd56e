"""One file per API family: its requests to token ids and sampling parameters, deltas to its answers."""
