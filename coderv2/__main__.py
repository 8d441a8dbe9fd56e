"""`python -m coderv2` is `coderv2`."""

from coderv2.cli.main import main

main()
