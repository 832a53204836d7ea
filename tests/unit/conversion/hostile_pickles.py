"""Over two hundred files that look like official ones and are not: each by a name that says what is wrong with it."""

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch

from ddo_engine.families import get_family
from tests.official_pickles import Persistent, dumped, edm_file, module_state, network

ARGUMENTS = {
    "img_resolution": 4,
    "img_channels": 1,
    "label_dim": 0,
    "model_type": "SongUNet",
    "model_channels": 4,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
}
BIAS = "model.map_layer0.bias"
MAGIC = 0x1950A86A20F9469CFC6C
DANGEROUS = """os system|posix system|nt system|subprocess Popen|subprocess call|builtins eval|builtins exec
builtins open|builtins __import__|builtins getattr|builtins compile|builtins setattr
__builtin__ eval|importlib import_module|runpy _run_code|code InteractiveInterpreter|pty spawn
shutil rmtree|socket create_connection|ctypes CDLL|pickle loads|_pickle loads|torch load
torch.hub load|torch.jit load|torch._utils _rebuild_sparse_tensor
torch._utils _rebuild_parameter_with_state|torch.serialization load|numpy load
numpy.core.multiarray scalar.__call__|collections OrderedDict.fromkeys|collections Counter
collections defaultdict|functools partial|operator attrgetter|dnnlib.util open_url
torch_utils.persistence _module_to_src|torch.nn.modules.container Sequential|types CodeType
builtins map|webbrowser open|multiprocessing.util spawnv_passfds|sys exit|pathlib Path""".replace("\n", "|").split("|")


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class _Dtype:
    """Pickles as a dtype of numpy whose name is anything."""

    def __init__(self, name: Any) -> None:
        self.name = name

    def __reduce__(self):
        return np.dtype, (self.name, False, True), (3, "<", None, None, None, -1, -1, 0)


class _Storage:
    """Pickles as a persistent id."""

    def __init__(self, *identifier: Any) -> None:
        self.identifier = identifier


class _StoragePickler(pickle.Pickler):
    def persistent_id(self, obj):
        return obj.identifier if isinstance(obj, _Storage) else None


@cache
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = get_family("edm").build({"class_name": "EDMPrecond", **ARGUMENTS})
    return {name: torch.randn_like(weight) for name, weight in model.state_dict().items()}


@cache
def good() -> bytes:
    return edm_file(ARGUMENTS, weights())


def stream(
    *,
    magic: Any = MAGIC,
    version: Any = 1001,
    little: Any = True,
    value: Any = None,
    keys: Any = ("0",),
    count: int = 16,
    data: bytes = bytes(64),
    end: bytes = b"",
) -> bytes:
    """A storage of 16 floats as torch writes it, or not quite."""
    file = io.BytesIO()
    for part in (magic, version, {"protocol_version": 1001, "little_endian": little}):
        pickle.dump(part, file, protocol=2)
    stored = value or _Storage("storage", torch.FloatStorage, "0", "cpu", 16, None)
    _StoragePickler(file, protocol=2).dump(stored)
    pickle.dump(list(keys), file, protocol=2)
    return file.getvalue() + struct.pack("<q", count) + data + end


def tensor(storage: Any = None, offset: Any = 0, shape: Any = (16,), strides: Any = (1,), *rest: Any) -> Call:
    """The bias of 16 floats as torch writes it, or not quite."""
    storage = Call(torch.storage._load_from_bytes, stream()) if storage is None else storage
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, OrderedDict(), *rest)


def with_bias(value: Any) -> bytes:
    return edm_file(ARGUMENTS, {**weights(), BIAS: value})


