from pathlib import Path

import pytest
import torch

from ddo_engine.evaluation import FeatureManifest, FeatureNetwork, load_features, save_features
from ddo_engine.evaluation.networks.image_classifier import ImageClassifier, ImageClassifierConfig
from ddo_engine.families import get_family

CONFIG = {"img_resolution": 8, "img_channels": 1, "num_classes": 10, "model_channels": 4, "feature_dim": 12}


@pytest.fixture
def feature_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    module = ImageClassifier(ImageClassifierConfig.model_validate(CONFIG))
    path = tmp_path / "features.safetensors"
    save_features(path, module, FeatureManifest(architecture="image_classifier", config=CONFIG))
    return path


@pytest.fixture
def feature_network(feature_file: Path) -> FeatureNetwork:
    return load_features(feature_file)


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(2)
    network = get_family("edm").build(
        {"class_name": "MLPPrecond", "img_resolution": 8, "img_channels": 1, "label_dim": 10, "width": 16}
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network
