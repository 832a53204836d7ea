"""Feature networks in their authors' formats."""

import json
import os
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import ddo_engine
from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.evaluation import FeatureManifest, convert_features, load_features, save_features
from ddo_engine.evaluation.networks.dinov2 import resampled_positions
from ddo_engine.evaluation.networks.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.evaluation.networks.inception_names import graph_names
from ddo_engine.files import sha256_of
from ddo_engine.spec import TRUSTED_FEATURE_NETWORKS
from tests.inception_files import save_torchscript, without_scales, write_torchscript
from tests.numerics.inception_weights import inception_weights

IMAGES = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Means(nn.Module):
    """A network of nobody's format."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean(dim=(2, 3)) * self.scale


def assert_weights(module: nn.Module, expected: dict[str, Tensor]) -> None:
    found = module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "pt_inception-2015-12-05.pth"
    torch.save(inception_weights(), path)
    return path


def test_load_published_state_dict_is_inception(published: Path, tmp_path: Path):
    network = ddo_engine.load_features(published)
    assert_weights(network.module, inception_weights())
    assert network.manifest.architecture == "inception"
    assert network.sha256 == sha256_of(published)
    assert network.computes("spatial")
    torch.save(inception_weights(), tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    assert_weights(load_features(tmp_path / "legacy.pth").module, inception_weights())


def test_load_by_name_reads_what_the_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "any network"
    module = ImageClassifier(ImageClassifierConfig(img_resolution=4, img_channels=1, num_classes=2))
    manifest = FeatureManifest(
        architecture="image_classifier", config={"img_resolution": 4, "img_channels": 1, "num_classes": 2}
    )
    save_features(path, module, manifest)
    for value in (str(path), path.as_uri()):
        monkeypatch.setenv("DDO_INCEPTION_WEIGHTS", value)
        assert load_features("inception").sha256 == sha256_of(path)
    monkeypatch.setenv("DDO_INCEPTION_WEIGHTS", "s3://bucket/inception.pth")
    with pytest.raises(InvalidFeatureNetwork, match="not fetched"):
        load_features("inception")
    monkeypatch.delenv("DDO_INCEPTION_WEIGHTS")
    with pytest.raises(InvalidFeatureNetwork, match=r"DDO_INCEPTION_WEIGHTS.*curl.*pt_inception-2015-12-05") as error:
        load_features("inception")
    assert error.value.param == "feature_network"


def test_convert_makes_one_file_of_any_name(published: Path, tmp_path: Path):
    manifest = convert_features(published, tmp_path / "a.safetensors")
    renamed = tmp_path / "renamed"
    renamed.symlink_to(published)
    convert_features(renamed, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert manifest.provenance == {"converted_from_sha256": sha256_of(published)}
    network = load_features(tmp_path / "a.safetensors")
    assert_weights(network.module, inception_weights())
    assert network.manifest == manifest


def test_load_state_dict_with_other_tensors_is_refused(tmp_path: Path):
    weights = {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3), "fc.weight": torch.zeros(1000, 2048)}
    save_file(weights, tmp_path / "other.safetensors")
    with pytest.raises(InvalidFeatureNetwork, match=r"other\.safetensors.*'inception'.*Conv2d_1a_3x3\.bn\.bias"):
        load_features(tmp_path / "other.safetensors")


class Touch:
    """Pickles as a command that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_load_hostile_pickle_is_refused_and_not_run(tmp_path: Path):
    mark = tmp_path / "mark"
    torch.save({"fc.weight": Touch(mark)}, tmp_path / "hostile.pth")
    with pytest.raises(InvalidFeatureNetwork, match=r"posix\.system"):
        load_features(tmp_path / "hostile.pth", run_code=True)
    assert not mark.exists()


def test_load_nvidia_s_torchscript_takes_its_tensors_and_leaves_its_code(tmp_path: Path):
    path = write_torchscript(tmp_path / "inception-2015-12-05.pt")
    assert_weights(load_features(path).module, without_scales())
    convert_features(path, tmp_path / "ours.safetensors")
    assert_weights(load_features(tmp_path / "ours.safetensors").module, without_scales())


def test_graph_names_that_shapes_do_not_tell_apart():
    names = dict(graph_names())
    assert len(names) == len(set(names.values())) == 94
    assert names["mixed.conv"] == "Mixed_5b.branch1x1"
    assert names["mixed.tower_1.conv"] == "Mixed_5b.branch3x3dbl_1"
    assert [names[f"mixed_{index}.conv"] for index in (4, 5, 6, 7)] == [
        f"Mixed_6{letter}.branch1x1" for letter in "bcde"
    ]
    assert names["mixed_10.tower_mixed_conv"] == "Mixed_7c.branch3x3_2a"
    assert names["mixed_10.tower_1_mixed_conv"] == "Mixed_7c.branch3x3dbl_3a"


def test_load_program_runs_only_where_somebody_trusts_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "means.pt"
    save_torchscript(Means(), path)
    with pytest.raises(InvalidFeatureNetwork, match=rf"{TRUSTED_FEATURE_NETWORKS}={sha256_of(path)}.*run_code=True"):
        load_features(path)
    monkeypatch.setenv(TRUSTED_FEATURE_NETWORKS, f"{'0' * 64}:{sha256_of(path)}")
    expected = IMAGES.float().mean(dim=(2, 3)) * 2
    for network in (load_features(path), load_features(path, run_code=True)):
        torch.testing.assert_close(network(IMAGES)["features"], expected)
        assert network.computes("logits")  # nobody knows
    with pytest.raises(InvalidFeatureNetwork, match=TRUSTED_FEATURE_NETWORKS):
        convert_features(path, tmp_path / "a.safetensors")


