from pathlib import Path

import pytest
import torch

from ddo_engine.evaluation import FeatureManifest, FeatureNetwork, load_features, save_features
from ddo_engine.evaluation.networks.image_classifier import ImageClassifier, ImageClassifierConfig

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
