"""Where a checkpoint comes from. No times, names or paths: equal runs give equal bytes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ddo_engine.spec import TrainSpec
from ddo_engine.version import ENGINE_VERSION

# Settings of training that decide when a trial writes or ends, but nothing of what it computes.
NOT_OF_THE_COURSE = frozenset({"save_state_every_kimg", "stop_when_saturated"})
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_ANCESTORS, _LONGEST_LICENCE = 1000, 4000


@dataclass(frozen=True)
class InputHashes:
    """SHA-256 of every file that a trial reads.

    Attributes:
        base: The checkpoint that it starts from.
        dataset: The images.
        reference_set: Its shards, in order; empty for MLE.
        feature_network: None without evaluation.
        companions: Of autoencoder, guide and discriminator, where there are any.
        reference_statistics: None where FID is taken against the dataset.
    """

    base: str
    dataset: str
    reference_set: tuple[str, ...] = ()
    feature_network: str | None = None
    companions: Mapping[str, str] = field(default_factory=dict)
    reference_statistics: str | None = None

    def as_provenance(self) -> dict[str, Any]:
        """Return the hashes under the names that manifests and states give them."""
        statistics = self.reference_statistics
        return {
            "base_sha256": self.base,
            "dataset_sha256": self.dataset,
            "reference_set_sha256": list(self.reference_set),
            "feature_network_sha256": self.feature_network,
            **self.companions,
            **({} if statistics is None else {"reference_statistics_sha256": statistics}),
        }


def run_identity(spec: TrainSpec, hashes: InputHashes) -> dict[str, Any]:
    """Return all that the course of a trial follows from; only states of the same identity are taken up."""
    settings = spec.model_dump(
        mode="json",
        include={
            "objective",
            "training",
            "online_reference_set",
            "dataset_reading",
            "grey_levels",
            "seed",
        },
        exclude={"training": set(NOT_OF_THE_COURSE)},
    )
    settings["evaluation"] = None if spec.evaluation is None else spec.evaluation.as_identity()
    return settings | {"sampler": spec.sampler.as_protocol()} | hashes.as_provenance()


def trial_provenance(
    spec: TrainSpec,
    hashes: InputHashes,
    base_provenance: Mapping[str, Any],
    *,
    step: int,
    kimg: float,
    found_beta: float | None = None,
) -> dict[str, Any]:
    """Return the provenance of the EMA weights after ``step`` steps.

    Args:
        spec: The trial.
        hashes: Of its inputs.
        base_provenance: From the manifest of the checkpoint that it started from: gives the older ancestors
            and the licence note, which follows the weights.
        step: Finished optimizer steps.
        kimg: The same in thousands of real images.
        found_beta: What the probe found, where the objective's beta is 'auto'.
    """
    settings = spec.model_dump(
        mode="json", include={"objective", "training", "online_reference_set", "dataset_reading", "seed"}
    )
    provenance = hashes.as_provenance() | settings | {"sampler": spec.sampler.as_protocol()}
    provenance |= {
        "kimg": kimg,
        "step": step,
        "engine_version": ENGINE_VERSION,
        "lineage": [*_ancestors(base_provenance.get("lineage")), hashes.base],
    }
    if found_beta is not None:
        provenance["found_beta"] = found_beta
    if isinstance(licence := base_provenance.get("licence"), str):
        provenance["licence"] = licence.replace("\0", "")[:_LONGEST_LICENCE]
    return provenance


def _ancestors(lineage: Any) -> list[str]:
    """Return what is a lineage in a base's manifest: its writer may have put anything there, of any size."""
    entries = lineage if isinstance(lineage, list) else []
    return [entry for entry in entries if isinstance(entry, str) and _SHA256.fullmatch(entry)][-_MOST_ANCESTORS:]
