"""`python -m neurolab` is the command line."""

from neurolab.cli import main

main()