def hostile_files(canary: str) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents. What would run creates the file ``canary``."""
    command = f"touch {canary}"
    content = good()
    for index in range(60):
        yield f"truncated-{index}", content[: len(content) * index // 60]
    yield "truncated-last-byte", content[:-1]
    yield "bytes-after-the-end", content + b"more"
    yield from _other_globals(command)
    yield from _sizes(content)
    yield from _bombs()
    yield from _operations(command)
    yield from _tensors()
    yield from _streams()
    yield from _layouts()
    yield from _configurations()


def _other_globals(command: str) -> Iterator[tuple[str, bytes]]:
    argument = b"X" + struct.pack("<I", len(command)) + command.encode()
    for entry in DANGEROUS:
        module, name = (part.encode() for part in entry.split(" "))
        short = b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93"
        lines = b"c" + module + b"\n" + name + b"\n"
        yield f"calls-{entry}", b"\x80\x04" + short + argument + b"\x85R."
        yield f"calls-old-style-{entry}", b"\x80\x02" + lines + argument + b"\x85R."
    short = b"\x8c\x05posix\x8c\x06system\x93" + argument + b"\x85R"
    yield "hides-a-call-before-the-object", b"\x80\x04" + short + b"0" + good()[2:]
    yield (
        "hides-a-call-in-a-storage",
        with_bias(tensor(Call(torch.storage._load_from_bytes, b"\x80\x02" + short + b"0" + stream()[2:]))),
    )
    yield (
        "a-class-instead-of-a-storage",
        with_bias(tensor(Call(torch.storage._load_from_bytes, stream(value=OrderedDict)))),
    )
    yield "global-with-a-long-name", b"\x80\x02c" + b"a" * 10_000 + b"\nb\n."
    yield "global-without-end", b"\x80\x02ctorch"
    yield "global-of-a-number", b"\x80\x04K\x01K\x02\x93."
    yield "global-of-a-list", b"\x80\x04]]\x93."


def _sizes(content: bytes) -> Iterator[tuple[str, bytes]]:
    for name, code, layout in (
        ("bytes", b"B", "<I"),
        ("long-bytes", b"\x8e", "<Q"),
        ("text", b"X", "<I"),
        ("long-text", b"\x8d", "<Q"),
        ("array", b"\x96", "<Q"),
        ("frame", b"\x95", "<Q"),
        ("integer", b"\x8b", "<I"),
    ):
        for size in (2**31 - 1, 2 ** (8 * struct.calcsize(layout)) - 1):
            yield f"promises-{size}-of-{name}", b"\x80\x04" + code + struct.pack(layout, size) + content
    yield "integer-of-255-bytes", b"\x80\x04\x8a\xff" + bytes(255) + b"."
    yield "text-for-ever", b"\x80\x04" + (b"X" + struct.pack("<I", 1 << 20) + bytes(1 << 20) + b"0") * 40 + b"N."
    yield "protocol-from-the-future", b"\x80\x09" + content[2:]


def _bombs() -> Iterator[tuple[str, bytes]]:
    yield "deep-tuples", b"\x80\x04)" + b"\x85" * 900_000 + b"."
    yield "deep-tuples-beyond-the-budget", b"\x80\x04)" + b"\x85" * 3_000_000 + b"."
    yield "deep-lists", b"\x80\x04" + b"]" * 400_000 + b"a" * 399_999 + b"."
    yield "marks-for-ever", b"\x80\x04" + b"(" * 3_000_000
    yield "sets-for-ever", b"\x80\x04" + b"\x8f0" * 2_000_000 + b"."
    yield "memo-for-ever", b"\x80\x04N" + b"\x94" * 3_000_000 + b"."
    yield "memo-at-a-large-index", b"\x80\x04Nr\xff\xff\xff\xff."
    yield "memo-that-is-empty", b"\x80\x04h\x07."
    laugh = b"]\x94" + b"".join(
        b"]\x94(" + b"h" + bytes([index]) + b"h" + bytes([index]) + b"e" for index in range(100)
    )
    yield "billion-laughs", b"\x80\x04}X\x03\x00\x00\x00ema" + laugh.replace(b"(", b"(") + b"s."
    yield "billion-laughs-as-configuration", _with_configuration(_laughs())
    tuples = b")\x94" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(100))
    yield "key-whose-hash-takes-for-ever", b"\x80\x04}" + tuples + b"Ns."
    yield "member-whose-hash-takes-for-ever", b"\x80\x04\x8f(" + tuples + b"\x90."
    colliding = b"".join(b"\x8a\x10" + (index * (2**61 - 1)).to_bytes(16, "little") + b"N" for index in range(100_000))
    yield "keys-of-one-hash", b"\x80\x04}(" + colliding + b"u."
    yield "list-in-itself", b"\x80\x04]\x94h\x00a."
    scalar = np.float64(1).__reduce__()[0]
    yield "billion-laughs-as-dtype", _with_configuration(Call(scalar, _Dtype(_laughs()), bytes(8)))
    keys = stream(keys=_laughs())
    yield "billion-laughs-as-keys", with_bias(tensor(Call(torch.storage._load_from_bytes, keys)))
    yield "billion-laughs-as-keys-of-a-file", keys
    yield "modules-that-share-tensors", _with_modules({f"{index}": 5000 for index in range(5000)})
    yield "module-of-a-long-name", _with_modules({"m" * 2**20: 5000})


def _with_modules(sizes: dict[str, int]) -> bytes:
    """A network of modules of so many tensors, which are the same in all of them."""
    shared = {f"{index}": 0 for index in range(max(sizes.values()))}
    modules = {name: Persistent("Block", module_state(_parameters=shared)) for name in sizes}
    root = Persistent("EDMPrecond", module_state(_init_kwargs=ARGUMENTS, _modules=modules))
    return dumped({"ema": root})


def _laughs() -> list[Any]:
    value: list[Any] = ["ha"]
    for _ in range(60):
        value = [value, value]
    return value


def _with_configuration(value: Any) -> bytes:
    return edm_file({**ARGUMENTS, "channel_mult": value}, weights())


def _operations(command: str) -> Iterator[tuple[str, bytes]]:
    text = b"\x8c\x06string"
    yield "calls-a-text", b"\x80\x04" + text + b")R."
    yield "calls-a-number", b"\x80\x04K\x01)R."
    yield "calls-a-dictionary", b"\x80\x04})R."
    yield "calls-with-a-list", b"\x80\x04ccollections\nOrderedDict\n]R."
    yield "calls-with-arguments", b"\x80\x04ccollections\nOrderedDict\n](N)\x86a\x85R."
    yield "calls-what-is-not-called", b"\x80\x04ctorch.nn.modules.container\nModuleDict\n)R."
    yield "calls-the-result-of-a-call", b"\x80\x04ccollections\nOrderedDict\n)R)R."
    yield "makes-what-is-not-a-class", b"\x80\x04ctorch.storage\n_load_from_bytes\n)\x81."
    yield "makes-with-keywords", b"\x80\x04cdnnlib.util\nEasyDict\n)}\x92."
    yield "state-of-a-text", b"\x80\x04" + text + b"}b."
    yield "state-of-a-dictionary", b"\x80\x04}}b."
    yield "state-of-a-function", b"\x80\x04ctorch.storage\n_load_from_bytes\n}b."
    yield "state-twice", b"\x80\x04ctorch.nn.modules.container\nModuleDict\n)\x81}b}b."
    yield "persistent-id", b"\x80\x04K\x01Q."
    yield "persistent-id-as-text", b"\x80\x04P1\n."
    yield "instance-old-style", b"(S'" + command.encode() + b"'\nios\nsystem\n."
    yield "instance-old-style-in-protocol-4", b"\x80\x04(X\x02\x00\x00\x00lsios\nsystem\n."
    yield "object-old-style", b"\x80\x04(cos\nsystem\nX\x02\x00\x00\x00lso."
    yield "extension", b"\x80\x04\x82\x01."
    yield "buffer-from-outside", b"\x80\x05\x97."
    yield "text-evaluated-by-old-protocols", b"\x80\x04S'text'\n."
    yield "operation-that-does-not-exist", b"\x80\x04\xff."
    yield "append-to-a-number", b"\x80\x04K\x01Na."
    yield "items-of-a-number", b"\x80\x04K\x01NNs."
    yield "items-that-are-odd", b"\x80\x04}(Nu."
    yield "members-of-a-list", b"\x80\x04](N\x90."
    yield "pop-of-nothing", b"\x80\x040."
    yield "tuple-across-a-mark", b"\x80\x04N(\x85."
    yield "mark-without-end", b"\x80\x04(N."
    yield "mark-that-is-missing", b"\x80\x04Nt."
    yield "two-objects", b"\x80\x04NN."
    yield "no-object", b"\x80\x04."
    yield "text-that-is-no-unicode", b"\x80\x04\x8c\x02\xff\xfe."
    yield "float-cut-short", b"\x80\x04G\x00\x00."


def _tensors() -> Iterator[tuple[str, bytes]]:
    for name, arguments in {
        "stride-zero": (None, 0, (16,), (0,)),
        "stride-negative": (None, 15, (16,), (-1,)),
        "stride-too-long": (None, 0, (16,), (2,)),
        "stride-of-a-power": (None, 0, (16,), (2**62,)),
        "strides-overlap": (None, 0, (4, 4), (2, 1)),
        "strides-too-few": (None, 0, (4, 4), (1,)),
        "strides-are-a-list": (None, 0, (16,), [1]),
        "strides-are-text": (None, 0, (16,), ("1",)),
        "stride-is-true": (None, 0, (16,), (True,)),
        "offset-negative": (None, -4, (16,), (1,)),
        "offset-beyond": (None, 1, (16,), (1,)),
        "offset-far-beyond": (None, 2**50, (16,), (1,)),
        "offset-beyond-all-numbers": (None, 2**100, (16,), (1,)),
        "offset-is-none": (None, None, (16,), (1,)),
        "size-negative": (None, 0, (-16,), (1,)),
        "size-too-large": (None, 0, (17,), (1,)),
        "size-far-too-large": (None, 0, (2**60,), (1,)),
        "size-of-many-dimensions": (None, 0, (1,) * 500 + (16,), (1,) * 501),
        "size-overflows": (None, 0, (2**40, 2**40), (2**40, 1)),
        "size-is-none": (None, 0, None, (1,)),
        "size-is-a-float": (None, 0, (16.0,), (1,)),
        "one-element-expanded": (None, 0, (4, 4), (0, 0)),
        "storage-is-none": ([None], 0, (16,), (1,)),
        "storage-is-bytes": (b"bytes", 0, (16,), (1,)),
        "too-many-arguments": (None, 0, (16,), (1,), None, None, None),
        "other-shape": (None, 0, (4, 4), (4, 1)),
    }.items():
        yield f"tensor-{name}", with_bias(tensor(*arguments))
    shared = Call(torch.storage._load_from_bytes, stream())
    same = {**weights(), BIAS: tensor(shared), "model.map_layer1.bias": tensor(shared)}
    yield "tensors-share-a-storage", edm_file(ARGUMENTS, same)
    halves = {**weights(), BIAS: tensor(shared), "model.map_layer1.bias": tensor(shared, 8, (8,), (1,))}
    yield "tensors-overlap", edm_file(ARGUMENTS, halves)
    one = tensor()
    yield "tensor-twice", edm_file(ARGUMENTS, {**weights(), BIAS: one, "model.map_layer1.bias": one})
    yield "tensor-is-text", with_bias("weights")
    yield "tensor-is-a-network", with_bias(network("EDMPrecond", {}, {}))
    yield (
        "tensor-in-a-parameter-in-a-parameter",
        with_bias(
            Call(torch._utils._rebuild_parameter, Call(torch._utils._rebuild_parameter, tensor(), False, {}), False, {})
        ),
    )
    yield "parameter-of-nothing", with_bias(Call(torch._utils._rebuild_parameter))
    yield "tensor-that-is-not-finite", with_bias(weights()[BIAS] + float("nan"))
    yield "tensor-of-integers", with_bias(Call(torch._utils._rebuild_tensor_v2, Call(
        torch.storage._load_from_bytes, stream(value=_Storage("storage", torch.IntStorage, "0", "cpu", 16, None))
    ), 0, (16,), (1,), False, OrderedDict()))  # fmt: skip


def _streams() -> Iterator[tuple[str, bytes]]:
    def storage(*identifier: Any) -> dict[str, Any]:
        return {"value": _Storage(*identifier)}

    kind = torch.FloatStorage
    for name, change in {
        "other-magic": {"magic": 7},
        "other-version": {"version": 1002},
        "magic-is-text": {"magic": "magic"},
        "big-endian": {"little": False},
        "endian-is-text": {"little": "yes"},
        "no-keys": {"keys": ()},
        "other-key": {"keys": ("1",)},
        "two-keys": {"keys": ("0", "0")},
        "key-is-a-number": {"keys": (0,)},
        "other-count": {"count": 15},
        "count-negative": {"count": -16},
        "count-huge": {"count": 2**62},
        "data-too-short": {"data": bytes(60)},
        "data-too-long": {"end": b"more"},
        "object-is-a-number": {"value": 3},
        "id-of-another-kind": storage("module", kind, "0", "cpu", 16, None),
        "id-too-short": storage("storage", kind, "0", "cpu"),
        "id-too-long": storage("storage", kind, "0", "cpu", 16, None, None),
        "id-with-a-view": storage("storage", kind, "0", "cpu", 16, ("0", 0, 16)),
        "id-with-a-huge-number": storage("storage", kind, "0", "cpu", 2**62, None),
        "id-with-a-negative-number": storage("storage", kind, "0", "cpu", -16, None),
        "id-with-a-key-that-is-a-number": storage("storage", kind, 0, "cpu", 16, None),
        "id-with-a-list-as-key": storage("storage", kind, ["0"], "cpu", 16, None),
        "id-with-text-as-kind": storage("storage", "torch.FloatStorage", "0", "cpu", 16, None),
        "id-of-quantised-numbers": storage("storage", torch.QInt8Storage, "0", "cpu", 16, None),
        "id-of-complex-numbers": storage("storage", torch.ComplexFloatStorage, "0", "cpu", 16, None),
        "id-of-a-function": storage("storage", print, "0", "cpu", 16, None),
    }.items():
        yield f"storage-{name}", with_bias(tensor(Call(torch.storage._load_from_bytes, stream(**change))))
    yield "storage-is-empty", with_bias(tensor(Call(torch.storage._load_from_bytes, b"")))
    yield "storage-is-a-number", with_bias(tensor(Call(torch.storage._load_from_bytes, 7)))
    yield "storage-of-two-arguments", with_bias(tensor(Call(torch.storage._load_from_bytes, stream(), stream())))


def _layouts() -> Iterator[tuple[str, bytes]]:
    plain = network("EDMPrecond", ARGUMENTS, weights())
    for name, top in {
        "no-network": {"loss_fn": None},
        "a-list": [plain],
        "the-network-itself": plain,
        "nothing": None,
        "network-is-a-dictionary": {"ema": {}},
        "network-is-none": {"ema": None},
        "network-of-another-class": {"ema": network("Generator", ARGUMENTS, weights())},
        "network-without-state": {"ema": Persistent("EDMPrecond", None)},
        "network-with-a-list-as-state": {"ema": Persistent("EDMPrecond", [])},
        "network-whose-class-is-a-number": {"ema": Persistent(7, module_state())},
        "network-without-tensors": {"ema": network("EDMPrecond", ARGUMENTS, {})},
        "encoder-is-text": {"ema": plain, "encoder": "vae"},
        "encoder-of-another-class": {"ema": plain, "encoder": Persistent("Encoder", {})},
        "dataset-is-text": {"ema": plain, "dataset_kwargs": {"path": Call(torch.storage._load_from_bytes, b"1")}},
    }.items():
        yield f"file-holds-{name}", dumped(top)
    for attribute, value in {
        "_parameters": [], "_buffers": "", "_modules": 3, "_non_persistent_buffers_set": [], "_init_kwargs": [],
        "_init_args": {}, "img_channels": 3, "label_dim": 3,
    }.items():  # fmt: skip
        changed = network("EDMPrecond", ARGUMENTS, weights())
        changed.state[attribute] = value
        yield f"network-with-another-{attribute}", dumped({"ema": changed})
    loop = network("EDMPrecond", ARGUMENTS, weights())
    inner = loop.state["_modules"]["model"]
    twice = network("EDMPrecond", ARGUMENTS, weights())
    twice.state["_modules"]["again"] = twice.state["_modules"]["model"]
    yield "module-twice", dumped({"ema": twice})
    deep = network("EDMPrecond", ARGUMENTS, weights())
    for _ in range(40):
        deep = Persistent("EDMPrecond", module_state(_modules={"model": deep}, _init_kwargs=ARGUMENTS))
    yield "modules-in-modules", dumped({"ema": deep})
    inner.state["_modules"]["child"] = "text"
    yield "module-is-text", dumped({"ema": loop})
    without = dict(weights())
    without.pop(BIAS)
    yield "tensor-missing", edm_file(ARGUMENTS, without)
    yield "tensor-too-many", edm_file(ARGUMENTS, {**weights(), "model.stranger": torch.zeros(3)})


def _configurations() -> Iterator[tuple[str, bytes]]:
    for name, arguments in {
        "another-width": {"model_channels": 8},
        "a-huge-width": {"model_channels": 10**9},
        "a-negative-resolution": {"img_resolution": -4},
        "an-unknown-argument": {"surprise": 1},
        "another-type": {"model_type": "DhariwalUNet"},
        "an-unknown-type": {"model_type": "os.system"},
        "a-range-of-sigma": {"sigma_min": 0.002},
        "infinity": {"dropout": float("-inf")},
        "nan": {"dropout": float("nan")},
        "bytes": {"dropout": b"0.1"},
        "a-tensor": {"dropout": torch.tensor(0.1)},
        "a-long-text": {"embedding_type": "x" * 10_000},
        "a-long-list": {"channel_mult": [1] * 20_000},
        "a-huge-integer": {"num_blocks": 2**100},
        "keys-that-are-numbers": {"channel_mult": {1: 2}},
        "a-large-array": {"channel_mult": np.ones(20_000)},
        "an-array-of-objects": {"channel_mult": np.array(["x"])},
        "a-complex-number": {"dropout": np.complex64(1)},
        "a-big-endian-number": {"dropout": np.array([0.1], ">f8")},
    }.items():
        yield f"configuration-with-{name}", edm_file({**ARGUMENTS, **arguments}, weights())
    content = good()
    scalar = content.index(b"numpy._core.multiarray")
    yield "number-of-an-unknown-module", content[:scalar] + b"numpy._Core.multiarray" + content[scalar + 22 :]
