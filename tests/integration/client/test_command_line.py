"""``ddo`` against the real API: what people type, what they see, and the exit codes that scripts rely on."""

import hashlib
import re
import signal
from pathlib import Path

import pytest
import yaml
from sqlalchemy import update

from service.leases import fail
from service.models import Checkpoint
from tests.integration.client.conftest import Service


@pytest.fixture
def job_file(service: Service, tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(service.body()))
    return file


def _submitted(service: Service, job_file: Path) -> str:
    done = service.ddo("submit", str(job_file))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_submit_prints_the_id_and_nothing_else(service: Service, job_file: Path) -> None:
    job_id = _submitted(service, job_file)
    assert service.client.job(job_id).name == "digits [red]"
    service.worker().run()


def test_submit_dry_run_shows_the_cost_and_creates_nothing(service: Service, job_file: Path) -> None:
    before = [job.id for job in service.client.jobs()]
    done = service.ddo("submit", str(job_file), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "trial units" in done.stdout
    assert "network evaluations" in done.stdout
    assert [job.id for job in service.client.jobs()] == before


def test_submit_with_the_same_key_is_the_same_job(service: Service, job_file: Path) -> None:
    first, second = (service.ddo("submit", str(job_file), "--idempotency-key", "mine") for _ in range(2))
    assert first.stdout == second.stdout
    service.worker().run()


def test_submit_wrong_field_is_one_line_that_names_it(service: Service, job_file: Path) -> None:
    job_file.write_text(yaml.safe_dump(service.body(grid={"alpha": [2.0], "beta": [0.0]})))
    done = service.ddo("submit", str(job_file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "grid.beta[0]" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_submit_watch_shows_every_evaluation_and_succeeds(service: Service, job_file: Path) -> None:
    process = service.start("submit", str(job_file), "--watch")
    assert process.stdout
    job_id = process.stdout.readline().strip()
    service.worker().run()
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert stdout.count("FID") >= 9
    assert "round 0 base: FID 9" in stdout
    assert "round 2 trial 1 (α 4, β 0.5) at 2 kimg: FID 5.8 on 50 samples" in stdout
    assert "round 2 completed" in stdout
    assert "succeeded (completed): FID 5.8 (base 9, −36 %)" in stdout
    assert f"ddo download {job_id} --best" in stdout


def test_submit_watch_of_a_failing_job_fails_with_the_reason(service: Service, job_file: Path) -> None:
    process = service.start("submit", str(job_file), "--watch")
    assert process.stdout
    process.stdout.readline()
    worker = service.worker()
    claimed = worker.claim()
    assert claimed
    error = {"code": "invalid_dataset", "message": "data.zip is damaged: upload it again", "param": "dataset.uri"}
    with service.sessions.begin() as session:
        fail(session, claimed, error)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(
        r"^failed \(invalid_dataset\): dataset\.uri: .*data\.zip is damaged: upload it again", stdout, re.M
    )


def test_show_watch_interrupted_leaves_the_job_alone(service: Service, job_file: Path) -> None:
    job_id = _submitted(service, job_file)
    process = service.start("show", job_id, "--watch")
    with pytest.raises(Exception, match="timed out"):
        process.communicate(timeout=3)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert f"ddo show {job_id} --watch" in stderr
    assert service.client.job(job_id).status == "validating"
    service.worker().run()
    shown = service.ddo("show", job_id)
    assert "succeeded (completed)" in shown.stdout
    assert "digits [red]" in shown.stdout
    assert "100%" in shown.stdout


def test_jobs_lists_newest_first_and_cuts_no_id(service: Service, job_file: Path) -> None:
    ids = [_submitted(service, job_file) for _ in range(2)]
    listed = service.ddo("jobs", "--status", "validating")
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ids[::-1]
    assert "digits [red]" in lines[1]
    service.worker().run()
    assert len(service.ddo("jobs", "--limit", "1").stdout.splitlines()) == 2


def test_rounds_marks_the_winner_of_each(service: Service, job_file: Path) -> None:
    job_id = _submitted(service, job_file)
    service.worker().run()
    lines = service.ddo("rounds", job_id).stdout.splitlines()
    assert len(lines) == 1 + 1 + 4
    assert lines[1].split()[:4] == ["0", "completed", "base", "9"]
    assert sum("★ winner" in line for line in lines) == 2


def test_baselines_stand_below_the_rounds_and_by_themselves(service: Service) -> None:
    baselines = [{"kind": "mle"}, {"kind": "guidance", "scales": [1.5, 2.0]}]
    job_id = service.client.submit(service.body(baselines=baselines)).id
    service.worker().run()

    below = service.ddo("rounds", job_id).stdout.split("\n\n")[1]

    assert service.ddo("baselines", job_id).stdout == below
    header, mle, *guided = below.splitlines()
    assert header.split()[:4] == ["baseline", "status", "scale", "FID"]
    found, _ = service.client.baselines(job_id)
    assert (found.status, found.best.kimg if found.best else None) == ("succeeded", 2.0)
    assert mle.split() == ["0", "mle", "succeeded", "7.8", "–", "–", "2", found.checkpoint_id]
    assert [line.split()[3] for line in guided] == ["1.5", "2"]


def test_curve_prints_the_table_and_draws_it(service: Service, tmp_path: Path) -> None:
    evaluation = {"num_samples": 50, "guidance_scales": [2.0]}
    job_id = service.client.submit(service.body(evaluation=evaluation)).id
    service.worker().run()

    done = service.ddo("curve", job_id, "--png", str(tmp_path / "curve.png"))

    assert done.returncode == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["checkpoint", "scale", "FID", "precision", "recall"]
    assert [line.split()[:3] for line in lines[:2]] == [["base", "1", "9"], ["2", "9", "–"]]
    assert len(lines[:-3]) == 6
    assert "scale: w in D_guide + w (D - D_guide); 1 asks for no guidance" in done.stdout
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_compare_ranks_checkpoints_and_refuses_other_protocols(service: Service) -> None:
    job_ids = [service.client.submit(service.body(evaluation={"num_samples": count})).id for count in (50, 50, 80)]
    service.worker().run()
    first, second, apart = (service.client.best(job_id).id for job_id in job_ids)

    done = service.ddo("compare", first, second)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:1] for line in done.stdout.splitlines()[1:3]] == [["1"], ["1"]]
    assert first in done.stdout
    assert second in done.stdout

    refused = service.ddo("compare", first, apart)
    assert refused.returncode == 1
    assert "num_samples is 50 against 80" in " ".join(refused.stderr.split())


def test_events_shows_the_log(service: Service, job_file: Path) -> None:
    job_id = _submitted(service, job_file)
    service.worker().run()
    for arguments in (("events", job_id), ("events", job_id, "--follow")):
        lines = service.ddo(*arguments).stdout.splitlines()
        assert "job.validating" in lines[0]
        assert "job.succeeded" in lines[-1]
        assert len(lines) == len(list(service.client.events(job_id)))


def test_cancel_ends_the_job_and_refuses_ended_ones(service: Service, job_file: Path) -> None:
    job_id = _submitted(service, job_file)
    assert service.ddo("cancel", job_id).stdout.strip() == "cancelled"
    assert service.ddo("cancel", job_id).returncode == 0
    finished = _submitted(service, job_file)
    service.worker().run()
    refused = service.ddo("cancel", finished)
    assert refused.returncode == 1
    assert "job_already_ended" in refused.stderr


def test_download_best_is_checked_and_lies_where_asked(service: Service, job_file: Path, tmp_path: Path) -> None:
    job_id = _submitted(service, job_file)
    service.worker().run()
    best = service.client.best(job_id)
    content = b"weights" * 1000
    with service.sessions.begin() as session:
        # a row worker uploads nothing: give the row an object
        values = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        key = session.scalar(
            update(Checkpoint).where(Checkpoint.id == best.id).values(**values).returning(Checkpoint.object_key)
        )
    stored = service.stack.folder / "objects" / str(key)
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(content)
    target = tmp_path / "best.safetensors"
    done = service.ddo("download", job_id, "--best", "-o", str(target))
    assert (done.returncode, done.stdout) == (0, f"{target}\n"), done.stderr
    assert target.read_bytes() == content

    stored.write_bytes(content[:-1] + b"!")
    damaged = service.ddo("download", job_id, "--checkpoint", best.id, "-o", str(tmp_path / "other"))
    assert damaged.returncode == 1
    assert "damaged" in damaged.stderr
    assert not list(tmp_path.glob("other*"))


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (("show", "job_unknown"), 1, "not_found"),
        (("show", "../admin"), 1, "is no id"),
        (("submit", "missing.yaml"), 1, "cannot read missing.yaml"),
        (("download", "job_1"), 2, "--best"),
        (("show",), 2, "Missing argument"),
    ],
)
def test_command_that_cannot_work_says_why(
    service: Service, arguments: tuple[str, ...], exit_code: int, told: str
) -> None:
    done = service.ddo(*arguments)
    assert done.returncode == exit_code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_command_with_a_wrong_key_says_so(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dict(service.environment(), DDO_API_KEY="ddo_wrong")
    monkeypatch.setattr(Service, "environment", lambda self: wrong)
    done = service.ddo("jobs")
    assert done.returncode == 1
    assert "unauthorized, HTTP 401" in done.stderr


def test_snapshots_of_a_trial_without_any_are_an_empty_table(service: Service, job_file: Path) -> None:
    job_id = service.ddo("submit", str(job_file)).stdout.strip()
    service.worker().run()
    assert service.ddo("snapshots", job_id, "1", "0").stdout.split() == ["snapshot", "std", "kimg", "MiB"]
    assert service.client.snapshots(job_id, 1, 0) == ()


def test_branch_goes_on_from_a_round_and_says_where_it_came_from(
    service: Service, job_file: Path, tmp_path: Path
) -> None:
    job_id = _submitted(service, job_file)
    service.worker().run()
    changes = tmp_path / "changes.yaml"
    changes.write_text("name: second try\nrounds: 1\ntraining:\n  P_std: 3.0\n")

    planned = service.ddo("branch", job_id, str(changes), "--round", "1", "--dry-run")
    done = service.ddo("branch", job_id, str(changes), "--round", "1")
    refused = service.ddo("branch", job_id, "--round", "9")

    assert planned.returncode == done.returncode == 0, planned.stderr + done.stderr
    assert "trial units" in planned.stdout
    branched = service.client.job(done.stdout.strip())
    assert (branched.name, branched.spec["rounds"], branched.spec["training"]["P_std"]) == ("second try", 1, 3.0)
    assert branched.parent is not None
    assert (branched.parent.job_id, branched.parent.round_index) == (job_id, 1)
    assert f"round 1 of {job_id}" in service.ddo("show", branched.id).stdout
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "from_round" in refused.stderr
    service.worker().run()
    shown = service.ddo("show", branched.id).stdout
    assert "did not bring the FID below" in shown or "The only round done" in shown


def test_branch_of_both_a_round_and_a_checkpoint_is_wrong_usage(service: Service) -> None:
    assert service.ddo("branch", "job_0", "--round", "1", "--checkpoint", "ckpt_0").returncode == 2
