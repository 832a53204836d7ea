"""Zip files, read without trust.

The directory of the zip is walked here, not by ``zipfile``: that builds an object for every entry before anybody can
look at the first one, so that 50 MB of empty folders cost 750 MB and 20 seconds. Here the walk stops at the first
entry that is wrong, entries may not overlap, and an entry is inflated no further than it says.
"""

import mmap
import struct
import zlib
from array import array
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ddo_engine.data.archive import NameChecker, check_size
from ddo_engine.data.limits import DatasetLimits
from ddo_engine.errors import InvalidDataset

STORED, DEFLATED = 0, 8
_ENCRYPTED, _PATCHED, _STRONG_ENCRYPTION, _UTF8 = 0x1, 0x20, 0x40, 0x800
_HIGHEST_VERSION = 63
_END, _END64, _LOCATOR64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_ENTRY, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_MAX_COMMENT = 0xFFFF
_IN_EXTRA_32 = 0xFFFFFFFF
_ZIP64_EXTRA = 1
_SMALL = 2**16  # what inflates to less than this may do so at any ratio


class _Entry(NamedTuple):
    signature: bytes
    made_by: int
    version: int
    flags: int
    method: int
    time: int
    date: int
    crc: int
    compressed: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    offset: int


class ZipArchive:
    """The files of a zip, stored or deflated; see :class:`ddo_engine.data.archive.Archive`."""

    def __init__(self, path: Path, limits: DatasetLimits) -> None:
        """Read the zip's directory.

        Raises:
            InvalidDataset: It is damaged, or an entry of it is not acceptable.
        """
        self.path, self.limits = path, limits
        self.names: list[str] = []
        self._offsets, self._compressed, self._sizes = array("Q"), array("Q"), array("Q")
        self._crcs, self._name_lengths, self._methods = array("I"), array("H"), bytearray()
        with path.open("rb") as file:
            directory_at, directory_bytes, num_entries = self._find_directory(file)
            if num_entries > 2 * limits.max_images + 1 + limits.max_folders:
                raise InvalidDataset(f"{path.name} has {num_entries:,} entries; at most {limits.max_images:,} images")
            if num_entries:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    self._walk(content, directory_at, directory_at + directory_bytes, num_entries)
        self._check_extents(directory_at)

    def size(self, index: int) -> int:
        """Return the bytes of a file."""
        return self._sizes[index]

    def crc(self, index: int) -> int:
        """Return the checksum of a file that the zip states."""
        return self._crcs[index]

    def read(self, index: int, max_bytes: int | None = None) -> bytes:
        """Return the content of a file, checked against its size and checksum."""
        name, size = self.names[index], self._sizes[index]
        check_size(name, size, self.limits.max_entry_bytes if max_bytes is None else max_bytes)
        with self.path.open("rb") as file:
            file.seek(self._data_offset(file, index))
            data = file.read(self._compressed[index])
        if self._methods[index] == DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
            except zlib.error as error:
                raise _damaged(name, str(error)) from error
        if len(data) != size:
            raise _damaged(name, "it has not the size that the zip states")
        if zlib.crc32(data) != self._crcs[index]:
            raise _damaged(name, "its checksum is wrong")
        return data

    def stored_at(self, index: int) -> int | None:
        """Return where in the zip an uncompressed file begins, in bytes; None for a compressed one."""
        if self._methods[index] != STORED:
            return None
        with self.path.open("rb") as file:
            return self._data_offset(file, index)

    def _data_offset(self, file: BinaryIO, index: int) -> int:
        file.seek(self._offsets[index])
        header = file.read(_LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
            raise _damaged(self.names[index], "its header is missing")
        *_, name_length, extra_length = _LOCAL.unpack(header)
        if _decoded(file.read(name_length), header[7] << 8) != self.names[index]:
            raise _damaged(self.names[index], "it has two different names")
        return self._offsets[index] + _LOCAL.size + int(name_length) + int(extra_length)

    def _find_directory(self, file: BinaryIO) -> tuple[int, int, int]:
        """Return where the directory begins, its bytes and its number of entries."""
        end_at, record = self._end_record(file)
        _, _, _, _, count, size, offset, _ = record
        end_at, count, size, offset = self._end64_record(file, end_at, (count, size, offset))
        # multi-volume zips and zips behind a foreign prefix do not add up
        if offset + size != end_at or size < count * _ENTRY.size:
            raise self._incomplete("its directory is not where it says")
        return offset, size, count

    def _end_record(self, file: BinaryIO) -> tuple[int, tuple[int, ...]]:
        length = file.seek(0, 2)
        file.seek(max(0, length - _END.size - _MAX_COMMENT))
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) - at < _END.size:
            raise self._incomplete("its end is missing")
        record = _END.unpack_from(tail, at)
        if record[-1] != len(tail) - at - _END.size:
            raise self._incomplete("something follows its end")
        return length - len(tail) + at, record

    def _end64_record(self, file: BinaryIO, end_at: int, found: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Return what the 64-bit record before the end says, or what the end itself says where there is none."""
        if end_at < _LOCATOR64.size + _END64.size:
            return (end_at, *found)
        file.seek(end_at - _LOCATOR64.size)
        signature, _, at, _ = _LOCATOR64.unpack(file.read(_LOCATOR64.size))
        if signature != b"PK\x06\x07":
            return (end_at, *found)
        if at + _END64.size > end_at - _LOCATOR64.size:
            raise self._incomplete("its end is damaged")
        file.seek(at)
        signature, *_, count, size, offset = _END64.unpack(file.read(_END64.size))
        if signature != b"PK\x06\x06":
            raise self._incomplete("its end is damaged")
        return at, count, size, offset

    def _walk(self, content: mmap.mmap, at: int, end: int, num_entries: int) -> None:
        checker = NameChecker(self.limits)
        for _ in range(num_entries):
            if at + _ENTRY.size > end:
                raise self._incomplete("its directory is cut short")
            entry = _Entry(*_ENTRY.unpack_from(content, at))
            name_at = at + _ENTRY.size
            extra_at = name_at + entry.name_length
            at = extra_at + entry.extra_length + entry.comment_length
            if entry.signature != b"PK\x01\x02" or at > end:
                raise self._incomplete("its directory is damaged")
            name = _decoded(content[name_at:extra_at], entry.flags)
            if name.endswith("/"):
                checker.folder(name)
                continue
            size, compressed, offset = self._wide(entry, name, content[extra_at : extra_at + entry.extra_length])
            if max(compressed, offset) > end:
                raise self._incomplete(f"{name[:80]!r} lies outside of it")
            checker.file(name, size)
            self._check_entry(name, entry, size, compressed)
            self.names.append(name)
            self._sizes.append(size)
            self._compressed.append(compressed)
            self._offsets.append(offset)
            self._crcs.append(entry.crc)
            self._name_lengths.append(entry.name_length)
            self._methods.append(entry.method)
        if at != end:
            raise self._incomplete("its directory has more entries than it says")

    def _wide(self, entry: _Entry, name: str, extra: bytes) -> tuple[int, int, int]:
        """Return size, compressed size and offset, from the 64-bit field where they do not fit 32 bits."""
        values = [entry.size, entry.compressed, entry.offset]
        if _IN_EXTRA_32 not in values:
            return entry.size, entry.compressed, entry.offset
        wide = [position for position, value in enumerate(values) if value == _IN_EXTRA_32]
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, at)
            if kind == _ZIP64_EXTRA and 8 * len(wide) <= min(length, len(extra) - at - 4):
                for position, value in zip(wide, struct.unpack_from(f"<{len(wide)}Q", extra, at + 4), strict=True):
                    values[position] = value
                return values[0], values[1], values[2]
            at += 4 + length
        raise _damaged(name, "its size is missing")

    def _check_entry(self, name: str, entry: _Entry, size: int, compressed: int) -> None:
        if entry.flags & _ENCRYPTED:
            raise InvalidDataset(f"{name!r} is encrypted: write the zip without a password")
        if entry.version & 0xFF > _HIGHEST_VERSION or entry.flags & (_PATCHED | _STRONG_ENCRYPTION):
            raise InvalidDataset(
                f"{self.path.name} cannot be read ({name!r} needs a zip feature that is not supported): write or "
                "upload it again"
            )
        if entry.method not in (STORED, DEFLATED):
            raise InvalidDataset(f"{name!r} is compressed in a way that is not read: store it uncompressed")
        # deflate adds five bytes for each block that it cannot shorten
        if (entry.method == STORED and size != compressed) or compressed > size + size // 64 + 1024:
            raise _damaged(name, "it has two different sizes")
        if size > _SMALL and size > self.limits.max_compression_ratio * compressed:
            raise InvalidDataset(f"{name!r} is compressed suspiciously well: store it uncompressed")

    def _check_extents(self, directory_at: int) -> None:
        """Refuse entries that share bytes: that is how a small zip unpacks to a huge one."""
        if not self.names:
            return
        starts = np.frombuffer(self._offsets, dtype=np.uint64)
        order = np.argsort(starts, kind="stable")
        lengths = np.frombuffer(self._compressed, dtype=np.uint64) + np.frombuffer(self._name_lengths, dtype=np.uint16)
        ends = starts[order] + lengths[order] + np.uint64(_LOCAL.size)
        overlaps = np.flatnonzero(ends > np.append(starts[order][1:], np.uint64(directory_at)))
        if overlaps.size:
            name = self.names[int(order[overlaps[0]])]
            raise InvalidDataset(f"{name!r} overlaps with what follows it in the zip: write the zip again")

    def _incomplete(self, reason: str) -> InvalidDataset:
        return InvalidDataset(f"{self.path.name} is not a complete zip file ({reason}): write or upload it again")


def _decoded(name: bytes, flags: int) -> str:
    return name.decode("utf-8" if flags & _UTF8 else "cp437", errors="surrogateescape")


def _damaged(name: str, reason: str) -> InvalidDataset:
    return InvalidDataset(f"{name!r} is damaged inside the zip ({reason}): write or upload the zip again")
