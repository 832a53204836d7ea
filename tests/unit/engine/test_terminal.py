"""What people see of the events."""

import io

import pytest
from rich.console import Console

from ddo_engine.spec import (
    BetaFound,
    Evaluated,
    Failed,
    FileRole,
    FileWritten,
    Finished,
    Metric,
    Progress,
    TrainingWarning,
)
from ddo_engine.terminal import TerminalView


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def view(screen):
    return TerminalView(Console(file=screen, force_terminal=True, width=200, color_system=None))


def test_results_are_one_line_each(view, screen):
    view(Progress(phase="training", done=0, total=128))
    view(Metric(step=4, kimg=0.064, values={"loss": 2.0794415}))
    protocol = {"sampler": {"guidance_scale": 1.5}}
    view(Evaluated(kimg=0.064, fingerprint="a" * 64, protocol=protocol, metrics={"fid": 0.2411, "recall": 0.95}))
    view(FileWritten(role=FileRole.STATE, path="/job/state.safetensors", sha256="b" * 64, size_bytes=1))
    view(Progress(phase="training", done=128, total=128))
    view(Finished())
    shown = screen.getvalue()
    for part in (
        "0.1 kimg  loss 2.079",
        "guidance_scale 1.5  fid 0.2411  recall 0.95",
        "wrote /job/state.safetensors",
        "training",
    ):
        assert part in shown


def test_phase_that_comes_again_gets_a_bar_again(view, screen):
    for done in (0, 48, 0, 48):
        view(Progress(phase="evaluation", done=done, total=48))
    view(Progress(phase="evaluation", done=12, total=48))
    view(Finished())
    assert "25%" in screen.getvalue()


def test_beta_that_was_found_and_warnings_are_shown(view, screen):
    view(BetaFound(beta=0.4321987, ratio_std=1 / 0.4321987, num_steps=16))
    view(TrainingWarning(code="discriminator_idle", message="raise beta [now]", step=3, kimg=0.3))
    for part in ("beta 0.4322 found in 16 steps", "0.3 kimg  discriminator_idle: raise beta [now]"):
        assert part in screen.getvalue()


def test_failure_shows_its_code_and_message_as_they_are(view, screen):
    view(Failed(code="diverged", message="the loss [not finite] at [red]"))
    assert "diverged: the loss [not finite] at [red]" in screen.getvalue()
