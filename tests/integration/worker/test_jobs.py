"""Whole jobs through worker processes."""


def test_worker_job_runs_to_best_checkpoint(workplace):
    workplace.start_worker()

    job = workplace.wait_for_end(workplace.submit())

    assert (job.status, job.termination_reason, job.error) == ("succeeded", "completed", None)
    assert job.best_checkpoint_id is not None
