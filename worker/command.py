"""How the engine is started: its command line and its environment."""

import math
import os
import sys
from pathlib import Path

import ddo_engine.spec as contract
from ddo_engine.spec import TRUSTED_FEATURE_NETWORKS
from service.settings import ServiceSettings
from service.statuses import UnitKind

COMMANDS = {
    UnitKind.VALIDATE: "validate",
    UnitKind.BASELINE: "evaluate",
    UnitKind.REFERENCE: "generate",
    UnitKind.TRIAL: "train",
    UnitKind.CONFIRM: "evaluate",
    UnitKind.BASELINE_TRIAL: "train",
    UnitKind.BASELINE_EVALUATION: "evaluate",
    UnitKind.BASELINE_DISCRIMINATOR: "discriminator",
}
# What the engine does in several processes; the rest is done by one.
_SHARED = {"train", "generate", "evaluate"}
# The engine reads files of strangers; it is told no secret and finds no credentials.
_SECRET_PREFIXES = ("DDO_", "AWS_")


def engine_command(settings: ServiceSettings, kind: UnitKind, spec: Path, workdir: Path, cache: Path) -> list[str]:
    """Return the engine's command line, program first: under torchrun, where several processes do the unit."""
    command = [settings.engine_python or sys.executable]
    if settings.processes_per_unit > 1 and COMMANDS[kind] in _SHARED:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(settings.processes_per_unit)]
    command += ["-m", "ddo_engine", COMMANDS[kind], str(spec), "--workdir", str(workdir), "--cache", str(cache)]
    command += ["--device", settings.engine_device.split(":")[0]]
    if settings.shard_weights and COMMANDS[kind] == "train":
        command.append("--shard-weights")
    if settings.engine_threads is not None:
        command += ["--threads", str(settings.engine_threads)]
    return command


def engine_environment(settings: ServiceSettings, temporary: Path) -> dict[str, str]:
    """Return the engine's environment: ours without secrets.

    ``cuda:N,M`` become the only GPUs that the engine sees.

    Args:
        settings: The worker's.
        temporary: Folder for temporary files, which goes with the attempt; importing torch's optimizers writes some.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET_PREFIXES)}
    environment["TMPDIR"] = str(temporary)
    if settings.trusted_feature_networks:
        environment[TRUSTED_FEATURE_NETWORKS] = ":".join(settings.trusted_feature_networks)
    # Torchrun ends what has not ended so long after it was asked to; it is we who know how long a state may take.
    environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(math.ceil(settings.grace_seconds))
    _, _, gpus = settings.engine_device.partition(":")
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    if settings.engine_python is None:
        # the engine runs in a folder of its own, and this package may not be installed but lie in ours
        own = str(Path(contract.__path__[0]).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [own, environment.get("PYTHONPATH")]))
    return environment
