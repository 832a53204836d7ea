"""The bench of a training step compares like with like: plain loop and engine descend along the same gradient."""

import copy

import pytest
import torch

from bench import training_step
from bench.training_networks import Step, Subject
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


def gradients_of(subject: Subject, step: Step) -> dict[str, torch.Tensor]:
    start, number = copy.deepcopy(subject.target.state_dict()), subject.ddo.state.step
    step()
    gradients = {
        name: weight.grad.clone() for name, weight in subject.target.named_parameters() if weight.grad is not None
    }
    subject.target.load_state_dict(start)
    subject.ddo.state.step = number
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
def test_step_is_the_trials_own_and_changes_weights_and_average(name):
    subject = subject_of(name)
    models = (subject.target, subject.ddo.state.ema_model, subject.reference)
    before = [copy.deepcopy(model.state_dict()) for model in models]
    subject.ddo_step()()
    moved = [
        any(not torch.equal(weight, old[key]) for key, weight in model.state_dict().items())
        for model, old in zip(models, before, strict=True)
    ]
    assert moved == [True, True, False]
    assert subject.ddo.state.step == 1


def rows_seen(subject: Subject, name: str, step: Step) -> dict[str, list[tuple[int, bool]]]:
    """Return how many rows each call of a network has, and whether it carries gradients."""
    seen: dict[str, list[tuple[int, bool]]] = {"target": [], "reference": []}

    def watch(network, calls):
        hooked = network.head if name == "var" else network.model
        return hooked.register_forward_hook(lambda _, inputs, output: calls.append((len(output), output.requires_grad)))

    handles = [watch(getattr(subject, which), calls) for which, calls in seen.items()]
    step()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", MODELS)
def test_ddo_step_has_the_network_calls_of_its_parts(name):
    subject = subject_of(name)
    assert rows_seen(subject, name, subject.ddo_step()) == {"target": [(4, True)], "reference": [(4, False)]}
    assert rows_seen(subject, name, subject.mle_step()) == {"target": [(4, True)], "reference": []}
    assert rows_seen(subject, name, subject.reference_pass()) == {"target": [], "reference": [(4, False)]}


def test_saved_for_backward_counts_what_a_matrix_product_keeps():
    layer, x = torch.nn.Linear(8, 4, bias=False), torch.randn(16, 8)
    assert training_step.saved_for_backward(lambda: layer(x).sum(), layer) == x.nbytes
    assert training_step.saved_for_backward(lambda: layer(x).exp().sum(), layer) == x.nbytes + 16 * 4 * 4


def test_fastest_takes_turns_and_keeps_the_least_of_each_step():
    ticks = iter([0, 3, 3, 4, 4, 6, 6, 6.5])
    done = []
    steps = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    assert training_step.fastest(steps, lambda: next(ticks), 2) == {"a": 2, "b": 0.5}
    assert done == ["a", "b"] * 2
