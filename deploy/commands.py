"""What the containers run, the local stack and the tests run too: these commands, after ``python``.

``deploy/docker/Dockerfile`` repeats them, as it cannot import; a test compares the two.
"""

from collections.abc import Sequence

MIGRATE: tuple[str, ...] = ("-m", "alembic", "upgrade", "head")
# one unit of work at a time: one worker for each GPU
WORKER: tuple[str, ...] = ("-m", "worker")


def api_command(host: str, port: int) -> Sequence[str]:
    """Return the arguments that serve the API on ``host:port``."""
    address = ("--host", host, "--port", str(port))
    return ("-m", "uvicorn", "service.main:create_app", "--factory", *address, "--no-access-log", "--no-server-header")
