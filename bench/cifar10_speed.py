"""Speed of one DDO step and of sampling on the full-size EDM CIFAR-10 network, with random weights.

    python -m bench.cifar10_speed [--device cuda] [--batch 512] [--steps 10]

Prints a table: DDO step (real and fake rows in one forward pass of either network), the same loss by four separate
passes (the plain loop), an MLE step on the same 2B images plus one forward pass of the reference on them (the floor),
and Heun sampling per network call. Float32, TF32 off, as the paper's appendix C asks.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from bench.full_size import EDM_CIFAR10
from ddo_engine.device import describe_device, make_deterministic, pick_device
from ddo_engine.families import get_family
from ddo_engine.families.diffusion.likelihood import draw_noise, log_likelihood_ratio_estimate
from ddo_engine.families.diffusion.space import normalise
from ddo_engine.families.protocol import LabelledImages
from ddo_engine.objective import ddo_loss
from ddo_engine.spec import HeunSettings, TrainingSettings

NETWORK = EDM_CIFAR10 | {"dropout": 0.13}


def seconds_per_call(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median wall time of ``call``, after two calls that are not counted."""
    times = []
    for index in range(repeats + 2):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if index >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def random_weights(network: nn.Module) -> None:
    """Give every weight matrix unit gain, as in a trained network; many of the initial ones are nearly zero."""
    for parameter in network.parameters():
        if parameter.ndim >= 2:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def random_batch(size: int, device: torch.device) -> LabelledImages:
    """Return noise as images, with labels."""
    images = torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8, device=device)
    return LabelledImages(images, torch.randint(0, 10, (size,), device=device))


def measure(batch_size: int, device: torch.device, repeats: int) -> None:
    """Time the steps and print the table."""
    family = get_family("edm")
    target = family.build(dict(NETWORK)).to(device)
    random_weights(target)
    reference = family.build(dict(NETWORK)).to(device).requires_grad_(requires_grad=False)
    reference.load_state_dict(target.state_dict())
    optimizer = torch.optim.Adam(target.parameters(), lr=1e-5, fused=True)
    training = TrainingSettings(
        kimg=1500, batch_size=batch_size, learning_rate=1.5e-4, ema_half_life_kimg=250, evaluate_every_kimg=50
    )
    real, fake = random_batch(batch_size, device), random_batch(batch_size, device)
    both = random_batch(2 * batch_size, device)
    generator = torch.Generator(device).manual_seed(0)

    def optimise(loss: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def ddo_step() -> None:
        ratios = family.log_likelihood_ratios(target, reference, real, fake, training, generator)
        optimise(ddo_loss(*ratios[:2], alpha=2.0, beta=0.02).mean())

    def plain_step() -> None:
        noise = draw_noise(real.images_BCHW, training.P_mean, training.P_std, generator)
        ratios = [
            log_likelihood_ratio_estimate(target, reference, normalise(rows.images_BCHW), rows.labels_B, noise)
            for rows in (real, fake)
        ]
        optimise(ddo_loss(*ratios, alpha=2.0, beta=0.02).mean())

    def mle_step_and_reference_pass() -> None:
        optimise(family.pretraining_loss(target, both, training, generator).mean())
        with torch.no_grad():
            family.pretraining_loss(reference, both, training, generator)

    sampler = HeunSettings(num_steps=2)
    ddo = seconds_per_call(ddo_step, device, repeats)
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    plain = seconds_per_call(plain_step, device, repeats)
    floor = seconds_per_call(mle_step_and_reference_pass, device, repeats)
    sampling = seconds_per_call(
        lambda: family.sample(target, range(batch_size), real.labels_B, sampler), device, repeats
    )
    call = sampling / sampler.nfe

    print(
        f"{describe_device(device)}, torch {torch.__version__}, {platform.machine()}, batch {batch_size} + {batch_size}"
    )
    print("| what | seconds | real images/s |\n|---|---|---|")
    print(f"| DDO step | {ddo:.4f} | {batch_size / ddo:.1f} |")
    print(f"| DDO step, four separate passes | {plain:.4f} | {batch_size / plain:.1f} |")
    print(f"| MLE step on 2B images + reference pass | {floor:.4f} | {batch_size / floor:.1f} |")
    print(f"| network call while sampling, batch {batch_size} | {call:.4f} | – |")
    print(f"DDO step / floor: {ddo / floor:.3f}; four passes / DDO step: {plain / ddo:.3f}")
    print(f"Sampling at 35 network evaluations: {batch_size / (call * 35):.2f} images/s")
    if peak is not None:
        print(f"Peak memory of the DDO step: {peak:.2f} GiB")


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=None, help="real images per step (default: 512 on CUDA, 4 on CPU)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; the median counts")
    parser.add_argument("--autotune", action="store_true", help="let cuDNN choose kernels by timing them")
    arguments = parser.parse_args()
    make_deterministic()
    torch.backends.cudnn.benchmark = arguments.autotune
    device = pick_device(arguments.device)
    torch.manual_seed(0)
    measure(arguments.batch or (512 if device.type == "cuda" else 4), device, arguments.repeats)


if __name__ == "__main__":
    main()
