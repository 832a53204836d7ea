"""Statistics of the dataset that samples are compared with, computed once per machine."""

import hashlib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddo_engine.data import ImageDataset
from ddo_engine.device import queued_so_far, queued_to_cpu
from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.evaluation.features import FeatureNetwork
from ddo_engine.evaluation.moments import Moments
from ddo_engine.files import write_atomically

MANIFOLD_IMAGES = 50_000  # precision and recall look at so many of the dataset's images, evenly spread


@dataclass(frozen=True)
class ReferenceStatistics:
    """Features of a dataset.

    Attributes:
        moments: Of all images.
        features_MD: float32 features of up to ``MANIFOLD_IMAGES`` images, for what compares images one by one.
        spatial_moments: Of the spatial features of all images, for sFID; None where nobody asked for them.
    """

    moments: Moments
    features_MD: Tensor
    spatial_moments: Moments | None = None


def extract(network: FeatureNetwork, images_NCHW: Tensor) -> Tensor:
    """Return the features of uint8 images, float32 on the CPU. Shape (N, feature_dim).

    Raises:
        InvalidFeatureNetwork: A feature is NaN or infinite; pixels never are, so the network is to blame.
    """
    return extract_outputs(network, images_NCHW, ("features",))[0]


def extract_outputs(network: FeatureNetwork, images_NCHW: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """Return what the network computes under these names, such as "logits": in one pass, else as :func:`extract`.

    Raises:
        InvalidFeatureNetwork: As there.
    """
    return begin_outputs(network, images_NCHW, names)()


def begin_outputs(
    network: FeatureNetwork, images_NCHW: Tensor, names: Sequence[str]
) -> Callable[[], tuple[Tensor, ...]]:
    """Queue what :func:`extract_outputs` does, and return what waits for it: a GPU computes meanwhile.

    Raises:
        InvalidFeatureNetwork: The network computes no such output; others, as there, are raised by what is returned.
    """
    num_images = network.images_per_call(max(images_NCHW.shape[2:]))
    outputs = [network(chunk) for chunk in torch.split(images_NCHW, num_images)]
    missing = next((name for name in names if name not in outputs[0]), None)
    if missing is not None:
        raise InvalidFeatureNetwork(
            f"the feature network computes no {missing!r}, but {', '.join(sorted(outputs[0]))}: choose another, or "
            "measure what these allow",
            param="feature_network",
        )
    found = tuple(queued_to_cpu(torch.cat([output[name].float() for output in outputs])) for name in names)
    ready = queued_so_far(network.device)

    def wait() -> tuple[Tensor, ...]:
        ready()
        if not all(bool(torch.isfinite(tensor).all()) for tensor in found):
            raise InvalidFeatureNetwork(
                "the feature network's weights are finite, the features that it computes are not: its weights are too "
                "large; save the network again, or choose another",
                param="feature_network",
            )
        return found

    return wait


def reference_statistics(
    network: FeatureNetwork,
    dataset: ImageDataset,
    dataset_name: str,
    metrics_version: int,
    cache_folder: Path | None,
    on_progress: Callable[[int], None] | None = None,
    *,
    spatial: bool = False,
) -> ReferenceStatistics:
    """Return the dataset's statistics, from ``cache_folder`` where they lie there undamaged.

    Args:
        network: Feature network.
        dataset: Images to describe.
        dataset_name: Names the images in the cache: their file's SHA-256, and what was done to them.
        metrics_version: Names the code in the cache.
        cache_folder: None computes every time.
        on_progress: Called with the number of images described so far; not called where the statistics lie there.
        spatial: Whether to describe spatial features too.

    Raises:
        InvalidFeatureNetwork: The network computes no spatial features, or some that are not finite.
    """
    if cache_folder is None:
        return _compute(network, dataset, on_progress, spatial=spatial)
    key = f"{metrics_version}:{network.sha256}:{dataset_name}:{network.device.type}{':spatial' if spatial else ''}"
    path = cache_folder / "reference_statistics" / f"{hashlib.sha256(key.encode()).hexdigest()}.npz"
    cached = _read(path)
    if cached is None or (spatial and cached.spatial_moments is None):
        cached = _compute(network, dataset, on_progress, spatial=spatial)
        _write(path, cached)
    return cached


def _compute(
    network: FeatureNetwork, dataset: ImageDataset, on_progress: Callable[[int], None] | None, *, spatial: bool
) -> ReferenceStatistics:
    kept = set(torch.linspace(0, len(dataset) - 1, min(len(dataset), MANIFOLD_IMAGES)).round().long().tolist())
    num_images = network.images_per_call(dataset.info.img_resolution)
    names = ("features", "spatial") if spatial else ("features",)
    moments: dict[str, Moments] = {}
    features: list[Tensor] = []
    for start in range(0, len(dataset), num_images):
        stop = min(start + num_images, len(dataset))
        outputs = extract_outputs(network, dataset.batch(range(start, stop)).images_BCHW, names)
        for name, output_BD in zip(names, outputs, strict=True):
            moments[name] = moments.get(name, Moments.empty(output_BD.shape[1])).merge(Moments.of(output_BD))
        features.append(outputs[0][[row for row in range(stop - start) if start + row in kept]])
        if on_progress is not None:
            on_progress(stop)
    return ReferenceStatistics(moments["features"], torch.cat(features), moments.get("spatial"))


def _write(path: Path, statistics: ReferenceStatistics) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = _arrays_of(statistics.moments) | {"features": statistics.features_MD.numpy()}
    if statistics.spatial_moments is not None:
        arrays |= {f"spatial_{name}": array for name, array in _arrays_of(statistics.spatial_moments).items()}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def _read(path: Path) -> ReferenceStatistics | None:
    """Return None where the file is missing or damaged: it is a cache, and is computed and written again."""
    try:
        # opened here: np.load leaves a file that it cannot read open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            features = arrays["features"]
            moments = _moments_in(arrays)
            spatial_moments = _moments_in(arrays, "spatial_") if "spatial_count" in arrays else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    if features.shape[1:] != tuple(moments.mu_D.shape):
        return None
    return ReferenceStatistics(moments, torch.from_numpy(features), spatial_moments)


def _arrays_of(moments: Moments) -> dict[str, NDArray[Any]]:
    return {"count": np.array(moments.count), "mu": moments.mu_D.numpy(), "scatter": moments.scatter_DD.numpy()}


def _moments_in(arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Moments:
    count, mu, scatter = (arrays[f"{prefix}{name}"] for name in ("count", "mu", "scatter"))
    if mu.ndim != 1 or scatter.shape != mu.shape * 2:
        raise ValueError(f"moments of shapes {mu.shape} and {scatter.shape}")
    return Moments(int(count), torch.from_numpy(mu), torch.from_numpy(scatter))
