"""Settings of API and worker, from the environment (``DDO_…``). There is no other configuration."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, HttpUrl, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """What a process needs to know about its surroundings. Secrets have no defaults."""

    model_config = SettingsConfigDict(env_prefix="DDO_", frozen=True, extra="ignore")

    database_url: SecretStr = Field(description="postgresql+psycopg://user:password@host:port/database")
    broker_url: SecretStr = Field(description="redis://:password@host:port/0")
    public_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8000"),
        description="Where clients reach the API; base of locally signed URLs.",
    )

    storage_url: str = Field(description="file:///folder or s3://bucket/prefix")
    s3_endpoint_url: str | None = Field(default=None, description="S3-compatible endpoint; None: AWS.")
    s3_public_endpoint_url: str | None = Field(
        default=None, description="Where clients reach the S3 endpoint, for signed URLs; None: s3_endpoint_url."
    )
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = Field(default=None, description="None: boto3's own credential chain.")
    s3_secret_access_key: SecretStr | None = None
    url_signing_key: SecretStr | None = Field(
        default=None, description="HMAC key of locally signed URLs; file:// only."
    )
    download_expiry_seconds: int = Field(default=900, ge=1, le=900)

    input_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="Folders, separated by ':', below which file:// inputs of jobs may lie."
    )
    input_buckets: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Buckets, separated by ':', from which s3:// inputs of jobs may come."
    )
    inception_weights: str | None = Field(
        default=None,
        description="What a job's feature network 'inception' is: a path, file:///… or s3://bucket/key, wherever it "
        "lies; API and workers both read it.",
    )
    trusted_feature_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Worker: SHA-256 of feature networks whose own code may run (TorchScript, torch.export), separated "
        "by ':'.",
    )
    max_input_bytes: int = Field(default=50 * 2**30, ge=1, description="Largest input file that is fetched.")
    max_body_bytes: int = Field(default=256 * 1024, ge=1024, description="Largest request body.")

    lease_seconds: float = Field(default=20.0, gt=0)
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    reconcile_seconds: float = Field(default=5.0, gt=0)
    poll_seconds: float = Field(default=1.0, gt=0, description="Worker: an idle one asks the database this often.")
    stall_seconds: float = Field(default=1800.0, gt=0, description="Worker: an engine silent for so long is ended.")
    max_crashes: int = Field(default=3, ge=1, description="Crashes of a unit without progress that fail it.")

    work_folder: Path = Field(
        default=Path("/tmp/ddo-worker"),  # noqa: S108  (a worker makes its folders there unreadable for others)
        description="Worker: spec, state and files of running units.",
    )
    cache_folder: Path | None = Field(
        default=None, description="Worker: fetched files by SHA-256; None: inside work_folder."
    )
    cache_bytes: int = Field(
        default=200 * 2**30, ge=0, description="Worker: the cache is trimmed to this, oldest use first."
    )
    engine_python: str | None = Field(
        default=None, description="Worker: Python that has torch; None: the worker's own."
    )
    engine_device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+(,\d+)*)?)$", description="Worker: auto, cpu, cuda or cuda:N,M,…."
    )
    processes_per_unit: int = Field(
        default=1, ge=1, description="Worker: processes that do a unit together, each on a GPU of its own."
    )
    shard_weights: bool = Field(
        default=False,
        description="Worker: the processes of a trial hold some rows of the weights each, not all: for models larger "
        "than one GPU.",
    )
    engine_threads: int | None = Field(
        default=None, ge=1, description="Worker: CPU threads of the engine; None: torch's choice."
    )
    grace_seconds: float = Field(default=60.0, gt=0, description="Worker: from SIGTERM to SIGKILL of the engine.")

    log_level: str = "INFO"
    log_format: str = Field(default="json", pattern="^(json|console)$")

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        _, _, named = self.engine_device.partition(":")
        if named and len(named.split(",")) != self.processes_per_unit:
            raise ValueError(
                f"DDO_ENGINE_DEVICE names the GPUs {named}, DDO_PROCESSES_PER_UNIT is {self.processes_per_unit}: name "
                "as many GPUs as there are processes, separated by ','"
            )
        return self

    @model_validator(mode="after")
    def _check_sharding(self) -> Self:
        if self.shard_weights and self.processes_per_unit == 1:
            raise ValueError(
                "DDO_SHARD_WEIGHTS is set and DDO_PROCESSES_PER_UNIT is 1: one process has all weights in any case; "
                "raise DDO_PROCESSES_PER_UNIT, or leave DDO_SHARD_WEIGHTS out"
            )
        return self

    @field_validator("input_roots", "input_buckets", "trusted_feature_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part for part in value.split(":") if part) if isinstance(value, str) else value


@lru_cache
def settings() -> ServiceSettings:
    """Return the process's settings, read once."""
    return ServiceSettings()
