"""The command line: ``fastsal explain | demo | doctor``."""

from fastsal.cli.entry import main

__all__ = ["main"]
