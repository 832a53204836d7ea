"""Command line of the operator: ``python -m service.admin create-key TENANT NAME``."""

import argparse
import sys
from collections.abc import Sequence

from service.auth import create_key, revoke_keys
from service.database import create_database_engine, create_session_factory
from service.settings import settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.admin", description="Manage API keys (DDO_DATABASE_URL).")
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create-key", help="create a key and print it; it is never shown again")
    create.add_argument("tenant", help="name of the tenant; created if it is new")
    create.add_argument("name", help="what the key is for")
    revoke = commands.add_parser("revoke-key", help="revoke a key at once")
    revoke.add_argument("key", help="the key's id (key_…) or its first 12 characters (ddo_…)")
    options = parser.parse_args(arguments)

    engine = create_database_engine(settings(), pool_size=1)
    try:
        with create_session_factory(engine).begin() as session:
            if options.command == "create-key":
                told = [create_key(session, tenant=options.tenant, name=options.name)]
            else:
                told = revoke_keys(session, options.key)
    finally:
        engine.dispose()
    for line in told:  # only now is it committed
        print(line)
    if not told:
        print("no such key, or it is revoked already", file=sys.stderr)
    return 0 if told else 1


if __name__ == "__main__":
    raise SystemExit(main())
