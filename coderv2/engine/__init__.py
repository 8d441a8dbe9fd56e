"""Requests in, tokens out; floor 4."""
