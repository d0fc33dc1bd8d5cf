"""``python -m butterfly``."""

import sys

from butterfly.cli import main

if __name__ == "__main__":
    sys.exit(main())
