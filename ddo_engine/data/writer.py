"""Write dataset zips: EDM's images, EDM2's latents. The same content gives the same bytes."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
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
    pixels_NHWC = images_NCHW.cpu().permute(0, 2, 3, 1).contiguous().numpy()

    def png(index: int) -> bytes:
        buffer, pixels = BytesIO(), pixels_NHWC[index]
        image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
        image.save(buffer, format="PNG", compress_level=0)
        return buffer.getvalue()

    names = [f"{index // 1000:05d}/img{index:08d}.png" for index in range(len(pixels_NHWC))]
    _write_zip(Path(path), names, png, labels_N)


def write_latents(path: str | Path, moments_N2CHW: Tensor, labels_N: Tensor | None) -> None:
    """Write moments of latents into a stored zip, one ``.npy`` for each image, as EDM2's tool does.

    Args:
        path: Replaced atomically.
        moments_N2CHW: float32, square, means of C channels before their standard deviations; finite, deviations >= 0.
        labels_N: Class indices >= 0, or None.

    Raises:
        ValueError: The tensors are not as described.
    """
    _check_moments(moments_N2CHW)
    write_latents_in_batches(path, [moments_N2CHW], len(moments_N2CHW), labels_N)


def write_latents_in_batches(
    path: str | Path, batches: Iterable[Tensor], num_images: int, labels_N: Tensor | None
) -> None:
    """Write the zip of :func:`write_latents` with one batch of it in memory at a time.

    Args:
        path: Replaced atomically.
        batches: Moments as there, ``num_images`` in all.
        num_images: N.
        labels_N: As there.

    Raises:
        ValueError: As there, or there are more or fewer moments.
    """
    _check_labels(labels_N, num_images)
    arrays = _npy_files(batches)
    names = [f"{index // 1000:05d}/img-mean-std-{index:08d}.npy" for index in range(num_images)]

    def npy(index: int) -> bytes:
        content = next(arrays, None)
        if content is None or (index == num_images - 1 and next(arrays, None) is not None):
            raise ValueError(f"there are more or fewer moments than the {num_images} that were announced")
        return content

    _write_zip(Path(path), names, npy, labels_N)


def _npy_files(batches: Iterable[Tensor]) -> Iterator[bytes]:
    for moments_B2CHW in batches:
        _check_moments(moments_B2CHW)
        for moments in moments_B2CHW.cpu().contiguous().numpy():
            buffer = BytesIO()
            np.save(buffer, moments, allow_pickle=False)
            yield buffer.getvalue()


def _write_zip(path: Path, names: Sequence[str], content: Callable[[int], bytes], labels_N: Tensor | None) -> None:
    labels = None if labels_N is None else labels_N.tolist()

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", compression=zipfile.ZIP_STORED) as archive:
            for index, name in enumerate(names):
                _add(archive, name, content(index))
            rows = None if labels is None else [[name, label] for name, label in zip(names, labels, strict=True)]
            _add(archive, "dataset.json", json.dumps({"labels": rows}).encode())

    write_atomically(path, write)


def _check(images_NCHW: Tensor, labels_N: Tensor | None) -> None:
    if images_NCHW.dtype != torch.uint8 or images_NCHW.dim() != 4:
        raise ValueError(
            f"images must be uint8 of shape (N, C, H, W), not {images_NCHW.dtype} {tuple(images_NCHW.shape)}"
        )
    num_images, channels, height, width = images_NCHW.shape
    if num_images == 0 or channels not in (1, 3) or height != width or height == 0:
        raise ValueError(f"images must be square with 1 or 3 channels, at least one; got {tuple(images_NCHW.shape)}")
    _check_labels(labels_N, num_images)


def _check_moments(moments_N2CHW: Tensor) -> None:
    if moments_N2CHW.dtype != torch.float32 or moments_N2CHW.dim() != 4:
        raise ValueError(
            f"moments must be float32 of shape (N, 2C, H, W), not {moments_N2CHW.dtype} {tuple(moments_N2CHW.shape)}"
        )
    num_images, channels, height, width = moments_N2CHW.shape
    if num_images == 0 or channels == 0 or channels % 2 or height != width or height == 0:
        raise ValueError(f"moments must be square with an even number of channels; got {tuple(moments_N2CHW.shape)}")
    if not bool(torch.isfinite(moments_N2CHW).all()) or bool((moments_N2CHW[:, channels // 2 :] < 0).any()):
        raise ValueError("moments must be finite, and standard deviations not negative")


def _check_labels(labels_N: Tensor | None, num_images: int) -> None:
    if labels_N is not None and (labels_N.shape != (num_images,) or labels_N.is_floating_point() or labels_N.min() < 0):
        raise ValueError("labels must be one class index >= 0 for each image")


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=FIXED_TIME)
    entry.create_system = 3  # zipfile writes the operating system's own number otherwise
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)
