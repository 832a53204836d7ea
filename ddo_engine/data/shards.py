"""WebDataset shards: tars in which files of one name belong together, ``0001.jpg`` and ``0001.cls``.

The library ``webdataset`` says which files belong together. It does not read them: its decoders choose by suffix and
unpickle what is called ``.pyd``, while here nothing but images, digits and JSON is read.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from ddo_engine.data.archive import Archive
from ddo_engine.data.image_header import IMAGE_SUFFIXES
from ddo_engine.data.items import ImageFiles, Labels
from ddo_engine.data.labels import LABELS_FILE, checked_label, label_from_text
from ddo_engine.data.limits import DatasetLimits
from ddo_engine.errors import InvalidDataset
from ddo_engine.spec import DatasetReading

MAX_LABEL_FILE_BYTES = 2**20
_IMAGE_KEYS = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
_LABEL_KEYS = ("cls", "json")


def is_webdataset(names: Sequence[str]) -> bool:
    """Tell whether a tar holds labels beside its images."""
    return any(name.lower().endswith((".cls", ".json")) and name != LABELS_FILE for name in names)


class ShardSet:
    """The files of several archives under ``shard/name``; see :class:`ddo_engine.data.archive.Archive`."""

    def __init__(self, shards: dict[str, Archive], limits: DatasetLimits) -> None:
        """Chain archives.

        Args:
            shards: By the name that they put before the names of their files, in order.
            limits: What all files may ask for.
        """
        self.limits = limits
        self.names = [f"{prefix}/{name}" for prefix, archive in shards.items() for name in archive.names]
        self._where = [(archive, index) for archive in shards.values() for index in range(len(archive.names))]

    def size(self, index: int) -> int:
        """Return the bytes of a file."""
        archive, inner = self._where[index]
        return archive.size(inner)

    def read(self, index: int, max_bytes: int | None = None) -> bytes:
        """Return the content of a file."""
        archive, inner = self._where[index]
        return archive.read(inner, max_bytes)


@dataclass(frozen=True)
class _Sample:
    key: str
    image: int
    label: int | None


def open_shards(archive: Archive, reading: DatasetReading) -> ImageFiles:
    """Group the files of one or several tars to images with labels, sorted by name.

    Raises:
        InvalidDataset: The library is missing, or a file belongs to no image, or only some images have labels.
    """
    samples = sorted(_samples(archive), key=lambda sample: archive.names[sample.image])
    if not samples:
        raise InvalidDataset("the shards hold no images: add PNG, JPEG or WebP files")
    if len(samples) > archive.limits.max_images:
        raise InvalidDataset(f"there are {len(samples):,} images; at most {archive.limits.max_images:,} are read")
    for before, after in pairwise(samples):
        if before.key == after.key:
            raise InvalidDataset(f"{before.key!r} has several images, or its files are not side by side in the tar")
    labels = None
    if any(sample.label is not None for sample in samples):
        labels = torch.tensor([_label(archive, sample) for sample in samples], dtype=torch.int64)
    return ImageFiles("webdataset", Labels(labels), archive, [sample.image for sample in samples], reading)


def _samples(archive: Archive) -> Iterator[_Sample]:
    try:
        from webdataset.tariterators import group_by_keys  # noqa: PLC0415  (optional, and loads slowly)
    except ImportError as error:
        raise InvalidDataset(
            "this is a WebDataset, and the library that reads it is not installed: "
            "pip install 'ddo-finetuning-service[webdataset]'"
        ) from error
    for name in archive.names:
        base = name.rsplit("/", maxsplit=1)[-1]
        if base.startswith(".") or "." not in base:
            raise InvalidDataset(f"{name!r} has no name before a suffix: shards hold images with .cls or .json labels")
    files = ({"fname": name, "data": index, "__url__": ""} for index, name in enumerate(archive.names))
    try:
        groups = list(group_by_keys(files))
    except ValueError as error:
        raise InvalidDataset(f"a file of the shards occurs twice ({error.args[0]})") from error
    for group in groups:
        yield _sample(archive, group)


def _sample(archive: Archive, group: dict[str, object]) -> _Sample:
    key = str(group["__key__"])
    indices = {suffix: index for suffix, index in group.items() if isinstance(index, int)}
    for suffix, index in indices.items():
        if suffix not in (*_IMAGE_KEYS, *_LABEL_KEYS):
            raise InvalidDataset(
                f"{archive.names[index]!r} is neither an image ({', '.join(_IMAGE_KEYS)}) nor a label (cls, json): "
                "write the shards without it"
            )
    images = [index for suffix, index in indices.items() if suffix in _IMAGE_KEYS]
    if len(images) != 1:
        raise InvalidDataset(f"{key!r} has {len(images)} images, not one: its files must stand side by side in the tar")
    return _Sample(key, images[0], indices.get("cls", indices.get("json")))


def _label(archive: Archive, sample: _Sample) -> int:
    if sample.label is None:
        raise InvalidDataset(f"{archive.names[sample.image]!r} has no label, others have: give all of them one or none")
    name, data = archive.names[sample.label], archive.read(sample.label, MAX_LABEL_FILE_BYTES)
    if name.lower().endswith(".cls"):
        return label_from_text(name, data)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{name!r} is not JSON ({error})") from error
    if not isinstance(content, dict) or "label" not in content:
        raise InvalidDataset(f'{name!r} must be {{"label": class}}')
    return checked_label(name, content["label"])
