"""The engine behind HTTP; floor 5."""
