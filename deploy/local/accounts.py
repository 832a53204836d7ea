"""An account without privileges, for servers that refuse to run as root."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Account:
    """A user of this machine."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Return ``postgres`` or else ``nobody`` when running as root; None when we are not root.

    Raises:
        RuntimeError: Root, and neither account exists.
    """
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise RuntimeError("Postgres refuses to run as root, and there is neither an account 'postgres' nor 'nobody'")


def can_execute(path: Path, account: Account | None) -> bool:
    """Say whether ``account`` (None: we ourselves) may execute the file or enter the folder ``path``."""
    if account is None:
        return os.access(path, os.X_OK)
    test = subprocess.run(  # noqa: S603
        ["/usr/bin/test", "-x", str(path)], cwd="/", check=False, user=account.uid, group=account.gid, extra_groups=[]
    )
    return test.returncode == 0


def give_to(path: Path, account: Account | None) -> None:
    """Make ``account`` the owner of ``path``; nothing to do for None."""
    if account is not None:
        os.chown(path, account.uid, account.gid)
