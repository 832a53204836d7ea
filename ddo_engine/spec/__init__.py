"""The contract between engine, worker and API: every setting, defined once. Imports no torch.

A *job* is described by :class:`JobSpec`, the body of ``POST /jobs``. The planner cuts it into units of
work; each is told what to do by one of the unit specs (:data:`UnitSpec`), which is also the JSON file that
``python -m ddo_engine COMMAND spec.json`` reads. What a unit reports back is an :data:`EngineEvent`,
one JSON object per line on the engine's standard output.

Settings are reused, not mapped: ``TrainingSettings`` in a job is the same object as in a unit.
"""

from ddo_engine.spec.base import FileRef, PositiveFloat, Seed, Settings, Sha256, Uri, map_files
from ddo_engine.spec.settings import ConfirmSettings, DDOObjective, DatasetSettings, EvaluationSettings, Grid, LabelDistribution, MLEObjective, Objective, ReferenceSetSettings, SamplerSettings, TrainingSettings
from ddo_engine.spec.job import JobSpec
from ddo_engine.spec.unit import EvaluateSpec, GenerateSpec, TrainSpec, UNIT_SPEC, UnitSpec, ValidateSpec
from ddo_engine.spec.event import CheckpointInfo, DatasetInfo, ENGINE_EVENT, EngineEvent, Evaluated, Failed, FileRole, FileWritten, Finished, Metric, Progress, Report, Started

__all__ = ["CheckpointInfo", "ConfirmSettings", "DDOObjective", "DatasetInfo", "DatasetSettings", "ENGINE_EVENT", "EngineEvent", "EvaluateSpec", "Evaluated", "EvaluationSettings", "Failed", "FileRef", "FileRole", "FileWritten", "Finished", "GenerateSpec", "Grid", "JobSpec", "LabelDistribution", "MLEObjective", "Metric", "Objective", "PositiveFloat", "Progress", "ReferenceSetSettings", "Report", "SamplerSettings", "Seed", "Settings", "Sha256", "Started", "TrainSpec", "TrainingSettings", "UNIT_SPEC", "UnitSpec", "Uri", "ValidateSpec", "map_files"]
