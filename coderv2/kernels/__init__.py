"""Every arithmetic operation of a forward pass: `ops` lists them, `reference` defines them. Floor 2."""
