"""``python -m inf_engine``: the command line."""

import sys

from inf_engine.cli import main

if __name__ == "__main__":
    sys.exit(main())
