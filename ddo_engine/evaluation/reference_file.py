"""Published statistics of real images: EDM's and OpenAI's npz files, EDM2's pickles. Nothing in them is run."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddo_engine.conversion.byte_source import ByteSource, Region
from ddo_engine.conversion.inert_objects import Budget
from ddo_engine.conversion.inert_pickle import InertUnpickler
from ddo_engine.conversion.official_globals import NUMPY_GLOBALS
from ddo_engine.conversion.plain_values import PlainReader
from ddo_engine.errors import CorruptCheckpoint, IncompatibleInputs, InvalidDataset
from ddo_engine.files import sha256_of

REFERENCE_STATISTICS = "reference_statistics"  # the field of specs and jobs that errors name
_MOST_DIMENSIONS = 8192
_MOST_BYTES = 8 * _MOST_DIMENSIONS**2 + 4096  # of an array with its header
_ROUNDING = 1e-6  # of the largest entry: as far may a covariance be from symmetric, or an eigenvalue below zero


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance, float64."""

    mu_D: Tensor
    cov_DD: Tensor


@dataclass(frozen=True)
class ReferenceFile:
    """What a file of statistics holds.

    Attributes:
        sha256: Of the file: part of every evaluation's fingerprint.
        features: By the name that the file gives them; EDM2's have those of several networks.
        spatial: Of spatial features, for sFID; None where the file has none.
    """

    sha256: str
    features: Mapping[str, Gaussian]
    spatial: Gaussian | None = None

    def of_features(self, dim: int) -> Gaussian:
        """Return those of a network's features.

        Raises:
            IncompatibleInputs: None has this dimension, or several have.
        """
        fitting = [gaussian for gaussian in self.features.values() if len(gaussian.mu_D) == dim]
        if len(fitting) != 1:
            held = ", ".join(f"{name}: {len(gaussian.mu_D):,}" for name, gaussian in self.features.items())
            raise IncompatibleInputs(
                f"the feature network computes {dim:,} features, and not one of the file's statistics is of these "
                f"({held}): choose the file that was made with this network, or leave reference_statistics out",
                param=REFERENCE_STATISTICS,
            )
        return fitting[0]

    def of_spatial(self, dim: int) -> Gaussian:
        """Return those of spatial features.

        Raises:
            IncompatibleInputs: There are none, or they have another dimension.
        """
        if self.spatial is None or len(self.spatial.mu_D) != dim:
            raise IncompatibleInputs(
                f"sFID needs mu_s and sigma_s of {dim:,} dimensions, the file of statistics has "
                f"{'none' if self.spatial is None else f'those of {len(self.spatial.mu_D):,}'}: set evaluation.sfid to "
                "false, or choose a file with them",
                param=REFERENCE_STATISTICS,
            )
        return self.spatial


def load_reference_file(path: Path) -> ReferenceFile:
    """Read statistics and check that they are those of a distribution.

    Args:
        path: An npz with ``mu`` and ``sigma``, and perhaps ``mu_s`` and ``sigma_s``; whatever else is in it is left
            alone. Or a pickle of a dictionary of such pairs.

    Raises:
        InvalidDataset: The file is damaged or of another kind, or a covariance is none; the message names it.
    """
    try:
        named = _of_npz(path) if zipfile.is_zipfile(path) else _of_pickle(path)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        reason = error.message if isinstance(error, CorruptCheckpoint) else str(error)
        raise InvalidDataset(
            f"{path.name} is no file of reference statistics that can be read, an npz with mu and sigma or EDM2's "
            f"pickle: {reason}",
            param=REFERENCE_STATISTICS,
        ) from error
    features = {name: _gaussian(path, name, *pair) for name, pair in named.items()}
    return ReferenceFile(sha256_of(path), features, features.pop("mu_s", None))


_Pairs = dict[str, tuple[NDArray[Any], NDArray[Any]]]


def _of_npz(path: Path) -> _Pairs:
    # Opened here: np.load leaves a file that it cannot read open. It is asked for arrays of numbers alone.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in arrays.zip.infolist()}
        wanted = [
            pair for pair in (("mu", "sigma"), ("mu_s", "sigma_s")) if pair == ("mu", "sigma") or pair[0] in sizes
        ]
        for name in (name for pair in wanted for name in pair):
            if name not in sizes:
                raise ValueError(f"it has no {name!r}")
            if sizes[name] > _MOST_BYTES:
                raise ValueError(f"{name!r} is of more than {_MOST_DIMENSIONS:,} dimensions")
        return {mu: (arrays[mu], arrays[sigma]) for mu, sigma in wanted}


def _of_pickle(path: Path) -> _Pairs:
    with path.open("rb") as file:
        source = ByteSource(file, Region(0, path.stat().st_size), path.name)
        top = InertUnpickler(source, NUMPY_GLOBALS, Budget()).load()
        if not isinstance(top, dict) or not top:
            raise ValueError("it is a pickle, but of no dictionary")
        reader = PlainReader(source, _MOST_DIMENSIONS**2)
        pairs: _Pairs = {}
        for name, pair in top.items():
            if not isinstance(name, str) or not isinstance(pair, dict) or not {"mu", "sigma"} <= pair.keys():
                raise ValueError("its dictionary is not one of pairs of mu and sigma")
            pairs[name] = reader.array(pair["mu"]), reader.array(pair["sigma"])
        return pairs


def _gaussian(path: Path, name: str, mu: NDArray[Any], sigma: NDArray[Any]) -> Gaussian:
    def refuse(what: str) -> InvalidDataset:
        return InvalidDataset(f"{path.name}: {name}: {what}: fetch the file again", param=REFERENCE_STATISTICS)

    if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise refuse("mean and covariance are not numbers")
    if mu.ndim != 1 or not 1 <= len(mu) <= _MOST_DIMENSIONS or sigma.shape != mu.shape * 2:
        raise refuse(f"mean and covariance have the shapes {mu.shape} and {sigma.shape}")
    mu_D, cov_DD = (torch.from_numpy(array.astype(np.float64)) for array in (mu, sigma))
    if not bool(torch.isfinite(mu_D).all() & torch.isfinite(cov_DD).all()):
        raise refuse("a number is NaN or infinite")
    room = _ROUNDING * float(cov_DD.abs().max())
    if float((cov_DD - cov_DD.T).abs().max()) > room:
        raise refuse("the covariance is not symmetric")
    cov_DD = (cov_DD + cov_DD.T) / 2
    if float(torch.linalg.eigvalsh(cov_DD)[0]) < -room:
        raise refuse("the covariance has negative eigenvalues")
    return Gaussian(mu_D, cov_DD)
