"""Log lines for people, on standard error. Imports no torch."""

import logging

log = logging.getLogger("ddo_engine")


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send log lines from ``level`` on, and Python warnings, to standard error."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=level)
    logging.captureWarnings(True)
