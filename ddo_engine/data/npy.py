"""Headers of ``.npy`` arrays, judged before any data are read. Nothing is ever unpickled."""

import math
import tokenize
import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.lib import format as npy_format

from ddo_engine.errors import InvalidDataset

MAX_HEADER_BYTES = 10_000
PREFIX_BYTES = 12 + MAX_HEADER_BYTES  # so much of a file holds any header that is accepted


@dataclass(frozen=True)
class ArrayHeader:
    """What an array is.

    Attributes:
        shape: All sizes positive.
        dtype: Plain numbers.
        data_offset: Bytes before the first number.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    data_offset: int


def read_array_header(name: str, head: bytes, num_bytes: int) -> ArrayHeader:
    """Parse the header of an array, and compare what it promises with what is there.

    Args:
        name: For messages.
        head: The first ``PREFIX_BYTES`` of the file, or all of a shorter one.
        num_bytes: Of the whole file.

    Raises:
        InvalidDataset: It is no ``.npy``, holds Python objects, is in Fortran order, or is not as long as it says.
    """
    stream = BytesIO(head)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy warns of headers that Python 2 wrote
            version = npy_format.read_magic(stream)
            read = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}[version]
            shape, is_fortran, dtype = read(stream, max_header_size=MAX_HEADER_BYTES)
    except (
        ValueError,
        TypeError,
        KeyError,
        EOFError,
        SyntaxError,
        RecursionError,
        MemoryError,
        Warning,
        OverflowError,
        tokenize.TokenError,
    ) as error:
        raise InvalidDataset(f"{name!r} is not an array in .npy format: write it with numpy.save") from error
    if dtype.hasobject:
        raise InvalidDataset(f"{name!r} holds pickled Python objects, which are never loaded: save plain numbers")
    if dtype.kind not in "uif" or not all(size > 0 for size in shape):
        raise InvalidDataset(f"{name!r} must hold plain numbers and not be empty, not {dtype} {shape}")
    if is_fortran and len(shape) > 1:
        raise InvalidDataset(f"{name!r} is in Fortran order: save numpy.ascontiguousarray of it")
    header = ArrayHeader(shape, dtype, stream.tell())
    if num_bytes != header.data_offset + math.prod(shape) * dtype.itemsize:
        raise InvalidDataset(f"{name!r} has {num_bytes:,} bytes, not what {dtype} {shape} needs: write it again")
    return header
