"""Files of reference statistics: what is read, what is measured against them, and what is refused."""

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ddo_engine.data import ImageDataset, InMemoryDataset
from ddo_engine.errors import IncompatibleInputs, InvalidDataset
from ddo_engine.evaluation import FeatureNetwork, Judge
from ddo_engine.evaluation.reference_file import load_reference_file
from ddo_engine.spec import EvaluationSettings

DIM = 12  # of the feature network's features
SETTINGS = EvaluationSettings(num_samples=30)
Arrays = Mapping[str, NDArray[Any]]


def statistics(dim: int = DIM, seed: int = 0) -> dict[str, NDArray[Any]]:
    features = np.random.default_rng(seed).normal(size=(3 * dim, dim))
    return {"mu": features.mean(axis=0), "sigma": np.cov(features, rowvar=False)}


def save_npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


def save_pickle(path: Path, value: object) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=4))
    return path


@pytest.fixture
def dataset() -> ImageDataset:
    images = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return InMemoryDataset(images, None)


def test_npz_gives_its_arrays_and_leaves_others_alone(tmp_path: Path) -> None:
    arrays, spatial = statistics(), statistics(7, 1)
    arrays |= {"mu_s": spatial["mu"], "sigma_s": spatial["sigma"].astype(np.float32), "arr_0": np.array([object()])}
    read = load_reference_file(save_npz(tmp_path / "virtual.npz", arrays))
    assert read.of_features(DIM).mu_D.tolist() == arrays["mu"].tolist()
    assert read.of_features(DIM).cov_DD.numpy() == pytest.approx(arrays["sigma"], rel=1e-14)
    assert read.of_spatial(7).mu_D.tolist() == spatial["mu"].tolist()
    assert read.of_spatial(7).cov_DD.dtype == torch.float64


@pytest.mark.parametrize("order", ["C", "F"])
def test_pickle_gives_the_statistics_of_the_network_with_as_many_features(tmp_path: Path, order: Any) -> None:
    wide, narrow = statistics(200), statistics()
    narrow["sigma"] = np.array(narrow["sigma"], order=order)
    read = load_reference_file(save_pickle(tmp_path / "img64.pkl", {"fid": wide, "fd_dinov2": narrow}))
    assert read.of_features(DIM).cov_DD.numpy() == pytest.approx(narrow["sigma"], rel=1e-14)
    assert read.of_features(200).mu_D.tolist() == wide["mu"].tolist()
    with pytest.raises(IncompatibleInputs, match=r"fid: 200, fd_dinov2: 12"):
        read.of_features(13)


def test_fid_against_a_file_of_the_dataset_is_that_against_the_dataset(
    tmp_path: Path, feature_network: FeatureNetwork, dataset: ImageDataset
) -> None:
    plain = Judge(feature_network, dataset, "0" * 64)
    moments = plain.reference.moments
    arrays = {"mu": moments.mu_D.numpy(), "sigma": moments.cov_DD.numpy()}
    samples = InMemoryDataset(dataset.images_NCHW.flip(3)[:30], None)

    def judge(arrays: Arrays) -> Judge:
        file = load_reference_file(save_npz(tmp_path / "reference.npz", arrays))
        return Judge(feature_network, dataset, "0" * 64, reference_file=file)

    same, other = judge(arrays), judge(arrays | {"mu": arrays["mu"] + 1})
    assert same.measure(samples, SETTINGS) == pytest.approx(plain.measure(samples, SETTINGS), rel=1e-9)
    assert other.measure(samples, SETTINGS)["fid"] > plain.measure(samples, SETTINGS)["fid"] + 1
    hashes = [each.protocol(SETTINGS).get("reference_statistics_sha256") for each in (plain, same, other)]
    assert hashes[0] is None
    assert len(set(hashes)) == 3


