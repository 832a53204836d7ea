"""The bench of a training step compares like with like: plain loop and engine descend along the same gradient."""

import copy

import pytest
import torch

from bench import training_step
from bench.training_networks import Phases, Subject
from tests.numerics.golden import golden_model
from tests.numerics.var_models import tiny_var

MODELS = {"edm": lambda: golden_model("02_edm_ddpmpp_cond"), "var": tiny_var}


def subject_of(name: str) -> Subject:
    """Return a trial's networks, the target moved away from its reference."""
    subject = Subject.of(MODELS[name](), name, 2)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in subject.target.parameters():
            parameter.mul_(1 + 0.01 * torch.randn(parameter.shape, generator=draws))
    return subject


def gradients_of(subject: Subject, phases: Phases) -> dict[str, torch.Tensor]:
    start, draws = copy.deepcopy(subject.target.state_dict()), subject.generator.get_state()
    for work in phases.values():
        work()
    gradients = {
        name: weight.grad.clone() for name, weight in subject.target.named_parameters() if weight.grad is not None
    }
    subject.target.load_state_dict(start)
    subject.generator.set_state(draws)
    return gradients


@pytest.mark.parametrize("name", MODELS)
def test_plain_loop_has_the_gradients_of_the_engine(name):
    subject = subject_of(name)
    ours = gradients_of(subject, subject.ddo_step())
    plain = gradients_of(subject, subject.plain_step())
    assert ours.keys() == plain.keys()
    largest = max(float(gradient.abs().max()) for gradient in ours.values())
    for key, gradient in ours.items():
        torch.testing.assert_close(plain[key], gradient, rtol=0, atol=1e-4 * largest)
    assert any((gradient != plain[key]).any() for key, gradient in ours.items())


@pytest.mark.parametrize("name", MODELS)
def test_reference_pass_sees_all_images_once_and_leaves_no_gradient(name):
    subject, rows = subject_of(name), []
    hooked = subject.reference.head if name == "var" else subject.reference.model
    hooked.register_forward_hook(lambda module, inputs, output: rows.append((len(output), output.requires_grad)))
    subject.reference_pass()["forward"]()
    assert rows == [(4, False)]


def test_saved_for_backward_counts_what_a_matrix_product_keeps():
    layer, x = torch.nn.Linear(8, 4, bias=False), torch.randn(16, 8)
    assert training_step.saved_for_backward(lambda: layer(x).sum(), layer) == x.nbytes
    assert training_step.saved_for_backward(lambda: layer(x).exp().sum(), layer) == x.nbytes + 16 * 4 * 4


def test_fastest_takes_turns_and_keeps_the_least_of_each_phase():
    ticks = iter([0, 3, 3, 4, 4, 5, 5, 14, 14, 15, 15, 15.5])
    done = []
    steps = {
        "a": {"forward": lambda: done.append("a1"), "backward": lambda: done.append("a2")},
        "b": {"forward": lambda: done.append("b1")},
    }
    expected = {"a": {"forward": 3, "backward": 1}, "b": {"forward": 0.5}}
    assert training_step.fastest(steps, lambda: next(ticks), 2) == expected
    assert done == ["a1", "a2", "b1"] * 2
