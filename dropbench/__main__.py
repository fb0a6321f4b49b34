"""`python -m dropbench` is the command `dropbench`."""

from dropbench.cli import entry

entry()
