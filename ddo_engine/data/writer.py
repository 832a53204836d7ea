"""Write EDM's dataset zip."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ddo_engine.files import write_atomically

FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can name


def write_dataset(path: str | Path, images_NCHW: Tensor, labels_N: Tensor | None) -> None:
    """Write images as uncompressed PNGs into a stored zip: the same images and labels give the same bytes.

    Args:
        path: Replaced atomically.
        images_NCHW: uint8, square, 1 or 3 channels.
        labels_N: Class indices >= 0, or None.

    Raises:
        ValueError: The tensors are not as described.
    """
    _check(images_NCHW, labels_N)
    labels = None if labels_N is None else labels_N.tolist()
    pixels_NHWC = images_NCHW.cpu().permute(0, 2, 3, 1).contiguous().numpy()
    names = [f"{index // 1000:05d}/img{index:08d}.png" for index in range(len(pixels_NHWC))]

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", compression=zipfile.ZIP_STORED) as archive:
            for name, pixels in zip(names, pixels_NHWC, strict=True):
                buffer = BytesIO()
                Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(
                    buffer, format="PNG", compress_level=0
                )
                _add(archive, name, buffer.getvalue())
            rows = None if labels is None else [[name, label] for name, label in zip(names, labels, strict=True)]
            _add(archive, "dataset.json", json.dumps({"labels": rows}).encode())

    write_atomically(Path(path), write)


def _check(images_NCHW: Tensor, labels_N: Tensor | None) -> None:
    if images_NCHW.dtype != torch.uint8 or images_NCHW.dim() != 4:
        raise ValueError(
            f"images must be uint8 of shape (N, C, H, W), not {images_NCHW.dtype} {tuple(images_NCHW.shape)}"
        )
    num_images, channels, height, width = images_NCHW.shape
    if num_images == 0 or channels not in (1, 3) or height != width or height == 0:
        raise ValueError(f"images must be square with 1 or 3 channels, at least one; got {tuple(images_NCHW.shape)}")
    if labels_N is not None and (labels_N.shape != (num_images,) or labels_N.is_floating_point() or labels_N.min() < 0):
        raise ValueError("labels must be one class index >= 0 for each image")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=FIXED_TIME)
    entry.create_system = 3  # zipfile writes the operating system's own number otherwise
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
