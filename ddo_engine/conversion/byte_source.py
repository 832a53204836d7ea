"""A stretch of a file, read forwards and never past its end; long values are pointed at instead of read."""

from typing import BinaryIO, NamedTuple

from ddo_engine.conversion.refusal import damaged
from ddo_engine.errors import CorruptCheckpoint

_MAX_LINE_BYTES = 512


class Region(NamedTuple):
    """Bytes of the file that stay there."""

    offset: int
    length: int


class ByteSource:
    """Reads from ``region`` of an open file.

    Args:
        file: Open for reading in binary.
        region: What may be read of it.
        name: What messages call the file.
    """

    def __init__(self, file: BinaryIO, region: Region, name: str) -> None:
        self._file = file
        self._end = region.offset + region.length
        self.name = name
        self.position = region.offset
        file.seek(region.offset)

    @property
    def remaining(self) -> int:
        """Bytes that are left."""
        return self._end - self.position

    def read(self, length: int) -> bytes:
        """Return the next bytes. Raises CorruptCheckpoint before anything is allocated if there are fewer."""
        self._require(length)
        data = self._file.read(length)
        if len(data) < length:
            raise self.refuse("it became shorter while it was read")
        self.position += length
        return data

    def read_line(self) -> str:
        """Return the next short line without its end."""
        line = self._file.readline(min(_MAX_LINE_BYTES, self.remaining))
        if not line.endswith(b"\n"):
            raise self.refuse("it has a name without end")
        self.position += len(line)
        return line[:-1].decode("utf-8")

    def skip(self, length: int) -> Region:
        """Step over the next bytes and return where they are."""
        self._require(length)
        region = Region(self.position, length)
        self.position += length
        self._file.seek(self.position)
        return region

    def inside(self, region: Region) -> "ByteSource":
        """Return a source over a region that was skipped."""
        return ByteSource(self._file, region, self.name)

    def refuse(self, reason: str) -> CorruptCheckpoint:
        """Return the error that names the file and the place."""
        return damaged(self.name, f"{reason} (at byte {self.position})")

    def _require(self, length: int) -> None:
        if length > self.remaining:
            raise self.refuse(f"it promises {length} more bytes and has {max(self.remaining, 0)}: it is truncated")
