"""A whole job over HTTP, done by real workers with the real engine."""

import hashlib
from pathlib import Path

import httpx
import pytest

from ddo_engine.checkpoint import load_checkpoint
from tests.acceptance.conftest import StartStack, TinyJob, client_of, wait_for_end


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("storage", ["local", "swift"], indirect=True)
def test_job_of_one_round_succeeds_and_its_checkpoint_can_be_downloaded(
    start_stack: StartStack, tiny_job: TinyJob, tmp_path: Path
) -> None:
    with start_stack() as stack, client_of(stack) as client:
        submitted = client.submit(tiny_job.body(name="whole"))
        assert submitted.status == "validating"
        job = wait_for_end(stack, client, submitted.id)
        assert (job.status, job.error, job.progress.fraction) == ("succeeded", None, 1.0)

        base, first = client.rounds(job.id)
        assert (base.status, first.status) == ("completed", "completed")
        assert [(trial.alpha, trial.beta) for trial in first.trials] == [(2.0, 0.5), (4.0, 0.5)]
        fids = [trial.best_fid for trial in first.trials]
        assert all(fid is not None for fid in fids)
        assert first.winner is not None
        assert first.best_fid == min(fid for fid in fids if fid is not None)
        assert first.trials[first.winner.trial_index or 0].best_fid == first.best_fid
        assert job.base_fid == base.best_fid
        metrics = client.metrics(job.id, 1, 0)
        assert [point.step for point in metrics.training] == list(range(1, 9))
        assert [measured.kimg for measured in metrics.evaluations] == [0.064, 0.128]

        best = client.best(job.id)
        assert best.fid == job.best_fid == min(base.best_fid or 0.0, first.best_fid)
        trained = next(each for each in client.checkpoints(job.id) if each.trial_index == 1 and each.kimg == 0.128)
        path = client.download(trained.id, tmp_path)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == trained.sha256
        assert load_checkpoint(path).info.img_resolution == 4
        base_path = client.download(trained.lineage[0], tmp_path / "base.safetensors")
        assert base_path.read_bytes() == tiny_job.inputs.checkpoint.read_bytes()
        assert path.read_bytes() != base_path.read_bytes()

        signed = client.sign_download(trained.id).url
        assert httpx.get(signed).content == path.read_bytes()
        assert httpx.delete(signed).status_code == 403

        types = [event.type for event in client.events(job.id)]
        assert types[0] == "job.validating"
        assert types[-1] == "job.succeeded"
        assert types.count("trial.evaluated") == 4
        stack.ensure_running()


@pytest.mark.slow
def test_job_on_a_damaged_dataset_fails_with_a_reason(start_stack: StartStack, tiny_job: TinyJob) -> None:
    damaged = tiny_job.inputs.folder / "damaged.zip"
    damaged.write_bytes(tiny_job.inputs.dataset.read_bytes()[:500])
    with start_stack() as stack, client_of(stack) as client:
        submitted = client.submit(tiny_job.body(dataset={"uri": damaged.as_uri()}))
        job = wait_for_end(stack, client, submitted.id)
        assert (job.status, job.termination_reason) == ("failed", "invalid_dataset")
        assert job.error is not None
        assert job.error.param == "dataset.uri"
        stack.ensure_running()
