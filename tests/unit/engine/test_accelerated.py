"""Networks by other kernels: the same tensors and values, and what cannot be had is refused.

Torch's own compiler takes minutes; "eager" stands for it wherever the kernels do not matter.
"""

from copy import deepcopy

import pytest
import torch
import torch._inductor.config

from ddo_engine.accelerated import Accelerated, check_kernels, next_size
from ddo_engine.compiler import BACKEND, working_compiler
from ddo_engine.errors import InvalidSpec
from ddo_engine.families import get_family
from ddo_engine.spec import TrainingSettings
from tests.engine_inputs import NETWORK
from tests.tiny_families import EDM2, VAR, randomised

# Torch's compiler looks at it while it traces, of tensors that have none.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),  # its own, as it is loaded
]
CPU = torch.device("cpu")
TRAINING = TrainingSettings(kimg=1, batch_size=4, learning_rate=1e-3, ema_std=0.05, evaluate_every_kimg=1)


def layout(family, *, backend="eager", **settings):
    return Accelerated(family=get_family(family), backend=backend, **settings)


def scored(network, num_rows, **options):
    """Return log-likelihoods of tokens."""
    generator = torch.Generator().manual_seed(num_rows)
    tokens_BL = torch.randint(16, (num_rows, 5), generator=generator)
    inputs_BLZ = torch.randn(num_rows, 4, 4, generator=generator)
    return network.token_log_likelihood(tokens_BL, torch.arange(num_rows) % 3, inputs_BLZ, **options)


def gradients(model, loss):
    model.zero_grad()
    loss.sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_sizes_are_four_in_an_octave_and_waste_less_than_a_quarter():
    sizes = [next_size(num_rows) for num_rows in range(1, 65)]
    assert sorted(set(sizes)) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
    assert all(num_rows <= size < 1.25 * num_rows for num_rows, size in enumerate(sizes, 1))


@pytest.fixture
def compiled_var():
    """A target, its copy that computes by compiled blocks, and the sizes of blocks that were told of."""
    target, told = randomised("var", VAR, seed=1).requires_grad_(True), []
    network = layout("var", compiles=True, on_compiled=lambda *counts: told.append(counts)).network(target)
    return target, network, told


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_network_has_the_values_and_gradients_of_the_plain_one(compiled_var, precision):
    target, network, _ = compiled_var
    plain, other = (scored(each, 9, precision=precision) for each in (target, network))
    tolerance = 1e-5 if precision == "float32" else 2e-2
    torch.testing.assert_close(other, plain, rtol=tolerance, atol=tolerance)
    one, two = gradients(target, plain), gradients(target, other)
    torch.testing.assert_close(two, one, rtol=tolerance, atol=tolerance)


def test_blocks_are_compiled_once_a_size_and_told_of(compiled_var):
    _, network, told = compiled_var
    for num_rows in (9, 10, 9, 3):
        scored(network, num_rows)
    assert told == [(1, 1), (1, 1)]


def test_compiled_network_shares_the_weights_under_their_names_and_copies_of_the_model_are_plain(compiled_var):
    target, network, _ = compiled_var
    for (name, tensor), (other_name, other) in zip(
        target.state_dict().items(), network.state_dict().items(), strict=True
    ):
        assert name == other_name
        assert tensor.data_ptr() == other.data_ptr()
    for model in (target, deepcopy(target)):
        assert "forward" not in vars(model.transformer_blocks[0])
    with torch.no_grad():
        target.head.weight.mul_(2)
    assert torch.equal(network.head.weight, target.head.weight)


def test_frozen_network_computes_by_the_graphs_of_the_one_that_learns():
    """Else equal networks would differ in last bits: torch compiles another graph where nothing needs a gradient."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    reference = randomised("var", VAR, seed=1).requires_grad_(False)
    target = deepcopy(reference).requires_grad_(True)
    compiled = layout("var", compiles=True, backend=backend)
    frozen, network = compiled.frozen_network(reference), compiled.network(target)
    with torch.no_grad():
        of_reference = scored(frozen, 4)
    of_target = scored(network, 4)
    assert len(graphs) == 1
    assert torch.equal(of_reference, of_target)
    assert not of_reference.requires_grad
    assert of_target.requires_grad
    assert not any(parameter.requires_grad for parameter in reference.parameters())


def test_channels_last_reaches_the_blocks_and_leaves_the_weights_as_they_lie():
    target = randomised("edm2", EDM2, seed=1).requires_grad_(True)
    network = layout("edm2", channels_last=True).network(target)
    seen = []
    for block in get_family("edm2").block_plan(network).blocks:
        block.conv_res0.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x_BCHW, sigma_B, labels_B = torch.randn(3, 1, 4, 4), torch.rand(3) + 0.1, torch.arange(3)
    other = network.free_form(x_BCHW, sigma_B, labels_B)
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    plain = target.free_form(x_BCHW, sigma_B, labels_B)
    torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-5)
    other.sum().backward()
    weights = [parameter for parameter in target.parameters() if parameter.grad is not None]
    assert all(each.is_contiguous() for weight in weights for each in (weight, weight.grad))


def test_compiled_blocks_of_a_unet_have_no_break_in_their_graphs():
    """Every block must be one graph: the eager pieces of a broken one would be silently slow."""
    target = randomised("edm2", EDM2 | {"channel_mult": [1]}, seed=1).requires_grad_(True)
    network = layout("edm2", compiles=True, channels_last=True).network(target)
    arguments = torch.randn(2, 1, 4, 4), torch.rand(2) + 0.1, torch.arange(2)
    torch.testing.assert_close(network.free_form(*arguments), target.free_form(*arguments), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "network", "settings", "message"),
    [
        ("edm", NETWORK, {"compile": True}, r"training\.compile: a MLPPrecond .* has no blocks"),
        ("edm", NETWORK, {"memory_format": "channels_last"}, r"training\.memory_format: a MLPPrecond .* no blocks"),
        ("var", VAR, {"memory_format": "channels_last"}, r"training\.memory_format: a VAR computes with tokens"),
    ],
)
def test_networks_that_cannot_are_refused_by_name(family, network, settings, message):
    model = randomised(family, network, seed=1)
    training = TRAINING.model_copy(update=settings)
    with pytest.raises(InvalidSpec, match=message):
        check_kernels(get_family(family), model, training)


def test_machine_without_a_compiler_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # what the call sets is undone
    without = torch._inductor.config.patch({"cpp.cxx": (None, str(tmp_path / "no-compiler"))})
    message = r"training\.compile: torch cannot compile .*CxxCompiler.* install a C\+\+ compiler"
    with without, pytest.raises(InvalidSpec, match=message):
        working_compiler(CPU, tmp_path)


@pytest.mark.slow
def test_torchs_compiler_gives_equal_networks_a_ratio_of_exactly_0_and_gradients_within_last_bits():
    working_compiler(CPU, None)
    reference = randomised("var", VAR, seed=1).requires_grad_(False)
    target = deepcopy(reference).requires_grad_(True)
    compiled = layout("var", compiles=True, backend=BACKEND)
    frozen, network = compiled.frozen_network(reference), compiled.network(target)
    with torch.no_grad():
        of_reference = scored(frozen, 4)
    of_target = scored(network, 4)
    assert torch.equal(of_reference, of_target)
    one, two = gradients(target, of_target), gradients(target, scored(target, 4))
    assert (one - two).norm() < 1e-6 * two.norm()
