"""The layout of NVlabs' network pickles, EDM's and EDM2's: objects by class name and state, tensors below ``ema``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ddo_engine.conversion.byte_source import ByteSource, Region
from ddo_engine.conversion.inert_objects import Budget, InertObject
from ddo_engine.conversion.inert_pickle import InertUnpickler
from ddo_engine.conversion.official_globals import (
    ARRAYS,
    MODULE_DICT,
    NVLABS_GLOBALS,
    PERSISTENT_OBJECT,
    SCALARS,
    STORAGE,
    STORAGE_GLOBALS,
)
from ddo_engine.conversion.plain_values import PlainReader
from ddo_engine.conversion.refusal import damaged
from ddo_engine.conversion.tensor_records import MAX_TENSORS, FindStorage, locate_tensors
from ddo_engine.conversion.torch_stream import Storage, read_torch_stream
from ddo_engine.stored_tensor import StoredTensor

_MAX_DEPTH = 32
_MAX_NAME_LENGTH = 1024


@dataclass(frozen=True)
class PersistentObject:
    """An object of NVlabs' persistent classes.

    Attributes:
        class_name: As in the official code.
        keyword_arguments: Of its constructor.
        positional_arguments: Of its constructor.
        attributes: Those that are plain values, by name.
    """

    class_name: str
    keyword_arguments: dict[str, Any]
    positional_arguments: list[Any]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class NVlabsPickle:
    """What a network pickle holds of use.

    Attributes:
        network: The averaged network, ``ema``.
        inner_class_names: Class names of its direct children, by attribute.
        tensors: Its state dict.
        dataset_kwargs: How its training set was opened.
        encoder: What maps pixels to what the network denoises; None in EDM's pickles.
    """

    network: PersistentObject
    inner_class_names: dict[str, str]
    tensors: Mapping[str, StoredTensor]
    dataset_kwargs: dict[str, Any] = field(default_factory=dict)
    encoder: PersistentObject | None = None


def read_nvlabs_pickle(path: Path) -> NVlabsPickle:
    """Read a network pickle; nothing in it is run.

    Raises:
        CorruptCheckpoint: It is damaged, of another layout, or mentions what official pickles do not.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        source = ByteSource(file, Region(0, size), path.name)
        budget = Budget()
        top = InertUnpickler(source, NVLABS_GLOBALS, budget).load()
        if source.remaining:
            raise source.refuse(f"it has {source.remaining} bytes after its end")
        if not isinstance(top, dict) or "ema" not in top:
            raise damaged(path.name, "it is a pickle without an 'ema' network, so it is no EDM or EDM2 checkpoint")
        reader = PlainReader(source)
        encoder = top.get("encoder")
        return NVlabsPickle(
            network=_persistent(top["ema"], "ema", reader, path),
            inner_class_names=_class_names(top["ema"]),
            tensors=locate_tensors(_state_dict(top["ema"], path), path, _storage_finder(source, budget)),
            dataset_kwargs=reader.plain(top.get("dataset_kwargs") or {}),
            encoder=None if encoder is None else _persistent(encoder, "encoder", reader, path),
        )


def _storage_finder(source: ByteSource, budget: Budget) -> FindStorage:
    def find_storage(record: Any) -> Storage:
        if not isinstance(record, InertObject) or record.kind != STORAGE or len(record.arguments) != 1:
            raise source.refuse("it has a tensor without storage")
        if not isinstance(record.arguments[0], Region):
            raise source.refuse("it has a storage without bytes")
        inner = source.inside(record.arguments[0])
        value, storages = read_torch_stream(inner, STORAGE_GLOBALS, budget)
        if len(storages) != 1 or not hasattr(value, "value"):
            raise inner.refuse("it has a storage that is not one storage")
        return next(iter(storages.values()))

    return find_storage


