"""All that official checkpoints mention. Whatever else a file mentions, it is refused."""

from collections.abc import Iterable, Mapping

import torch

from ddo_engine.conversion.inert_objects import InertGlobal

STORAGE_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}

PERSISTENT_OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
MODULE_DICT = "torch.nn.modules.container.ModuleDict"
PARAMETER = "torch._utils._rebuild_parameter"
TENSOR = "torch._utils._rebuild_tensor_v2"
STORAGE = "torch.storage._load_from_bytes"
DTYPE = "numpy.dtype"
SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")  # numpy 1 and 2
ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")


def _by_name(entries: Iterable[InertGlobal]) -> Mapping[tuple[str, str], InertGlobal]:
    listed = {}
    for entry in entries:
        module, _, name = entry.name.rpartition(".")
        listed[module, name] = entry
    return listed


_ORDERED_DICT = InertGlobal("collections.OrderedDict", calls=True, as_dict=True)
_TENSORS = (InertGlobal(PARAMETER, calls=True), InertGlobal(TENSOR, calls=True))
_STORAGES = [InertGlobal(name) for name in STORAGE_DTYPES]

_NUMPY = (
    InertGlobal(DTYPE, calls=True),
    InertGlobal("numpy.ndarray"),
    *(InertGlobal(name, calls=True) for name in (*SCALARS, *ARRAYS)),
)

NUMPY_GLOBALS = _by_name(_NUMPY)
NVLABS_GLOBALS = _by_name(
    [
        _ORDERED_DICT,
        *_TENSORS,
        InertGlobal(PERSISTENT_OBJECT, calls=True),
        InertGlobal(STORAGE, calls=True),
        InertGlobal(MODULE_DICT, makes=True),
        InertGlobal("dnnlib.util.EasyDict", makes=True, as_dict=True),
        *_NUMPY,
    ]
)
STORAGE_GLOBALS = _by_name(_STORAGES)
SCRIPT_GLOBALS = _by_name(
    [
        _ORDERED_DICT,
        *_TENSORS,
        *_STORAGES,
        # what TorchScript makes of lists
        *(
            InertGlobal(f"torch.jit._pickle.build_{kind}list", calls=True)
            for kind in ("int", "double", "bool", "tensor")
        ),
    ]
)
STATE_DICT_GLOBALS = _by_name([_ORDERED_DICT, *_TENSORS, *_STORAGES])
