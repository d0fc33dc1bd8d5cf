"""``python -m claas``."""

import sys

from claas.cli import main

if __name__ == "__main__":
    sys.exit(main())
