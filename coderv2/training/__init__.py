"""The recipe's stages as importable code; floor 5."""
