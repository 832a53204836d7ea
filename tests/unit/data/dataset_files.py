"""Datasets of every format, written on the spot from the same images."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ddo_engine.data import load_dataset, write_dataset, write_latents
from ddo_engine.errors import InvalidDataset


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Return uint8 pixels (H, W) or (H, W, C) as a file; WebP is written without loss."""
    buffer = io.BytesIO()
    options = {"lossless": True} | options if kind == "WEBP" else options
    Image.fromarray(pixels).save(buffer, format=kind, **options)
    return buffer.getvalue()


def random_pixels(num_images: int, *shape: int, seed: int = 0) -> np.ndarray:
    """Return uint8 noise of shape (N, H, W, C)."""
    return np.random.default_rng(seed).integers(0, 256, (num_images, *shape), dtype=np.uint8)


def write_zip(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write files into a zip in the order given."""
    with zipfile.ZipFile(path, "w", compression=compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, files: Mapping[str, bytes], tar_format: int = tarfile.PAX_FORMAT) -> Path:
    """Write files into an uncompressed tar in the order given."""
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write files below a folder."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def labels_json(labels: Mapping[str, int]) -> bytes:
    """Return a dataset.json."""
    return json.dumps({"labels": [[name, label] for name, label in labels.items()]}).encode()


def npy(array: np.ndarray) -> bytes:
    """Return an array as a file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def refusal(path: Path, *args: Any, **options: Any) -> str:
    """Return what loading a dataset is refused with."""
    with pytest.raises(InvalidDataset) as caught:
        load_dataset(path, *args, **options)
    return caught.value.message


PIXELS = random_pixels(6, 8, 8, 3)
LABELS = [0, 0, 1, 1, 2, 2]
CLASSES = ("ape", "bee", "cat")
MOMENTS = torch.rand(6, 8, 4, 4, generator=torch.Generator().manual_seed(0))


def by_class(suffix: str = "png", kind: str = "PNG") -> dict[str, bytes]:
    """Return the images in one folder per class."""
    return {
        f"{CLASSES[label]}/{index}.{suffix}": encoded(pixels, kind)
        for index, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True))
    }


def samples() -> dict[str, bytes]:
    """Return the images as a shard's members."""
    files = {}
    for index, (pixels, label) in enumerate(zip(PIXELS, LABELS, strict=True)):
        files |= {f"{index:04d}.cls": str(label).encode(), f"{index:04d}.png": encoded(pixels)}
    return files


def _edm_zip(path: Path) -> Path:
    write_dataset(path / "a", torch.from_numpy(PIXELS).permute(0, 3, 1, 2), torch.tensor(LABELS))
    return path / "a"


def _latents(path: Path) -> Path:
    write_latents(path / "a", MOMENTS, torch.tensor(LABELS))
    return path / "a"


def _npz(path: Path) -> Path:
    np.savez(path / "a.npz", PIXELS, np.array(LABELS))
    return path / "a.npz"


def _npz_compressed(path: Path) -> Path:
    np.savez_compressed(path / "a.npz", PIXELS, labels=np.array(LABELS, np.int32))
    return path / "a.npz"


def _shards(path: Path) -> Path:
    files = list(samples().items())
    for shard in range(2):
        write_tar(path / f"s-{shard}.tar", dict(files[shard * 6 : shard * 6 + 6]))
    return path


# every way to write the images above, with the format that it is told as
WRITERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "edm zip": (_edm_zip, "edm-zip"),
    "latents zip": (_latents, "latents"),
    "zip of class folders": (lambda path: write_zip(path / "a", by_class()), "image-folder"),
    "deflated zip": (lambda path: write_zip(path / "a", by_class(), zipfile.ZIP_DEFLATED), "image-folder"),
    "zip of webp": (lambda path: write_zip(path / "a", by_class("webp", "WEBP")), "image-folder"),
    "tar of class folders": (lambda path: write_tar(path / "a", by_class()), "image-folder"),
    "gnu tar": (lambda path: write_tar(path / "a", by_class(), tarfile.GNU_FORMAT), "image-folder"),
    "folder of class folders": (lambda path: write_folder(path / "a", by_class()), "image-folder"),
    "npz": (_npz, "npz"),
    "compressed npz": (_npz_compressed, "npz"),
    "one shard": (lambda path: write_tar(path / "a", samples()), "webdataset"),
    "folder of shards": (_shards, "webdataset"),
}