def _meta(value: Any) -> Mapping[str, Any] | None:
    """Return what a persistent object's record says, or None if it is none."""
    if not isinstance(value, InertObject) or value.kind != PERSISTENT_OBJECT or len(value.arguments) != 1:
        return None
    meta = value.arguments[0]
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        return None
    return meta if isinstance(meta.get("state"), dict) else None


def _persistent(value: Any, role: str, reader: PlainReader, path: Path) -> PersistentObject:
    meta = _meta(value)
    if meta is None:
        raise damaged(path.name, f"its {role!r} is not an object as NVlabs' code stores it")
    state = meta["state"]
    keyword_arguments, positional_arguments = state.get("_init_kwargs", {}), state.get("_init_args", ())
    if not isinstance(keyword_arguments, dict) or not isinstance(positional_arguments, tuple | list):
        raise damaged(path.name, f"its {role!r} does not say how it was constructed")
    return PersistentObject(
        class_name=meta["class_name"],
        keyword_arguments={key: _argument(item, reader) for key, item in keyword_arguments.items()},
        positional_arguments=[_argument(item, reader) for item in positional_arguments],
        attributes={key: _argument(item, reader) for key, item in state.items() if _is_fact(key, item)},
    )


def _is_fact(key: Any, value: Any) -> bool:
    """Say whether an attribute is a number, a text or an array, rather than part of the machinery of modules."""
    plain = isinstance(value, int | float | str) or (isinstance(value, InertObject) and value.kind in SCALARS + ARRAYS)
    return isinstance(key, str) and not key.startswith("_") and plain


def _argument(value: Any, reader: PlainReader) -> Any:
    # EDM's sigma_max is infinite by default; JSON has no infinity.
    return "inf" if value == float("inf") else reader.plain(value)


def _class_names(value: Any) -> dict[str, str]:
    state = (_meta(value) or {}).get("state", {})
    children = state.get("_modules") if isinstance(state, dict) else None
    metas = {name: _meta(child) for name, child in children.items()} if isinstance(children, dict) else {}
    return {name: meta["class_name"] for name, meta in metas.items() if meta is not None}


def _state_dict(network: Any, path: Path) -> dict[str, Any]:
    """Return the records of a network's parameters and persistent buffers, named and ordered as torch does."""
    records: dict[str, Any] = {}
    seen: set[int] = set()

    def walk(module: Any, prefix: str, depth: int) -> None:
        meta = _meta(module)
        is_module_dict = isinstance(module, InertObject) and module.kind == MODULE_DICT
        state = module.state if is_module_dict else meta and meta["state"]
        where = prefix.rstrip(".")[:200] or "ema"
        if not isinstance(state, dict) or id(module) in seen or depth > _MAX_DEPTH:
            raise damaged(path.name, f"{where} is not a module, is one twice, or lies very deep")
        seen.add(id(module))
        parameters, buffers, modules, hidden = (
            state.get(name, empty)
            for name, empty in (
                ("_parameters", {}),
                ("_buffers", {}),
                ("_modules", {}),
                ("_non_persistent_buffers_set", set()),
            )
        )
        if not all(isinstance(part, dict) for part in (parameters, buffers, modules)) or not isinstance(hidden, set):
            raise damaged(path.name, f"{where} is not a module as torch has them")
        own = {**parameters, **{name: value for name, value in buffers.items() if name not in hidden}}
        # Modules may share their dictionaries and repeat a long name, so that a small file describes a huge network.
        if len(records) + len(own) > MAX_TENSORS:
            raise damaged(path.name, f"its network has more than {MAX_TENSORS} tensors")
        if any(len(prefix) + len(name) > _MAX_NAME_LENGTH for name in (*own, *modules)):
            raise damaged(path.name, f"a part of {where} has a name of more than {_MAX_NAME_LENGTH} characters")
        records.update({f"{prefix}{name}": record for name, record in own.items() if record is not None})
        for name, child in modules.items():
            if child is not None:
                walk(child, f"{prefix}{name}.", depth + 1)

    walk(network, "", 0)
    return records
