"""Find out what format a dataset has, by its content, and index it.

zip   arr_0.npy …                        npz
*.npy (and dataset.json)           latents of EDM2
images and dataset.json            EDM's zip
images                             image folders
tar   images beside .cls or .json        webdataset
images                             image folders
a folder of tars                         webdataset
any other folder                         as a zip of its files
"""

import re
from pathlib import Path

from ddo_engine.data.archive import Archive
from ddo_engine.data.folder_archive import FolderArchive
from ddo_engine.data.image_header import IMAGE_SUFFIXES
from ddo_engine.data.items import DatasetFormat, ImageFiles, Items, Labels, LatentFiles
from ddo_engine.data.labels import LABELS_FILE, labels_from_folders, labels_from_json
from ddo_engine.data.limits import DatasetLimits
from ddo_engine.data.npz import IMAGES, open_npz
from ddo_engine.data.shards import ShardSet, is_webdataset, open_shards
from ddo_engine.data.tar_archive import TarArchive, looks_like_tar
from ddo_engine.data.zip_archive import ZipArchive
from ddo_engine.errors import InvalidDataset
from ddo_engine.spec import DatasetReading

_EDM_NAME = re.compile(r"\d{5}/img\d{8}\.png")
_LABELS_BYTES, _LABEL_ROW_BYTES, _ESCAPED_BYTES = 2**20, 64, 12  # of dataset.json; JSON escapes what is not ASCII
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def open_items(path: Path, reading: DatasetReading, limits: DatasetLimits, max_memory_bytes: int) -> Items:
    """Index a dataset of any format; no image is decoded.

    Args:
        path: A file or folder.
        reading: What is done to every image.
        limits: Bounds.
        max_memory_bytes: Of what has to be inflated at once.

    Raises:
        InvalidDataset: It is of no known format, or damaged, or beyond ``limits``.
        OSError: It cannot be read.
    """
    if path.is_dir():
        return _open_folder(path, reading, limits)
    with path.open("rb") as file:
        head = file.read(512)
    if looks_like_tar(head):
        tar = TarArchive(path, limits)
        if is_webdataset(tar.names):
            return open_shards(tar, reading)
        return _open_files(tar, reading)
    if head[:2] in _COMPRESSED:
        raise InvalidDataset(
            f"{path.name} is compressed with {_COMPRESSED[head[:2]]}: decompress it, because single images cannot be "
            "reached in a compressed tar"
        )
    if not head.startswith(b"PK"):
        raise InvalidDataset(f"{path.name} is not a complete zip, npz or tar file: write or upload it again")
    archive = ZipArchive(path, limits)
    if IMAGES in archive.names:
        return open_npz(archive, reading, max_memory_bytes)
    return _open_files(archive, reading)


def _open_folder(path: Path, reading: DatasetReading, limits: DatasetLimits) -> Items:
    folder = FolderArchive(path, limits)
    if not any(name.endswith(".tar") for name in folder.names):
        return _open_files(folder, reading)
    shards: dict[str, Archive] = {}
    for name in folder.names:
        if not name.endswith(".tar"):
            raise InvalidDataset(f"{name!r} lies among shards: leave only .tar files in the folder")
        shards[name] = TarArchive(path / name, limits)
    return open_shards(ShardSet(shards, limits), reading)


def _open_files(archive: Archive, reading: DatasetReading) -> Items:
    """Index images or latents; labels come from ``dataset.json`` or else from the folders."""
    members = [index for index, name in enumerate(archive.names) if name != LABELS_FILE]
    if not members:
        raise InvalidDataset("the dataset holds no images: add PNG, JPEG or WebP files")
    if len(members) > archive.limits.max_images:
        raise InvalidDataset(
            f"the dataset has {len(members):,} files; at most {archive.limits.max_images:,} images are read"
        )
    are_latents = archive.names[members[0]].endswith(".npy")
    suffixes = (".npy",) if are_latents else IMAGE_SUFFIXES
    for index in members:
        if not archive.names[index].lower().endswith(suffixes):
            raise InvalidDataset(
                f"{archive.names[index]!r} is neither an image ({', '.join(suffixes)}) nor {LABELS_FILE}: convert it "
                "to PNG or remove it"
            )
    members.sort(key=lambda index: archive.names[index])
    labels = _labels(archive, members, are_latents)
    if are_latents:
        return LatentFiles(labels, archive, members)
    return ImageFiles(_image_format(archive), labels, archive, members, reading)


def _labels(archive: Archive, members: list[int], are_latents: bool) -> Labels:
    names = [archive.names[index] for index in members]
    if LABELS_FILE in archive.names:
        max_bytes = _LABELS_BYTES + _LABEL_ROW_BYTES * len(names) + _ESCAPED_BYTES * sum(map(len, names))
        text = archive.read(list(archive.names).index(LABELS_FILE), max_bytes)
        return Labels(labels_from_json(text, names))
    # their folders only keep folders small
    if are_latents or any(_EDM_NAME.fullmatch(name) for name in names):
        return Labels()
    return Labels(*labels_from_folders(names))


def _image_format(archive: Archive) -> DatasetFormat:
    is_edm = isinstance(archive, ZipArchive) and LABELS_FILE in archive.names
    return "edm-zip" if is_edm or any(_EDM_NAME.fullmatch(name) for name in archive.names) else "image-folder"
