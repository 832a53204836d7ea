"""The contract between engine, worker and API: every setting, defined once. Imports no torch.

A *job* is described by :class:`JobSpec`, the body of ``POST /jobs``. The planner cuts it into units of
work; each is told what to do by one of the unit specs (:data:`UnitSpec`), which is also the JSON file that
``python -m ddo_engine COMMAND spec.json`` reads. What a unit reports back is an :data:`EngineEvent`,
one JSON object per line on the engine's standard output.

Settings are reused, not mapped: ``TrainingSettings`` in a job is the same object as in a unit.
"""

from ddo_engine.spec.base import FileRef, PositiveFloat, Seed, Settings, Sha256, Uri, map_files
from ddo_engine.spec.baseline import (
    AutoguidanceBaseline,
    BaselineSettings,
    CCABaseline,
    DiscriminatorGuidanceBaseline,
    GuidanceBaseline,
    MLEBaseline,
    SampledBaseline,
    TrainedBaseline,
)
from ddo_engine.spec.beta import Beta
from ddo_engine.spec.discriminator import DiscriminatorNetwork, DiscriminatorTraining
from ddo_engine.spec.evaluation import ConfirmSettings, EvaluationSettings
from ddo_engine.spec.event import (
    ENGINE_EVENT,
    BetaFound,
    CheckpointInfo,
    DatasetInfo,
    EngineEvent,
    Evaluated,
    Failed,
    FileRole,
    FileWritten,
    Finished,
    Metric,
    Performance,
    Progress,
    Report,
    Started,
    TrainingWarning,
)
from ddo_engine.spec.feature_network import FETCH_INCEPTION, INCEPTION, INCEPTION_VARIABLE, TRUSTED_FEATURE_NETWORKS
from ddo_engine.spec.job import JobSpec
from ddo_engine.spec.learning_rate import (
    CosineSchedule,
    EDM2Schedule,
    EDMSchedule,
    LearningRateSchedule,
    VARSchedule,
)
from ddo_engine.spec.location import as_written
from ddo_engine.spec.reference_set import OfflineReferenceSet, OnlineReferenceSet, ReferenceSetSettings
from ddo_engine.spec.rounds import RoundOverride, RoundSettings, StopSettings
from ddo_engine.spec.sampler import (
    AutoregressiveSettings,
    DPMSolverSettings,
    HeunSettings,
    LabelDistribution,
    SamplerSettings,
)
from ddo_engine.spec.settings import (
    IMAGES_AS_STORED,
    CCAObjective,
    DatasetReading,
    DatasetSettings,
    DDOObjective,
    Grid,
    MLEObjective,
    Objective,
    TrainingSettings,
)
from ddo_engine.spec.unit import (
    UNIT_SPEC,
    DiscriminatorSpec,
    EvaluateSpec,
    GenerateSpec,
    TrainSpec,
    UnitSpec,
    ValidateSpec,
)

__all__ = [
    "ENGINE_EVENT",
    "FETCH_INCEPTION",
    "IMAGES_AS_STORED",
    "INCEPTION",
    "INCEPTION_VARIABLE",
    "TRUSTED_FEATURE_NETWORKS",
    "UNIT_SPEC",
    "AutoguidanceBaseline",
    "AutoregressiveSettings",
    "BaselineSettings",
    "Beta",
    "BetaFound",
    "CCABaseline",
    "CCAObjective",
    "CheckpointInfo",
    "ConfirmSettings",
    "CosineSchedule",
    "DDOObjective",
    "DPMSolverSettings",
    "DatasetInfo",
    "DatasetReading",
    "DatasetSettings",
    "DiscriminatorGuidanceBaseline",
    "DiscriminatorNetwork",
    "DiscriminatorSpec",
    "DiscriminatorTraining",
    "EDM2Schedule",
    "EDMSchedule",
    "EngineEvent",
    "EvaluateSpec",
    "Evaluated",
    "EvaluationSettings",
    "Failed",
    "FileRef",
    "FileRole",
    "FileWritten",
    "Finished",
    "GenerateSpec",
    "Grid",
    "GuidanceBaseline",
    "HeunSettings",
    "JobSpec",
    "LabelDistribution",
    "LearningRateSchedule",
    "MLEBaseline",
    "MLEObjective",
    "Metric",
    "Objective",
    "OfflineReferenceSet",
    "OnlineReferenceSet",
    "Performance",
    "PositiveFloat",
    "Progress",
    "ReferenceSetSettings",
    "Report",
    "RoundOverride",
    "RoundSettings",
    "SampledBaseline",
    "SamplerSettings",
    "Seed",
    "Settings",
    "Sha256",
    "Started",
    "StopSettings",
    "TrainSpec",
    "TrainedBaseline",
    "TrainingSettings",
    "TrainingWarning",
    "UnitSpec",
    "Uri",
    "VARSchedule",
    "ValidateSpec",
    "as_written",
    "map_files",
]
