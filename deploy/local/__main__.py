"""``python -m deploy.local up``: the whole service on this machine until Ctrl-C."""

import argparse
import sys
import time
from pathlib import Path

from deploy.local.processes import LocalError, signals_as_exceptions
from deploy.local.stack import LocalStack


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The whole service on this machine.")
    up = parser.add_subparsers(dest="command", required=True).add_parser("up", help="start it and stay until Ctrl-C")
    up.add_argument(
        "--workers", type=int, default=1, help="workers, each of which runs one unit at a time (default: 1)"
    )
    up.add_argument("--port", type=int, help="port of the API (default: a free one)")
    up.add_argument("--folder", type=Path, help="keep all data here for the next time (default: throw them away)")
    up.add_argument(
        "--input-root", type=Path, action="append", help="folder of file:// inputs, repeatable (default: this one)"
    )
    return parser.parse_args()


def _print_greeting(stack: LocalStack) -> None:
    print(
        f"""
The service is up; Ctrl-C stops it.

    export DDO_API_URL={stack.url}
    export DDO_API_KEY={stack.api_key}

    curl -H "Authorization: Bearer $DDO_API_KEY" $DDO_API_URL/jobs
    ddo jobs

API documentation: {stack.url}/docs
Logs: {stack.logs}
""",
        flush=True,
    )


def main() -> int:
    """Run the command line; return the exit code."""
    options = _options()
    roots = options.input_root or [Path.cwd()]
    try:
        with signals_as_exceptions():
            stack = LocalStack(num_workers=options.workers, input_roots=roots, folder=options.folder, port=options.port)
            with stack:
                _print_greeting(stack)
                while True:
                    stack.ensure_running()
                    time.sleep(1)
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
