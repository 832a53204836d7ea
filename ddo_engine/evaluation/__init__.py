"""What a checkpoint is worth: FID and its like of its samples, under a fingerprinted protocol."""

from ddo_engine.evaluation.evaluator import Evaluator
from ddo_engine.evaluation.features import FeatureNetwork, load_features
from ddo_engine.evaluation.frechet import frechet_distance
from ddo_engine.evaluation.inception_score import inception_score, inception_score_of_logits
from ddo_engine.evaluation.judge import Judge
from ddo_engine.evaluation.moments import Moments
from ddo_engine.evaluation.networks.feature_file import FeatureManifest
from ddo_engine.evaluation.networks.saving import convert_features, save_features

__all__ = [
    "Evaluator",
    "FeatureManifest",
    "FeatureNetwork",
    "Judge",
    "Moments",
    "convert_features",
    "frechet_distance",
    "inception_score",
    "inception_score_of_logits",
    "load_features",
    "save_features",
]
