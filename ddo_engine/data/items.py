"""Items of a dataset, decoded one by one: what all formats are turned into first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from ddo_engine.data.archive import Archive
from ddo_engine.data.image_decoding import channels_first, decode_image
from ddo_engine.data.npy import PREFIX_BYTES, read_array_header
from ddo_engine.data.transform import Place, check_can_be_resized, transformed
from ddo_engine.errors import InvalidDataset
from ddo_engine.spec import DatasetReading

DatasetFormat = Literal["edm-zip", "latents", "image-folder", "npz", "webdataset"]
Item = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


@dataclass(frozen=True)
class Labels:
    """Classes of all items.

    Attributes:
        labels_N: int64 class indices, or None.
        class_names: In order of the index, where the format names classes; else empty.
    """

    labels_N: Tensor | None = None
    class_names: tuple[str, ...] = ()


class Items(Protocol):
    """Items that can be read in any order, any number of times."""

    @property
    def format(self) -> DatasetFormat:
        """What was read."""

    @property
    def labels(self) -> Labels:
        """Of all items."""

    def __len__(self) -> int:
        """Return the number of items."""

    def name(self, index: int) -> str:
        """Return what a person finds the item under."""

    def read(self, index: int, place: Place | None = None) -> Item:
        """Decode an item.

        Args:
            index: 0 … number of items − 1.
            place: Where to cut, as in :func:`ddo_engine.data.transform.transformed`; latents are never cut.

        Returns:
            An image: uint8, (C, H, W); or the moments of a latent: float32, (2C, h, w), means before deviations.

        Raises:
            InvalidDataset: The item is damaged or unfit.
        """


@dataclass(frozen=True)
class ImageFiles:
    """Image files of an archive.

    Attributes:
        format: What was read.
        labels: Of all items.
        archive: Where the files are.
        members: Their indices in the archive, in the order of the dataset.
        reading: What is done to every image.
    """

    format: DatasetFormat
    labels: Labels
    archive: Archive
    members: Sequence[int]
    reading: DatasetReading

    def __len__(self) -> int:
        return len(self.members)

    def name(self, index: int) -> str:
        """Return the file's name."""
        return self.archive.names[self.members[index]]

    def read(self, index: int, place: Place | None = None) -> Item:
        """Decode an image."""
        data = self.archive.read(self.members[index])
        return decode_image(self.name(index), data, self.reading, self.archive.limits, place)


@dataclass(frozen=True)
class LatentFiles:
    """Arrays of latent moments in an archive: float32 of shape (2C, h, h), means before standard deviations.

    Attributes:
        labels: Of all items.
        archive: Where the files are.
        members: Their indices in the archive, in the order of the dataset.
    """

    labels: Labels
    archive: Archive
    members: Sequence[int]
    format: DatasetFormat = "latents"

    def __len__(self) -> int:
        return len(self.members)

    def name(self, index: int) -> str:
        """Return the file's name."""
        return self.archive.names[self.members[index]]

    def read(self, index: int, place: Place | None = None) -> Item:
        """Read the moments of a latent."""
        assert place is None, "specs refuse random crops of what no transform cuts"
        name, data = self.name(index), self.archive.read(self.members[index])
        header = read_array_header(name, data[:PREFIX_BYTES], len(data))
        if header.dtype != np.dtype("<f4") or len(header.shape) != 3 or header.shape[0] % 2:
            raise InvalidDataset(
                f"{name!r} is {header.dtype} {header.shape}: latents are float32 of shape (2C, h, h), C means before C "
                "standard deviations"
            )
        moments: npt.NDArray[np.float32] = np.frombuffer(data, np.float32, offset=header.data_offset)
        moments = moments.reshape(header.shape)
        if not np.isfinite(moments).all() or (moments[header.shape[0] // 2 :] < 0).any():
            raise InvalidDataset(f"{name!r} holds NaN, infinity or a negative standard deviation: encode it again")
        return moments


@dataclass(frozen=True)
class PixelArray:
    """Images of one array, in memory or mapped from a file.

    Attributes:
        labels: Of all items.
        pixels_NHWC: uint8, 1 or 3 channels.
        reading: What is done to every image.
    """

    labels: Labels
    pixels_NHWC: npt.NDArray[np.uint8]
    reading: DatasetReading
    format: DatasetFormat = "npz"

    def __len__(self) -> int:
        return len(self.pixels_NHWC)

    def name(self, index: int) -> str:
        """Return the image's place in the array."""
        return f"arr_0[{index}]"

    def read(self, index: int, place: Place | None = None) -> Item:
        """Copy an image out of the array."""
        pixels = np.array(self.pixels_NHWC[index])
        if self.reading.convert is None and self.reading.transform == "none":
            return channels_first(pixels)
        check_can_be_resized(self.name(index), (pixels.shape[1], pixels.shape[0]), self.reading)
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        if self.reading.convert is not None:
            image = image.convert("RGB" if self.reading.convert == "rgb" else "L")
        return channels_first(np.asarray(transformed(image, self.reading, place)))
