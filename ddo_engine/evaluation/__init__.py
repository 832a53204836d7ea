"""What a checkpoint is worth: FID, precision and recall of its samples, under a fingerprinted protocol."""

from ddo_engine.evaluation.evaluator import Evaluator
from ddo_engine.evaluation.features import FeatureManifest, FeatureNetwork, load_features, save_features
from ddo_engine.evaluation.frechet import frechet_distance
from ddo_engine.evaluation.moments import Moments

__all__ = [
    "Evaluator",
    "FeatureManifest",
    "FeatureNetwork",
    "Moments",
    "frechet_distance",
    "load_features",
    "save_features",
]
