"""Runs as Python functions: each module reads top to bottom and returns configs."""
