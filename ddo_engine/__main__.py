"""Entry point of ``python -m ddo_engine``."""

import sys

from ddo_engine.command_line import main

if __name__ == "__main__":
    sys.exit(main())
