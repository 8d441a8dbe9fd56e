"""Documents to packed rows; floor 2: no torch."""
