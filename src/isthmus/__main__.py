"""`python -m isthmus`."""

from isthmus.cli.main import main

main()
