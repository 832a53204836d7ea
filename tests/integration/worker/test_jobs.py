"""Whole jobs through worker processes."""

import hashlib


def test_worker_job_runs_to_best_checkpoint(workplace):
    workplace.start_worker()

    job = workplace.wait_for_end(workplace.submit())

    assert (job.status, job.termination_reason, job.error) == ("succeeded", "completed", None)
    assert job.best_checkpoint_id is not None


def test_worker_input_whose_suffix_is_longer_than_a_name_may_be_is_read(workplace):
    path = workplace.folder / "inputs" / ("base." + "é" * 100)
    path.write_bytes(b"base")
    assert len(path.as_uri().rpartition(".")[2]) > 255
    workplace.start_worker()

    job_id = workplace.submit(workplace.spec(base_checkpoint=path.as_uri()))

    workplace.wait_until(lambda: workplace.job(job_id).inputs or workplace.job(job_id).error)
    assert workplace.job(job_id).error is None
    assert workplace.job(job_id).inputs["checkpoint"]["uri"].endswith(hashlib.sha256(b"base").hexdigest())
