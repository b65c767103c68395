"""``python -m fastsal.cli``, the same as the ``fastsal`` command."""

import sys

from fastsal.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
