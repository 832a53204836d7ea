"""Entry point of ``python -m ddo_engine``."""

import os
import sys

from ddo_engine.command_line import main

if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Everything is written and synced. Taking torch apart in an orderly way takes up to a second, and gives nothing.
    os._exit(status)
