"""What a checkpoint says about where it comes from, whatever its base says."""

import pytest

from ddo_engine.provenance import InputHashes, trial_provenance
from ddo_engine.spec import TrainSpec


@pytest.mark.parametrize(
    ("lineage", "licence", "ancestors", "note"),
    [
        ("a" * 64, {"nested": ["x"]}, [], None),
        ([["a" * 64], "../" * 20, 7, "b" * 64], "MIT\0" + "x" * 2**21, ["b" * 64], "MIT" + "x" * 3997),
        (["b" * 64] * 5000, None, ["b" * 64] * 1000, None),
    ],
)
def test_manifest_inherits_only_a_lineage_and_a_licence_of_a_base(lineage, licence, ancestors, note):
    training = {"kimg": 1, "batch_size": 1, "learning_rate": 1, "ema_half_life_kimg": 1, "evaluate_every_kimg": 1}
    objective = {"kind": "mle"}
    spec = TrainSpec.model_validate({"checkpoint": "a", "dataset": "b", "objective": objective, "training": training})
    hashes = InputHashes(base="c" * 64, dataset="d" * 64)
    base = {"lineage": lineage, "licence": licence}
    provenance = trial_provenance(spec, hashes, base, step=1, kimg=0.016)
    assert (provenance["lineage"], provenance.get("licence")) == ([*ancestors, "c" * 64], note)
