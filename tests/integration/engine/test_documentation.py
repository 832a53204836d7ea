"""The snippets of docs/engine.md run, one after the other, and give the dtypes and shapes that stand beside them."""

import re
import shlex
from typing import Any

import pytest
import torch

from ddo_engine.command_line import main
from ddo_engine.data import write_dataset
from ddo_engine.families import get_family
from ddo_engine.spec import UNIT_SPEC
from tests import official_pickles
from tests.diffusers_folders import library_autoencoder, library_unet, write_pipeline
from tests.engine_inputs import REPOSITORY
from tests.tiny_families import write_discriminator

PAGE = (REPOSITORY / "docs" / "engine.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
RESULT = re.compile(r"^(\w+) = .*  # (\w+), \(([\d, ]+)\)$")

EDM = {
    "img_resolution": 32,
    "img_channels": 3,
    "label_dim": 10,
    "use_fp16": False,
    "model_type": "SongUNet",
    "model_channels": 16,
    "channel_mult": [1, 1],
    "num_blocks": 1,
    "attn_resolutions": [16],
    "augment_dim": 9,
}
EDM2 = {
    "img_resolution": 64,
    "img_channels": 3,
    "label_dim": 1000,
    "use_fp16": True,
    "model_channels": 4,
    "channel_mult": [1, 2],
    "num_blocks": 1,
}
VAR = {"class_name": "VAR", "num_classes": 1000, "depth": 1, "embed_dim": 64, "num_heads": 1}
VOCABULARY = {"vocab_size": 4096, "z_channels": 32}
VQVAE = {"class_name": "VQVAE", "ch": 4, "num_res_blocks": 1}


def random_weights(family: str, config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model = get_family(family).build(config)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return {name: weight.detach() for name, weight in model.state_dict().items()}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Small models under the names of the page, in the working directory."""
    monkeypatch.chdir(tmp_path)
    weights = random_weights("edm", {"class_name": "EDMPrecond"} | EDM, 0)
    official_pickles.write(tmp_path / "edm-cifar10-32x32-cond-vp.pkl", official_pickles.edm_file(EDM, weights))
    latents = EDM2 | {"img_channels": 4}
    for seed, (name, config, encoder) in enumerate(
        [
            ("edm2-img64-s-1073741-0.075.pkl", EDM2, None),
            ("edm2-img64-xs-0134217-0.165.pkl", EDM2, None),
            ("edm2-img512-xs-2147483-0.135.pkl", latents, official_pickles.latent_encoder()),
        ]
    ):
        weights = random_weights("edm2", {"class_name": "Precond"} | config, seed)
        official_pickles.write(tmp_path / name, official_pickles.edm2_file(config, weights, encoder=encoder))
    torch.save(random_weights("var", VAR | VOCABULARY, 0), tmp_path / "var_d16.pth")
    torch.save(random_weights("var", VQVAE | VOCABULARY, 1), tmp_path / "vae_ch160v4096z32.pth")
    eightfold = {
        "block_out_channels": (4, 4, 4, 4),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    library_autoencoder(**eightfold).save_pretrained(tmp_path / "sd-vae-ft-mse")
    write_pipeline(tmp_path / "ddpm-cifar10-32", library_unet(sample_size=32))
    images = torch.randint(256, (3, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    write_dataset(tmp_path / "imagenet.zip", images, torch.arange(3))
    (tmp_path / "discriminator").mkdir()
    shape = {name: EDM[name] for name in ("img_resolution", "img_channels", "label_dim")}
    write_discriminator(tmp_path / "discriminator" / "discriminator.safetensors", **shape)
    return tmp_path


def check_result(line: str, names: dict[str, Any]) -> int:
    found = RESULT.match(line)
    if found is None:
        return 0
    name, dtype, shape = found.groups()
    assert str(names[name].dtype) == f"torch.{dtype}", line
    assert tuple(names[name].shape) == tuple(int(side) for side in shape.split(",")), line
    return 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_snippets_run_and_give_what_stands_beside_them(files, capsys):
    names: dict[str, Any] = {}
    num_results = 0
    with torch.no_grad():
        for language, block in BLOCKS:
            if language == "python":
                for line in block.splitlines():
                    exec(line, names)
                    num_results += check_result(line, names)
            elif language == "json":
                UNIT_SPEC.validate_json(block)
    commands = [line for language, block in BLOCKS if language == "console" for line in block.splitlines()]
    for command in commands:
        words = shlex.split(command)
        assert words[:4] == ["$", "python", "-m", "ddo_engine"]
        assert main(words[4:]) == 0, capsys.readouterr().err
    assert num_results > 12
    assert {command.split()[4] for command in commands} == {"convert", "inspect", "export", "encode"}
    assert (files / "base.pth").is_file()
    assert (files / "latents.zip").is_file()
