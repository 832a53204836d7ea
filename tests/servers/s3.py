"""Starts the S3 endpoint of ``swift_one_process.py``."""

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import TYPE_CHECKING, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deploy.local.processes import LocalError, Process, start_on_free_port

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ROOT = Path(__file__).parents[2]


def _swift_python() -> Path:
    python = Path(os.environ.get("DDO_SWIFT_PYTHON", _ROOT / ".venv-swift" / "bin" / "python"))
    if not python.exists():
        raise LocalError(f"the tests' S3 server needs {python}: run `make .venv-swift/.installed`")
    return python


@dataclass(frozen=True)
class Bucket:
    """Where objects go, and as whom."""

    name: str
    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    region: str = "us-east-1"

    def client(self) -> "S3Client":
        """Return a boto3 client of the endpoint."""
        return boto3.session.Session(self.access_key_id, self.secret_access_key, region_name=self.region).client(
            "s3",
            endpoint_url=self.endpoint_url,
            config=Config(
                signature_version="s3v4",
                retries={"total_max_attempts": 1},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path"},
            ),
        )

    def environment(self, prefix: str = "store") -> dict[str, str]:
        """Return the settings of API and worker that put their objects under ``prefix``."""
        return {
            "DDO_STORAGE_URL": f"s3://{self.name}/{prefix}",
            "DDO_S3_ENDPOINT_URL": self.endpoint_url,
            "DDO_S3_REGION": self.region,
            "DDO_S3_ACCESS_KEY_ID": self.access_key_id,
            "DDO_S3_SECRET_ACCESS_KEY": self.secret_access_key,
        }


class SwiftServer:
    """Swift on a free port, with one account and a random secret. Its data survive ``stop`` and kills."""

    access_key_id = "ddo:tests"

    def __init__(self) -> None:
        """Prepare it; start it with ``start`` or ``with``."""
        self._python = _swift_python()
        self._folder = Path(mkdtemp(prefix="ddo-swift-"))
        self.secret_access_key = secrets.token_urlsafe(24)
        self.port = 0
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The running server."""
        assert self._process, "not started"
        return self._process

    @property
    def endpoint_url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, on its old port if it had one."""
        self.stop()
        if self.port:
            self._process = self._spawn(self.port)
            self._process.wait_until(lambda: self._answers(self.port), 60)
        else:
            self._process, self.port = start_on_free_port(self._spawn, self._answers, timeout_seconds=60)

    def _spawn(self, port: int) -> Process:
        script = Path(__file__).with_name("swift_one_process.py")
        return Process(
            "swift",
            [self._python, "-W", "ignore", script, self._folder, str(port), self.access_key_id],
            log=self._folder / "swift.log",
            env={"PATH": "/usr/bin:/bin", "SWIFT_SECRET": self.secret_access_key},
            grace_seconds=0.5,
        )

    def _answers(self, port: int) -> bool:
        probe = Bucket("", f"http://127.0.0.1:{port}", self.access_key_id, self.secret_access_key)
        try:
            probe.client().list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    def bucket(self, name: str) -> Bucket:
        """Create a bucket."""
        bucket = Bucket(name, self.endpoint_url, self.access_key_id, self.secret_access_key)
        bucket.client().create_bucket(Bucket=name)
        return bucket

    def stop(self) -> None:
        """Stop the server; its data stay."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def close(self) -> None:
        """Stop the server and remove its data."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
