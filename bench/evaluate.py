"""What an evaluation's time goes into: sampling, features, statistics; and how much of it runs beside the rest.

    python -m bench.evaluate [--case digits cifar10 statistics] [--images 4] [--rows 500] [--processor-time]

digits: the base of examples/digits, 5,000 samples, its own feature network. cifar10: EDM's CIFAR-10 network at full
size with random weights, by the preset's 18 steps of Heun's method (35 network calls), and Inception-v3 with weights
from a hash; a few images, without the padding of small batches on a CPU. Each part is done alone first, then the whole
by ``Evaluator.evaluate``: what the whole takes less than its parts together ran beside them (cifar10: on a GPU only).
statistics: at the size of a real evaluation, 50,000 samples against 50,000 images of 2,048 features, 1,008 logits;
precision and recall of ``--rows`` rows, counted up to all. Its last line is the share of statistics in an evaluation of
50,000 CIFAR-10 images at the rates that ``cifar10`` measured.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bench.full_size import EDM_CIFAR10, built, processor
from ddo_engine.checkpoint import load_checkpoint
from ddo_engine.data import ImageDataset, InMemoryDataset, load_dataset
from ddo_engine.device import describe_device, make_deterministic, pick_device
from ddo_engine.evaluation import Evaluator, FeatureNetwork, frechet_distance, load_features
from ddo_engine.evaluation.inception_score import inception_score_of_logits
from ddo_engine.evaluation.moments import Moments
from ddo_engine.evaluation.precision_recall import Manifold
from ddo_engine.families import get_family
from ddo_engine.sampling import generate_images
from ddo_engine.spec import EvaluationSettings, HeunSettings, LabelDistribution
from examples.digits.demo import ASSETS
from examples.digits.make_dataset import make_dataset
from tests.numerics.inception_weights import inception_weights

NUM_SAMPLES, NUM_FEATURES, NUM_CLASSES, NEIGHBOURS = 50_000, 2048, 1008, 3


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and by what."""

    model: torch.nn.Module
    features: FeatureNetwork
    dataset: ImageDataset
    sampler: HeunSettings
    grey_levels: int
    settings: EvaluationSettings
    is_padded: bool = True

    def images(self) -> Tensor:
        """Draw all samples."""
        family = get_family("edm")
        seeds = range(self.settings.seed, self.settings.seed + self.settings.num_samples)
        if not self.is_padded:
            return family.sample(self.model, seeds, None, self.sampler)
        counts, levels = self.dataset.info.class_counts, self.grey_levels
        return generate_images(
            self.model, family, seeds, self.sampler, class_counts=counts, grey_levels=levels
        ).images_BCHW

    def evaluator(self) -> Evaluator:
        """Return an evaluator that has described the dataset already, as once per unit."""
        evaluator = Evaluator(self.features, self.dataset, "0" * 64, self.sampler, self.grey_levels, None)
        evaluator.judge.measure(self.dataset, self.settings.model_copy(update={"num_samples": 10}))
        return evaluator


@dataclass(frozen=True)
class Seconds:
    """Of the parts, each alone, and of the whole."""

    sampling: float
    features: float
    statistics: float
    whole: float | None


def digits(folder: Path, device: torch.device) -> Subject:
    """Return the example's base."""
    checkpoint = load_checkpoint(ASSETS / "base.safetensors", device)
    settings = EvaluationSettings(num_samples=5000, neighbours=NEIGHBOURS, inception_score_splits=10)
    features = load_features(ASSETS / "features.safetensors", device)
    dataset = load_dataset(make_dataset(folder)[0])
    return Subject(checkpoint.model, features, dataset, HeunSettings(batch_size=256), 17, settings)


