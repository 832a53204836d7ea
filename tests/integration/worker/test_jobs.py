"""Whole jobs through worker processes."""

import hashlib

from service.models import Checkpoint
from tests.job_rows import create_job


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


def test_worker_branch_starts_from_the_stored_bytes_of_the_checkpoint(workplace):
    workplace.start_worker()
    first = workplace.wait_for_end(workplace.submit())
    for file in (workplace.folder / "inputs").glob("base.*"):
        file.unlink()  # a branch needs the file no more

    spec = workplace.spec(base_checkpoint=f"checkpoint:{first.best_checkpoint_id}")
    branch = workplace.wait_for_end(create_job(workplace.sessions, spec, parent=first.best_checkpoint_id))

    assert (branch.status, branch.error) == ("succeeded", None)
    with workplace.sessions() as session:
        parent = session.get_one(Checkpoint, first.best_checkpoint_id)
        base = session.query(Checkpoint).filter_by(job_id=branch.id, unit_id=None).one()
        assert base.sha256 == branch.inputs["checkpoint"]["sha256"] == parent.sha256
        assert base.parent_checkpoint_id == parent.id


def test_worker_branch_from_a_checkpoint_that_was_damaged_in_the_store_never_begins(workplace):
    workplace.start_worker()
    first = workplace.wait_for_end(workplace.submit())
    with workplace.sessions() as session:
        sha256 = session.get_one(Checkpoint, first.best_checkpoint_id).sha256
    stored = [
        path
        for path in (workplace.folder / "store").rglob("*")
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    ]
    assert stored
    for path in stored:
        path.chmod(0o600)
        path.write_bytes(b"damaged")

    spec = workplace.spec(base_checkpoint=f"checkpoint:{first.best_checkpoint_id}")
    branch = workplace.wait_for_end(create_job(workplace.sessions, spec, parent=first.best_checkpoint_id))

    assert branch.status == "failed"
    assert sha256[:12] in str(branch.error) or "SHA-256" in str(branch.error)