def test_load_exported_program_runs_where_it_is_trusted(tmp_path: Path):
    path = tmp_path / "means.pt2"
    example = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    program = torch.export.export(Means(), (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, path)
    with pytest.raises(InvalidFeatureNetwork, match=TRUSTED_FEATURE_NETWORKS):
        load_features(path)
    network = load_features(path, run_code=True)
    torch.testing.assert_close(network(IMAGES)["features"], IMAGES.float().mean(dim=(2, 3)) * 2)
    with pytest.raises(InvalidFeatureNetwork, match=r"means\.pt2 fails on uint8 images of shape \(3, 3, 8, 8\)"):
        network(IMAGES[..., :8, :8])


def test_program_with_other_outputs_is_refused(tmp_path: Path):
    class Pixels(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float()

    path = tmp_path / "pixels.pt"
    save_torchscript(Pixels(), path)
    with pytest.raises(InvalidFeatureNetwork, match="a row per image"):
        load_features(path, run_code=True)(IMAGES)


def test_load_damaged_program_is_refused(tmp_path: Path):
    path = tmp_path / "means.pt"
    save_torchscript(Means(), path)
    whole = path.read_bytes()
    disks = whole.rindex(b"PK\6\7") + 16
    of_two_disks = whole[:disks] + b"\2" + whole[disks + 1 :]
    for damaged in (whole[:-100], whole[:100], whole.replace(b"data.pkl", b"atad.pkl"), of_two_disks):
        path.write_bytes(damaged)
        with pytest.raises(InvalidFeatureNetwork):
            load_features(path, run_code=True)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = pytest.importorskip("transformers", reason="needs the extra dinov2")
    torch.manual_seed(0)
    config = library.Dinov2Config(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=70, patch_size=14
    )
    model = library.Dinov2Model(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    folder = tmp_path_factory.mktemp("dinov2") / "model"
    model.save_pretrained(folder)
    return folder


def test_load_dinov2_without_its_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    manifest = FeatureManifest(architecture="dinov2", config={}).model_dump_json()
    save_file({"layernorm.bias": torch.zeros(1)}, tmp_path / "dinov2.safetensors", {"ddo_manifest": manifest})
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InvalidFeatureNetwork, match=r"ddo-finetuning-service\[dinov2\]"):
        load_features(tmp_path / "dinov2.safetensors")


def test_load_dinov2_folder_gives_the_class_token(dinov2: Path):
    import transformers

    network = load_features(dinov2)
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    model = transformers.Dinov2Model.from_pretrained(dinov2).eval()
    pixels = (images / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    with torch.no_grad():
        expected = model(pixels).last_hidden_state[:, 0]
    found = network(images)["features"]
    # The library resamples positions otherwise than DINOv2's own code: near, but not the same.
    assert (found - expected).norm() < 0.2 * expected.norm()
    assert not torch.equal(found, expected)
    assert network(IMAGES[:, :1])["features"].shape == (3, 8)
    assert not network.computes("logits")


def test_positions_are_resampled_as_dinov2_s_own_code_does():
    """A ramp shows where each position was taken from, but for the kernel, which bends ramps by 0.05."""
    old_side, side = 37, 16
    ramp = torch.arange(old_side, dtype=torch.float64)
    patches = torch.stack(torch.meshgrid(ramp, -ramp, indexing="ij"), dim=-1).view(1, -1, 2)
    token = torch.tensor([[[100.0, 200.0]]], dtype=torch.float64)
    found = resampled_positions(torch.cat([token, patches], dim=1), side)
    assert torch.equal(found[:, :1], token)
    grid = found[0, 1:].view(side, side, 2)[1:-1, 1:-1]
    centres = torch.arange(side, dtype=torch.float64)[1:-1] + 0.5
    places, library_s = centres * old_side / (side + 0.1) - 0.5, centres * old_side / side - 0.5
    for rows in (grid[:, 3, 0], -grid[3, :, 1]):
        assert (rows - places).abs().max() < 0.06
        assert (rows - library_s).abs().max() > 0.15
    assert resampled_positions(found, side) is found


def test_dinov2_in_a_zip_and_converted_is_the_same(dinov2: Path, tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "dinov2.zip", "w") as archive:
        for file in dinov2.iterdir():
            archive.write(file, f"dinov2-large/{file.name}")
    convert_features(tmp_path / "dinov2.zip", tmp_path / "ours.safetensors")
    expected = load_features(dinov2)(IMAGES)["features"]
    for path in (tmp_path / "dinov2.zip", tmp_path / "ours.safetensors"):
        assert torch.equal(load_features(path)(IMAGES)["features"], expected)


def test_dinov2_folder_of_another_model_or_incomplete_is_refused(tmp_path: Path):
    for config, message in (
        ({"model_type": "vit"}, "'vit'"),
        ({"model_type": "dinov2", "hidden_size": 10, "num_attention_heads": 3}, "divisible"),
        ([], "None"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
        with pytest.raises(InvalidFeatureNetwork, match=message):
            load_features(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InvalidFeatureNetwork, match=r"no model\.safetensors"):
        load_features(tmp_path)
