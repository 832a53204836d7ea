"""``python -m worker``: a Celery worker without the features that nothing here uses."""

from worker.app import app


def main() -> None:
    """Run until SIGTERM."""
    app.worker_main(["--quiet", "worker", "--without-gossip", "--without-mingle", "--without-heartbeat"])


if __name__ == "__main__":
    main()
