"""``python -m fastsal.compat.captum PROGRAM.py``: what a program takes from Captum, and what it would get instead."""

import sys

from fastsal.compat.captum.report import main

if __name__ == "__main__":
    sys.exit(main())
