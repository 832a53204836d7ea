"""The directory of a zip file, as far as torch's ``.pth`` format needs it: names and places of uncompressed records.

The standard library's reader takes hundreds of bytes of memory per entry of a directory that may promise millions, and
torch's own reader unpacks what is compressed; here the directory is bounded before it is read, and nothing is unpacked.
"""

import struct
from typing import BinaryIO

from ddo_engine.conversion.byte_source import Region
from ddo_engine.conversion.refusal import damaged

MAX_ENTRIES = 20_000
_MAX_DIRECTORY_BYTES = 1 << 22
_END, _END64, _LOCATOR64, _ENTRY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_END_BYTES, _LOCATOR_BYTES, _END64_BYTES, _ENTRY_BYTES, _LOCAL_BYTES = 22, 20, 56, 46, 30
_MAX_COMMENT_BYTES = 1 << 16
_ZIP64_EXTRA, _IN_ZIP64 = 1, 0xFFFFFFFF


def zip_records(file: BinaryIO, size: int, name: str, without: str | None = None) -> dict[str, Region]:
    """Return where the records of a zip file lie.

    Args:
        file: Open for reading.
        size: Bytes in it.
        name: What messages call it.
        without: A folder in the archive's only folder whose records are passed over, whatever they are.

    Raises:
        CorruptCheckpoint: It is truncated, has very many records, or one that is compressed, encrypted or lies outside
            the file.
    """
    try:
        count, directory = bounded_directory(file, size, name)
        return _entries(file, directory, count, size, name, without)
    except (struct.error, UnicodeDecodeError, OSError) as error:
        raise damaged(name, f"its zip directory is malformed ({error})") from error


def bounded_directory(file: BinaryIO, size: int, name: str) -> tuple[int, bytes]:
    """Return the number of entries and the bytes of the central directory.

    Raises:
        CorruptCheckpoint: It is truncated, or far larger than any checkpoint's.
    """
    start = max(0, size - _END_BYTES - _MAX_COMMENT_BYTES)
    tail = _read(file, start, size - start)
    at = tail.rfind(_END)
    if at < 0:
        raise damaged(name, "its zip directory is missing: it is truncated")
    count, length, offset, comment_length = struct.unpack("<10xHIIH", tail[at : at + _END_BYTES])
    if at + _END_BYTES + comment_length != len(tail):
        raise damaged(name, "its zip directory does not end where the file does")
    if (at := at + start - _LOCATOR_BYTES) >= 0 and (locator := _read(file, at, _LOCATOR_BYTES))[:4] == _LOCATOR64:
        (end64,) = struct.unpack("<8xQ4x", locator)
        record = _read(file, min(end64, size), _END64_BYTES)
        if record[:4] != _END64:
            raise damaged(name, "its zip directory is malformed")
        count, length, offset = struct.unpack("<32xQQQ", record)
    if count > MAX_ENTRIES or length > _MAX_DIRECTORY_BYTES:
        raise damaged(name, f"its zip directory of {count} entries is far larger than any checkpoint's")
    if offset + length > size:
        raise damaged(name, "its zip directory ends beyond the file: it is truncated")
    return count, _read(file, offset, length)


def _entries(
    file: BinaryIO, directory: bytes, count: int, size: int, name: str, without: str | None
) -> dict[str, Region]:
    records: dict[str, Region] = {}
    at = 0
    for _ in range(count):
        signature, flags, method, packed, unpacked, name_length, extra_length, comment_length, offset = struct.unpack(
            "<4s4xHH8xIIHHH8xI", directory[at : at + _ENTRY_BYTES]
        )
        at += _ENTRY_BYTES
        record = directory[at : at + name_length].decode()
        extra = directory[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        if signature != _ENTRY or len(extra) < extra_length or record in records:
            raise damaged(name, "its zip directory is malformed")
        if without is not None and record.split("/")[1:2] == [without]:
            continue
        unpacked, packed, offset = _widened(extra, unpacked, packed, offset)
        if method or flags & 1 or packed != unpacked:
            raise damaged(name, f"its record {record[:200]} is compressed or encrypted, torch stores them plain")
        start = _data_start(file, offset, size, name)
        if start + unpacked > size:
            raise damaged(name, f"its record {record[:200]} ends beyond the file: it is truncated")
        records[record] = Region(start, unpacked)
    return records


def _widened(extra: bytes, *values: int) -> list[int]:
    """Return sizes and offset with those that do not fit into 32 bits taken from the extra field."""
    wide: list[int] = []
    while len(extra) >= 4:
        kind, length = struct.unpack("<HH", extra[:4])
        if kind == _ZIP64_EXTRA:
            wide = [value for (value,) in struct.iter_unpack("<Q", extra[4 : 4 + length - length % 8])]
        extra = extra[4 + length :]
    return [wide.pop(0) if value == _IN_ZIP64 and wide else value for value in values]


def _data_start(file: BinaryIO, offset: int, size: int, name: str) -> int:
    if offset + _LOCAL_BYTES > size:
        raise damaged(name, "its zip directory points beyond the file: it is truncated")
    signature, name_length, extra_length = struct.unpack("<4s22xHH", _read(file, offset, _LOCAL_BYTES))
    if signature != _LOCAL:
        raise damaged(name, "its zip directory does not point at its records")
    return int(offset + _LOCAL_BYTES + name_length + extra_length)


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)
