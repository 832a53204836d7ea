"""Uncompressed tar files, read without trust.

The headers are walked here, not by ``tarfile``: that reads extended headers of any size into memory, keeps an object
for every member and follows sparse maps. A compressed tar is refused, because nothing in it can be reached without
inflating all that comes before.
"""

from array import array
from pathlib import Path
from typing import BinaryIO

from ddo_engine.data.archive import NameChecker, check_size
from ddo_engine.data.limits import DatasetLimits
from ddo_engine.errors import InvalidDataset

_BLOCK = 512
_ZERO_BLOCK = bytes(_BLOCK)
_MAX_EXTENDED_HEADER = 2**16
_REFUSED_TYPES = {
    b"1": "a link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}


def looks_like_tar(head: bytes) -> bool:
    """Tell whether the first 512 bytes of a file are a tar header."""
    return len(head) == _BLOCK and head[257:262] == b"ustar" and _checksum_is_right(head)


class TarArchive:
    """The files of a tar; see :class:`ddo_engine.data.archive.Archive`."""

    def __init__(self, path: Path, limits: DatasetLimits) -> None:
        """Walk through all headers.

        Raises:
            InvalidDataset: One is damaged, or of something else than a plain file or folder.
        """
        self.path, self.limits = path, limits
        self.names: list[str] = []
        self._offsets, self._sizes = array("Q"), array("Q")
        with path.open("rb") as file:
            self._walk(file, file.seek(0, 2))

    def size(self, index: int) -> int:
        """Return the bytes of a file."""
        return self._sizes[index]

    def read(self, index: int, max_bytes: int | None = None) -> bytes:
        """Return the content of a file."""
        name, size = self.names[index], self._sizes[index]
        check_size(name, size, self.limits.max_entry_bytes if max_bytes is None else max_bytes)
        with self.path.open("rb") as file:
            file.seek(self._offsets[index])
            data = file.read(size)
        if len(data) != size:
            raise self._incomplete(f"{name!r} is cut short")
        return data

    def _walk(self, file: BinaryIO, length: int) -> None:
        checker = NameChecker(self.limits)
        at = 0
        extended: dict[str, str] = {}
        while True:
            file.seek(at)
            header = file.read(_BLOCK)
            if len(header) < _BLOCK:
                raise self._incomplete("its end is missing")
            if header == _ZERO_BLOCK:
                return
            if not _checksum_is_right(header):
                raise self._incomplete(f"the header at byte {at:,} is damaged")
            kind, at = header[156:157], at + _BLOCK
            size = self._number(extended.get("size"), header)
            if at + size > length:
                raise self._incomplete(f"{_name(header)[:80]!r} is cut short")
            if kind in (b"x", b"g", b"L"):
                # g: for all that follows; what it may say about names and sizes would be about each of them
                extended |= self._extended(kind, file, size) if kind != b"g" else {}
            else:
                name = extended.get("path", _name(header)).removeprefix("./")
                self._add(name, kind, at, size, checker)
                extended = {}
            at += -(-size // _BLOCK) * _BLOCK

    def _add(self, name: str, kind: bytes, at: int, size: int, checker: NameChecker) -> None:
        if kind == b"5":
            checker.folder(name)
            return
        if kind not in (b"0", b"\0"):
            what = _REFUSED_TYPES.get(kind, "of an unknown type")
            raise InvalidDataset(f"{name[:200]!r} is {what}, not a plain file: write the tar with plain files only")
        checker.file(name, size)
        self.names.append(name)
        self._offsets.append(at)
        self._sizes.append(size)

    def _extended(self, kind: bytes, file: BinaryIO, size: int) -> dict[str, str]:
        """Return the long name, size, … that a header block announces for the next member."""
        if size > _MAX_EXTENDED_HEADER:
            raise self._incomplete(f"an extended header has {size:,} bytes")
        data = file.read(size)
        if kind == b"L":
            return {"path": data.rstrip(b"\0").decode(errors="surrogateescape")}
        records: dict[str, str] = {}
        while data:
            digits, _, _ = data.partition(b" ")
            length = int(digits) if digits.isdigit() and len(digits) < 7 else 0
            key, separator, value = data[len(digits) + 1 : length].partition(b"=")
            if not separator or not value.endswith(b"\n"):
                raise self._incomplete("an extended header is damaged")
            records[key.decode(errors="surrogateescape")] = value[:-1].decode(errors="surrogateescape")
            data = data[length:]
        if any(key.startswith("GNU.sparse") for key in records):
            raise InvalidDataset(f"{self.path.name} holds a sparse file: write the tar without --sparse")
        return records

    def _number(self, extended: str | None, header: bytes) -> int:
        """Return a member's size, from its extended header, or from octal digits or a big-endian number."""
        if extended is not None:
            digits, base = extended, 10
        elif header[124] & 0x80:
            return int.from_bytes(header[125:136], "big")
        else:
            digits, base = header[124:136].strip(b" \0").decode(errors="surrogateescape") or "0", 8
        try:
            size = int(digits, base) if len(digits) <= 20 else -1
        except ValueError:
            size = -1
        if size < 0:
            raise self._incomplete(f"{_name(header)[:80]!r} has no size")
        return size

    def _incomplete(self, reason: str) -> InvalidDataset:
        return InvalidDataset(f"{self.path.name} is not a complete tar file ({reason}): write or upload it again")


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        name = header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name.decode(errors="surrogateescape")


def _checksum_is_right(header: bytes) -> bool:
    try:
        stated = int(header[148:156].strip(b" \0") or b"0", 8)
    except ValueError:
        return False
    return stated == sum(header) - sum(header[148:156]) + 8 * ord(" ")