def test_fid_alone_against_a_file_reads_no_statistics_of_the_dataset(
    tmp_path: Path, feature_network: FeatureNetwork, dataset: ImageDataset
) -> None:
    file = load_reference_file(save_npz(tmp_path / "reference.npz", statistics()))
    judge = Judge(feature_network, dataset, "0" * 64, on_reading=pytest.fail, reference_file=file)
    assert set(judge.measure(dataset, SETTINGS.model_copy(update={"neighbours": None}))) == {"fid"}


def test_statistics_of_other_features_are_refused_before_anything_is_drawn(
    tmp_path: Path, feature_network: FeatureNetwork, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = load_reference_file(save_npz(tmp_path / "wide.npz", statistics(13)))
    with pytest.raises(IncompatibleInputs, match="computes 12 features") as error:
        Judge(feature_network, dataset, "0" * 64, reference_file=file)
    assert error.value.param == "reference_statistics"
    fitting = load_reference_file(save_npz(tmp_path / "fitting.npz", statistics()))
    judge = Judge(feature_network, dataset, "0" * 64, reference_file=fitting)
    monkeypatch.setattr(feature_network.module, "outputs", None)
    monkeypatch.setattr(judge, "_dim_of", lambda _: 7)
    with pytest.raises(IncompatibleInputs, match="mu_s and sigma_s of 7 dimensions, the file of statistics has none"):
        judge.check(SETTINGS.model_copy(update={"sfid": True}))


class _Runs:
    def __reduce__(self) -> tuple[Callable[..., int], tuple[str]]:
        return os.system, ("exit 1",)


def _without(name: str) -> Arrays:
    return {key: array for key, array in statistics().items() if key != name}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (_without("sigma"), "no 'sigma'"),
        (statistics() | {"mu": np.zeros((DIM, 1))}, "shapes"),
        (statistics() | {"sigma": np.eye(DIM + 1)}, "shapes"),
        (statistics() | {"sigma": np.eye(DIM) + np.eye(DIM, k=1)}, "not symmetric"),
        (statistics() | {"sigma": np.diag([*[1.0] * (DIM - 1), -0.1])}, "negative eigenvalues"),
        (statistics() | {"mu": np.full(DIM, np.nan)}, "NaN"),
        (statistics() | {"mu": np.array(["a"] * DIM)}, "not numbers"),
        (statistics() | {"mu": np.array([object()] * DIM)}, "pickle"),
    ],
)
def test_npz_of_no_distribution_is_refused(tmp_path: Path, arrays: Arrays, message: str) -> None:
    with pytest.raises(InvalidDataset, match=message) as error:
        load_reference_file(save_npz(tmp_path / "reference.npz", arrays))
    assert error.value.param == "reference_statistics"


def test_npz_that_unpacks_to_more_than_any_statistics_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddo_engine.evaluation.reference_file._MOST_BYTES", 500)
    with pytest.raises(InvalidDataset, match="'sigma' is of more than"):
        load_reference_file(save_npz(tmp_path / "reference.npz", statistics()))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"fid": {"mu": _Runs(), "sigma": 1}}, "system"),
        ([1, 2], "no dictionary"),
        ({"fid": {"mu": np.zeros(DIM)}}, "pairs of mu and sigma"),
        ({"fid": {"mu": np.zeros(DIM), "sigma": 3.0}}, "not one that numpy writes"),
        ({"fid": {"mu": np.zeros(DIM), "sigma": np.array(["a"] * 4)}}, "dtype"),
    ],
)
def test_pickle_of_anything_else_is_refused_and_nothing_in_it_runs(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(InvalidDataset, match=message) as error:
        load_reference_file(save_pickle(tmp_path / "reference.pkl", value))
    assert error.value.param == "reference_statistics"


@pytest.mark.parametrize("kept", [0, 10, 400, -1])
@pytest.mark.parametrize("suffix", ["npz", "pkl"])
def test_file_cut_short_is_refused(tmp_path: Path, kept: int, suffix: str) -> None:
    path = tmp_path / f"reference.{suffix}"
    save_npz(path, statistics()) if suffix == "npz" else save_pickle(path, {"fid": statistics()})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InvalidDataset, match="reference"):
        load_reference_file(path)
