"""Tests mirror the package: `coderv2/x/y.py` is tested by `tests/x/test_y.py`."""