def cifar10(folder: Path, device: torch.device, num_images: int) -> Subject:
    """Return the full-size network and Inception."""
    torch.save(inception_weights(), folder / "inception.pth")
    images = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    dataset = InMemoryDataset(images, torch.arange(len(images)) % 10)
    settings = EvaluationSettings(num_samples=num_images, neighbours=NEIGHBOURS, inception_score_splits=1)
    model = built("edm", EDM_CIFAR10).eval().to(device)
    sampler = HeunSettings(batch_size=max(1, min(num_images // 4, 256)))
    features = load_features(folder / "inception.pth", device)
    return Subject(model, features, dataset, sampler, 256, settings, is_padded=device.type == "cuda")


@dataclass(frozen=True)
class Clock:
    """What times work on a device: wall-clock or processor time."""

    device: torch.device
    now: Callable[[], float]

    def seconds(self, work: Callable[[], object]) -> float:
        """Return what work takes, until the device has done it."""
        self._wait()
        started = self.now()
        work()
        self._wait()
        return self.now() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def measure(subject: Subject, clock: Clock, *, whole: bool) -> Seconds:
    """Time the parts, and the whole if asked to."""
    evaluator, family = subject.evaluator(), get_family("edm")
    judge, drawn, outputs = evaluator.judge, list[Tensor](), list[dict[str, Tensor]]()
    few = subject.sampler.model_copy(update={"num_steps": 2, "labels": LabelDistribution.BALANCED})
    generate_images(subject.model, family, range(2), few)  # the first call prepares the kernels
    return Seconds(
        clock.seconds(lambda: drawn.append(subject.images())),
        clock.seconds(lambda: outputs.append(judge.outputs(drawn[0], subject.settings))),
        clock.seconds(lambda: judge.metrics(outputs[0], subject.settings)),
        clock.seconds(lambda: evaluator.evaluate(subject.model, family, subject.settings)) if whole else None,
    )


def print_split(name: str, num_images: int, seconds: Seconds) -> None:
    """Print a row of the table."""
    parts = seconds.sampling + seconds.features + seconds.statistics
    cells = " | ".join(
        f"{num_images / part:.4g} ({100 * part / parts:.2f} %)"
        for part in (seconds.sampling, seconds.features, seconds.statistics)
    )
    whole = "– | –"
    if seconds.whole is not None:
        whole = f"{num_images / seconds.whole:.4g} | {100 * (1 - seconds.whole / parts):.1f} %"
    print(f"| {name} | {num_images} | {cells} | {whole} |", flush=True)


def statistics_seconds(num_rows: int, clock: Clock) -> float:
    """Print what statistics take at full size; return their sum, the dataset's own manifold left out."""
    features_ND = torch.randn(NUM_SAMPLES, NUM_FEATURES)
    logits_NK = torch.randn(NUM_SAMPLES, NUM_CLASSES)
    moments: list[Moments] = []
    found = {"moments of the samples": clock.seconds(lambda: moments.append(Moments.of(features_ND)))}
    other = Moments.of(torch.randn(2 * NUM_FEATURES, NUM_FEATURES))
    fake = moments[0]
    found["Fréchet distance"] = clock.seconds(
        lambda: frechet_distance(fake.mu_D, fake.cov_DD, other.mu_D, other.cov_DD)
    )
    wide_ND = features_ND.to(clock.device, torch.float64)
    manifold = Manifold(wide_ND, torch.ones(NUM_SAMPLES, dtype=torch.float64, device=clock.device), NEIGHBOURS)
    one_pass = clock.seconds(lambda: manifold.share_inside(wide_ND[:num_rows])) * NUM_SAMPLES / num_rows
    found[f"precision and recall, 3 × 50,000² distances from {num_rows} rows"] = 3 * one_pass
    found["inception score"] = clock.seconds(lambda: inception_score_of_logits(logits_NK, 10))
    print("\n| statistics of 50,000 samples | seconds |\n|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.1f} |", flush=True)
    return sum(found.values())


@torch.no_grad()
def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("digits", "cifar10", "statistics")
    parser.add_argument("--case", nargs="+", choices=names, default=names)
    parser.add_argument("--images", type=int, default=4, help="of cifar10, in four batches")
    parser.add_argument("--rows", type=int, default=500, help="of 50,000, for precision and recall")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="of one thread of a CPU that other work shares; then nothing can run beside the rest",
    )
    options = parser.parse_args()
    make_deterministic()
    device = pick_device("cpu" if options.processor_time else options.device)
    clock = Clock(device, time.process_time if options.processor_time else time.perf_counter)
    if options.processor_time:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    kind = "processor" if options.processor_time else "wall-clock"
    print(f"torch {torch.__version__}, {processor()}, {describe_device(device)}")
    print(f"{kind} time, load before the run {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| images/s (share of the parts) | images | sampling | features | statistics | whole | beside the rest |")
    print("|---|---|---|---|---|---|---|", flush=True)
    seconds_per_image = None
    with tempfile.TemporaryDirectory() as name:
        if "digits" in options.case:
            print_split("digits", 5000, measure(digits(Path(name), device), clock, whole=not options.processor_time))
        if "cifar10" in options.case:
            seconds = measure(cifar10(Path(name), device, options.images), clock, whole=device.type == "cuda")
            print_split("EDM CIFAR-10, Inception-v3", options.images, seconds)
            seconds_per_image = (seconds.sampling + seconds.features) / options.images
    if "statistics" in options.case:
        statistics = statistics_seconds(options.rows, clock)
        if seconds_per_image is not None:
            share = statistics / (statistics + NUM_SAMPLES * seconds_per_image)
            print(f"\nstatistics: {100 * share:.2f} % of an evaluation of 50,000 CIFAR-10 images")


if __name__ == "__main__":
    main()
