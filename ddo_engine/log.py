"""Log lines for people, on standard error. Imports no torch."""

import logging

log = logging.getLogger("ddo_engine")


def log_to_stderr() -> None:
    """Send log lines, and Python warnings, to standard error."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.captureWarnings(True)
