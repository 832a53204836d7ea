"""Random streams as pure functions."""

import torch

from ddo_engine.randomness import derived_seed, generator_for

CPU = torch.device("cpu")


def test_derived_seed_is_the_same_on_every_machine():
    assert derived_seed(0, "noise", 0) == 4847351686998599284
    assert derived_seed(3, "order/real", 12) == 2682039758399359408


def test_derived_seed_differs_when_any_argument_differs():
    seeds = {
        derived_seed(seed, purpose, counter)
        for seed in range(10)
        for purpose in ("noise", "order/real", "order/fake")
        for counter in range(100)
    }
    assert len(seeds) == 3000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_derived_seed_of_arguments_that_read_alike_differs():
    assert derived_seed(1, "a", 11) != derived_seed(11, "a", 1)
    assert derived_seed(1, "1/a", 1) != derived_seed(1, "a", 1)


def test_generator_does_not_touch_the_global_one():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = torch.rand(3, generator=generator_for(CPU, 1, "noise", 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.rand(3, generator=generator_for(CPU, 1, "noise", 2)), first)
