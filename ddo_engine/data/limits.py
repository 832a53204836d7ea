"""How much a dataset may ask for before it is refused."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetLimits:
    """Bounds that are checked before memory or time is spent.

    Attributes:
        max_images: Items of a dataset.
        max_folders: Folders inside an archive.
        max_image_pixels: Width times height of one stored image.
        max_aspect_ratio: Longer by shorter side of a stored image: a line of pixels becomes huge when it is resized.
        max_decoded_bytes: All items decoded.
        max_entry_bytes: One stored file; the arrays of an npz are bounded by ``max_decoded_bytes`` instead.
        max_compression_ratio: Of one entry of a zip.
        max_jpeg_scans: Passes of one progressive JPEG: each costs as much time as a whole image.
    """

    max_images: int = 5_000_000
    max_folders: int = 65_536
    max_image_pixels: int = 2**26
    max_aspect_ratio: int = 64
    max_decoded_bytes: int = 4 * 2**40
    max_entry_bytes: int = 256 * 2**20
    max_compression_ratio: float = 200.0
    max_jpeg_scans: int = 64


DEFAULT_LIMITS = DatasetLimits()
DEFAULT_MAX_MEMORY_BYTES = 4 * 2**30
