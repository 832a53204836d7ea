import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.evaluation import FeatureManifest, FeatureNetwork, load_features, save_features
from ddo_engine.evaluation.networks.inception import Inception
from ddo_engine.files import sha256_of

IMAGES = torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def rewrite(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> None:
    manifest = load_features(path).manifest.model_dump(mode="json") | changes
    save_file(tensors or load_file(path), path, {"ddo_manifest": json.dumps(manifest)})


def test_load_saved_network_gives_features_and_hash(feature_file: Path) -> None:
    network = load_features(feature_file)
    outputs = network(IMAGES)
    assert outputs["features"].shape == (7, 12)
    assert outputs["logits"].shape == (7, 10)
    assert not outputs["features"].requires_grad
    assert network.sha256 == sha256_of(feature_file)
    assert outputs["features"].std() > 0


def test_save_twice_gives_the_same_bytes(feature_file: Path, tmp_path: Path) -> None:
    network = load_features(feature_file)
    save_features(tmp_path / "again.safetensors", network.module, network.manifest)
    assert sha256_of(tmp_path / "again.safetensors") == network.sha256


def test_features_do_not_depend_on_the_batch(feature_network: FeatureNetwork) -> None:
    together = feature_network(IMAGES)["features"]
    alone = torch.cat([feature_network(image[None])["features"] for image in IMAGES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (1, 1, 16, 16)])
def test_network_images_unlike_its_own_are_refused(feature_network: FeatureNetwork, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidFeatureNetwork, match="choose a feature network"):
        feature_network(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(("resolution", "device", "expected"), [(8, "cpu", 256), (64, "cpu", 256), (32, "meta", 256)])
def test_images_per_call_of_a_small_network_are_as_many_as_ever(
    feature_network: FeatureNetwork, resolution: int, device: str, expected: int
) -> None:
    network = dataclasses.replace(feature_network, device=torch.device(device))
    assert network.images_per_call(resolution) == expected


def test_images_per_call_of_inception_fit_into_the_memory_of_the_device(feature_network: FeatureNetwork) -> None:
    with torch.device("meta"):
        inception = dataclasses.replace(feature_network, module=Inception())
    assert [inception.images_per_call(side) for side in (32, 256, 1024, 100_000)] == [16, 16, 16, 16]
    elsewhere = dataclasses.replace(inception, device=torch.device("meta"))
    assert [elsewhere.images_per_call(side) for side in (32, 256, 1024, 100_000)] == [192, 176, 112, 16]


def test_load_huge_header_is_refused_before_it_is_parsed(feature_file: Path) -> None:
    feature_file.write_bytes((2**25).to_bytes(8, "little") + b"{" * 2**25)
    with pytest.raises(InvalidFeatureNetwork, match="header of 33554432 bytes is far longer"):
        load_features(feature_file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "inception_v4"}, "no architecture"),
        ({"format_version": 2}, "manifest"),
        ({"extra": 1}, "manifest"),
        ({"config": {"img_resolution": 8}}, "config"),
        ({"config": {"img_resolution": 16, "img_channels": 1, "num_classes": 10}}, "config"),
        ({"config": {"img_resolution": 10**6, "img_channels": 1, "num_classes": 10}}, "config"),
    ],
)
def test_load_manifest_wrong_is_refused(feature_file: Path, changes: dict[str, Any], said: str) -> None:
    rewrite(feature_file, **changes)
    with pytest.raises(InvalidFeatureNetwork, match=said):
        load_features(feature_file)


def test_load_tensors_wrong_is_refused(feature_file: Path) -> None:
    good = load_file(feature_file)
    for name, change in {
        "not finite": {"head.bias": good["head.bias"] * float("nan")},
        "other type": {"head.bias": good["head.bias"].double()},
        "other shape": {"head.bias": good["head.bias"][:3].clone()},
        "unknown": {"tail.bias": good["head.bias"].clone()},
    }.items():
        rewrite(feature_file, {**good, **change})
        with pytest.raises(InvalidFeatureNetwork):
            load_features(feature_file)
        rewrite_good(feature_file, good)
        assert load_features(feature_file), name
    rewrite(feature_file, {key: value for key, value in good.items() if key != "head.bias"})
    with pytest.raises(InvalidFeatureNetwork, match=r"head\.bias"):
        load_features(feature_file)


def rewrite_good(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    manifest = FeatureManifest(
        architecture="image_classifier",
        config={"img_resolution": 8, "img_channels": 1, "num_classes": 10, "model_channels": 4, "feature_dim": 12},
    )
    save_file(tensors, path, {"ddo_manifest": manifest.model_dump_json()})


def test_load_no_manifest_is_refused(feature_file: Path) -> None:
    save_file(load_file(feature_file), feature_file)
    with pytest.raises(InvalidFeatureNetwork, match="ddo_manifest"):
        load_features(feature_file)


def test_load_truncated_pickled_or_missing_file_is_refused(feature_file: Path, tmp_path: Path) -> None:
    whole = feature_file.read_bytes()
    for damaged in (b"", whole[:8], whole[:100], whole[:-1], whole + b"x"):
        feature_file.write_bytes(damaged)
        with pytest.raises(InvalidFeatureNetwork, match="safetensors"):
            load_features(feature_file)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "pickle.pt")
    for path in (tmp_path / "pickle.pt", tmp_path / "absent.safetensors"):
        with pytest.raises(InvalidFeatureNetwork):
            load_features(path)
