"""The command line: ``fastsal explain | demo | doctor | tune``."""

from fastsal.cli.entry import main

__all__ = ["main"]
