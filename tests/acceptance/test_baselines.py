"""A job with every baseline of a diffusion model over HTTP, done by a real worker with the real engine."""

import hashlib
from pathlib import Path

import pytest

from ddo_engine.checkpoint import load_checkpoint
from tests.acceptance.conftest import StartStack, TinyJob, client_of, wait_for_end
from tests.engine_inputs import NETWORK, write_checkpoint


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_job_with_baselines_measures_each_under_its_protocol_and_ranks_none(
    start_stack: StartStack, tiny_job: TinyJob, tmp_path: Path
) -> None:
    guide = tiny_job.inputs.folder / "baseline-guide.safetensors"
    write_checkpoint(guide, NETWORK | {"width": 8})
    training = {"kimg": 0.064, "batch_size": 16, "learning_rate": 1e-3}
    network = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1}
    baselines = [
        {"kind": "mle"},
        {"kind": "autoguidance", "scales": [2.0], "guide": guide.as_uri()},
        {"kind": "discriminator_guidance", "weights": [1.0], "training": training, "network": network},
    ]
    body = tiny_job.body(
        baselines=baselines, grid={"alpha": [2.0], "beta": [0.5]}, training={"ema_snapshot_stds": [0.1, 0.2]}
    )
    with start_stack() as stack, client_of(stack) as client:
        job = wait_for_end(stack, client, client.submit(body).id, 150)
        assert (job.status, job.error, job.progress.fraction) == ("succeeded", None, 1.0)
        assert job.progress.units_done == job.progress.units_planned

        base, first = client.rounds(job.id)
        found = client.baselines(job.id)
        assert [(each.kind, each.status) for each in found] == [(each["kind"], "succeeded") for each in baselines]
        assert base.winner is not None
        assert base.winner.measured is not None
        mle, *sampled = found
        # one round of 128 real images and as many fakes, evaluated as the trial is, every 64
        assert [each.kimg for each in mle.evaluations] == [0.064, 0.128, 0.192, 0.256]
        assert {each.fingerprint for each in mle.evaluations} == {base.winner.measured.fingerprint}
        assert base.best_fid not in {each.fid for each in mle.evaluations}
        altered = [
            {"sampler.guidance_scale", "guide_sha256"},
            {"sampler.discriminator_weight", "discriminator_sha256"},
        ]
        for each, fields in zip(sampled, altered, strict=True):
            assert each.checkpoint_id == base.winner.checkpoint_id
            (measured,) = each.evaluations
            assert {difference.field for difference in measured.differs or ()} == fields
            assert measured.fid != base.best_fid

        ranked = [each for each in client.checkpoints(job.id) if each.rank is not None]
        assert all(each.baseline_index is None for each in ranked)
        assert first.winner is not None
        assert job.best_checkpoint_id in {base.winner.checkpoint_id, first.winner.checkpoint_id}
        kept = next(each for each in client.checkpoints(job.id) if each.id == mle.checkpoint_id)
        assert (kept.baseline_index, kept.lineage) == (0, (base.winner.checkpoint_id, kept.id))
        path = client.download(kept.id, tmp_path)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == kept.sha256
        assert load_checkpoint(path).manifest.provenance["objective"] == {"kind": "mle"}

        snapshots = client.snapshots(job.id, 1, 0)
        assert [(each.ema_std, each.kimg) for each in snapshots] == [
            (0.1, 0.064),
            (0.1, 0.128),
            (0.2, 0.064),
            (0.2, 0.128),
        ]
        stored = client.download(snapshots[1].id, tmp_path)
        assert stored.name == f"{job.id}-round1-trial0-snapshot-0.1-0.128.safetensors"
        assert load_checkpoint(stored).manifest.provenance["ema_std"] == 0.1
        assert sampled[-1].discriminator_id is not None
        discriminator = client.download(sampled[-1].discriminator_id, tmp_path)
        assert load_checkpoint(discriminator).manifest.family == "discriminator"
        stack.ensure_running()
