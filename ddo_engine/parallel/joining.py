"""From processes that torchrun started to :class:`ddo_engine.parallel.ranks.Ranks`, and their end."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from ddo_engine.errors import EngineError, InvalidSpec, ProcessLost
from ddo_engine.interruption import StopRequest
from ddo_engine.parallel.launch import Launch
from ddo_engine.parallel.peers import watch_peers
from ddo_engine.parallel.ranks import ALONE, Ranks

# One process may read a large dataset while the others wait for it. That it lives is seen by other means.
_LONGEST_WAIT = timedelta(days=2)
_LOOK_SECONDS = 0.02


class ToldError(EngineError):
    """What another process failed of, in its words."""

    def __init__(self, told: str) -> None:
        content = json.loads(told)
        super().__init__(content["message"], param=content["param"])
        self.code = content["code"]  # type: ignore[misc]  # of the class elsewhere: here there is one class for all
        self.exit_status = content["exit_status"]  # type: ignore[misc]


@contextmanager
def joined(launch: Launch, device: torch.device, stop: StopRequest) -> Iterator[Ranks]:
    """Bring the processes of a run together for a block.

    Args:
        launch: Which of them this is.
        device: Where its network runs.
        stop: Looked at while others have not come yet.

    Raises:
        EngineError: Of the block; in the process that leads also the one that another process left for.
        Interrupted: A stop was requested before all had come.
        ProcessLost: Another process died.
    """
    if launch.size == 1:
        yield ALONE
        return
    # All are on this machine: its name need not resolve, and nobody else can connect.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store, _, _ = next(rendezvous("env://", timeout=_LONGEST_WAIT))
    try:
        _meet(store, launch, stop)
        ranks = _make_groups(store, launch, device)
        yield ranks
        ranks.wait()
    except ProcessLost as error:
        told = [name for rank in range(launch.size) if store.check([name := f"failure/{rank}"])]
        if launch.leads and told:
            raise ToldError(store.get(told[0]).decode()) from error
        raise
    except EngineError as error:
        _tell(store, launch, error)
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _tell(store, launch, EngineError(f"process {launch.rank} failed unexpectedly ({reason})"))
        raise
    finally:
        with suppress(RuntimeError):  # whoever holds the store is gone
            store.set(f"ended/{launch.rank}", "")


def device_of(launch: Launch, device: torch.device) -> torch.device:
    """Return the device of one of several processes: each has a GPU of its own.

    Raises:
        InvalidSpec: There are fewer GPUs than processes.
    """
    if launch.size == 1 or device.type != "cuda":
        return device
    if torch.cuda.device_count() < launch.size:
        raise InvalidSpec(
            f"{launch.size} processes need a GPU each, torch sees {torch.cuda.device_count()}: start fewer, or give "
            "--device cpu",
            param="device",
        )
    own = torch.device("cuda", launch.rank)
    torch.cuda.set_device(own)
    return own


def _meet(store: Store, launch: Launch, stop: StopRequest) -> None:
    """Wait for the others, and watch them from then on."""
    store.set(f"pid/{launch.rank}", str(os.getpid()))
    names = [f"pid/{rank}" for rank in range(launch.size)]
    while not store.check(names):
        stop.check()
        time.sleep(_LOOK_SECONDS)
    pids = {rank: int(store.get(name)) for rank, name in enumerate(names) if rank != launch.rank}
    own_store = store.clone()  # type: ignore[attr-defined]  # a connection of its own, for the thread
    try:
        watch_peers(pids, partial(_has_ended, own_store))
    except ProcessLookupError as error:
        raise ProcessLost("another process of this run has ended") from error


def _has_ended(store: Store, rank: int) -> bool:
    try:
        return bool(store.check([f"ended/{rank}"]))
    except RuntimeError:  # the store is gone, and so is whoever started us
        return False


def _make_groups(store: Store, launch: Launch, device: torch.device) -> Ranks:
    try:
        dist.init_process_group(
            "gloo" if device.type == "cpu" else "nccl",
            store=PrefixStore("groups", store),
            rank=launch.rank,
            world_size=launch.size,
            timeout=_LONGEST_WAIT,
            device_id=None if device.type == "cpu" else device,
        )
        data = dist.group.WORLD
        control = data if device.type == "cpu" else dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ProcessLost(f"the processes of this run did not find each other ({reason})") from error
    return Ranks(launch.rank, launch.size, control, data)


def _tell(store: Store, launch: Launch, error: EngineError) -> None:
    told = {"code": error.code, "message": error.message, "param": error.param, "exit_status": error.exit_status}
    with suppress(RuntimeError):
        store.set(f"failure/{launch.rank}", json.dumps(told))
