"""What the containers run, the local stack and the tests run too: these commands, after ``python``."""

from collections.abc import Sequence

MIGRATE: tuple[str, ...] = ("-m", "alembic", "upgrade", "head")


def api_command(host: str, port: int) -> Sequence[str]:
    """Return the arguments that serve the API on ``host:port``."""
    address = ("--host", host, "--port", str(port))
    return ("-m", "uvicorn", "service.main:create_app", "--factory", *address, "--no-access-log", "--no-server-header")


def worker_command(name: str) -> Sequence[str]:
    """Return the arguments of a worker; one of them does one unit of work at a time, so: one for each GPU.

    Args:
        name: Its name among the workers, ``%h`` for the host's.
    """
    return ("-m", "celery", "-A", "worker.app", "worker", "--concurrency", "1", "--hostname", f"{name}@%h")
