from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from ddo_engine.data import ImageDataset, InMemoryDataset, round_to_grey_levels
from ddo_engine.errors import EngineError, IncompatibleInputs, Interrupted, InvalidFeatureNetwork, InvalidSpec
from ddo_engine.evaluation import Evaluator, FeatureNetwork, Judge, frechet_distance, inception_score, load_features
from ddo_engine.evaluation.density_coverage import density_coverage
from ddo_engine.evaluation.inception_score import inception_scores_of_logits
from ddo_engine.evaluation.kernel_distance import kernel_distance
from ddo_engine.evaluation.moments import Moments
from ddo_engine.evaluation.precision_recall import Manifold, precision_recall
from ddo_engine.families import get_family
from ddo_engine.sampling import generate_images
from ddo_engine.spec import EvaluationSettings, HeunSettings, LabelDistribution

SAMPLER = HeunSettings(num_steps=3, batch_size=16)
SETTINGS = EvaluationSettings(num_samples=40, seed=5, neighbours=3)
SHA = "0" * 64
FEW_REAL = {"num_samples": 400, "kid_subsets": 2, "kid_subset_size": 301}


class WithSpatialFeatures(torch.nn.Module):
    """A feature network whose spatial features are a thumbnail of the image."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.outputs = frozenset({"features", "logits", "spatial"})

    def __getattr__(self, name: str) -> object:
        return super().__getattr__(name) if name == "inner" else getattr(self.inner, name)

    def forward(self, images_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        thumbnails = torch.nn.functional.avg_pool2d(images_BCHW.float(), 2).flatten(1)
        return self.inner(images_BCHW) | {"spatial": thumbnails}


@pytest.fixture
def dataset() -> ImageDataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (300, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return InMemoryDataset(round_to_grey_levels(images, 17), torch.arange(300) % 10)


def evaluator(
    network: FeatureNetwork, dataset: ImageDataset, sampler: HeunSettings = SAMPLER, cache: Path | None = None
) -> Evaluator:
    return Evaluator(network, dataset, SHA, sampler, 17, cache)


def test_evaluate_equals_the_definition(
    feature_network: FeatureNetwork, dataset: ImageDataset, model: torch.nn.Module
) -> None:
    """All features in memory, NumPy's covariance: the same numbers."""
    found = evaluator(feature_network, dataset).evaluate(model, get_family("edm"), SETTINGS).metrics
    images = generate_images(
        model, get_family("edm"), range(5, 45), SAMPLER, class_counts=dataset.info.class_counts, grey_levels=17
    ).images_BCHW
    fake, real = (feature_network(batch)["features"].double() for batch in (images, dataset.images_NCHW))
    fid = frechet_distance(
        fake.mean(0), torch.from_numpy(np.cov(fake.numpy(), rowvar=False)),
        real.mean(0), torch.from_numpy(np.cov(real.numpy(), rowvar=False)),
    )  # fmt: skip
    assert found["fid"] == pytest.approx(fid, rel=1e-5)
    assert (found["precision"], found["recall"]) == pytest.approx(
        precision_recall(Manifold.of(real, 3), fake), abs=0.03
    )
    assert found["fid"] > 0


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_evaluate_does_not_depend_on_the_batch_size(
    feature_network: FeatureNetwork, dataset: ImageDataset, model: torch.nn.Module, batch_size: int
) -> None:
    family = get_family("edm")
    expected = evaluator(feature_network, dataset).evaluate(model, family, SETTINGS).metrics
    other = evaluator(feature_network, dataset, SAMPLER.model_copy(update={"batch_size": batch_size}))
    assert other.evaluate(model, family, SETTINGS).metrics == pytest.approx(expected, rel=1e-4)
    assert other.fingerprint(SETTINGS) == evaluator(feature_network, dataset).fingerprint(SETTINGS)


def test_evaluate_reports_progress_and_can_leave_precision_out(
    feature_network: FeatureNetwork, dataset: ImageDataset, model: torch.nn.Module
) -> None:
    seen: list[int] = []
    settings = EvaluationSettings(num_samples=40, neighbours=None)
    metrics = evaluator(feature_network, dataset).evaluate(model, get_family("edm"), settings, seen.append).metrics
    assert seen == [0, 16, 32, 40]
    assert set(metrics) == {"fid"}


def test_evaluate_inception_score_is_of_the_samples_by_the_classes_of_the_network(
    feature_network: FeatureNetwork, dataset: ImageDataset, model: torch.nn.Module
) -> None:
    """The other numbers stay what they are, and no batch size moves the splits."""
    feature_network.module.get_parameter("head.weight").mul_(100)  # untrained, it is sure of nothing
    family, settings = get_family("edm"), SETTINGS.model_copy(update={"inception_score_splits": 4})
    found = evaluator(feature_network, dataset).evaluate(model, family, settings).metrics
    images = generate_images(
        model, family, range(5, 45), SAMPLER, class_counts=dataset.info.class_counts, grey_levels=17
    ).images_BCHW
    probabilities = feature_network(images)["logits"].double().softmax(1)
    expected = inception_score(probabilities, split_size=10)
    assert found["inception_score"] == pytest.approx(expected, rel=1e-5)
    assert expected > 1.05
    assert expected != pytest.approx(inception_score(probabilities), rel=1e-3)
    del found["inception_score"]
    assert found == evaluator(feature_network, dataset).evaluate(model, family, SETTINGS).metrics
    other = evaluator(feature_network, dataset, SAMPLER.model_copy(update={"batch_size": 7}))
    assert other.evaluate(model, family, settings).metrics["inception_score"] == pytest.approx(expected, rel=1e-4)


def test_evaluate_inception_score_that_cannot_be_is_refused_before_anything_is_drawn(
    feature_network: FeatureNetwork, dataset: ImageDataset, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    uneven = SETTINGS.model_copy(update={"inception_score_splits": 7})
    with pytest.raises(InvalidSpec, match="7 equal splits") as error:
        evaluator(feature_network, dataset).evaluate(model, get_family("edm"), uneven, drawn.append)
    assert error.value.param == "evaluation.inception_score_splits"
    monkeypatch.setattr(feature_network.module, "outputs", frozenset({"features"}))
    even = SETTINGS.model_copy(update={"inception_score_splits": 4})
    with pytest.raises(InvalidFeatureNetwork, match="classifier") as error:
        evaluator(feature_network, dataset).evaluate(model, get_family("edm"), even, drawn.append)
    assert error.value.param == "evaluation.inception_score_splits"
    assert not drawn


def test_protocol_names_the_splits_only_where_there_are_any(
    feature_network: FeatureNetwork, dataset: ImageDataset
) -> None:
    base = evaluator(feature_network, dataset)
    assert "inception_score_splits" not in base.protocol(SETTINGS)
    assert base.protocol(SETTINGS.model_copy(update={"inception_score_splits": 4}))["inception_score_splits"] == 4


def test_further_metrics_are_those_of_the_images_and_leave_the_others_alone(
    feature_network: FeatureNetwork, dataset: ImageDataset, tmp_path: Path
) -> None:
    network = replace(feature_network, module=WithSpatialFeatures(feature_network.module))
    further = {"sfid": True, "kid_subsets": 3, "kid_subset_size": 20, "density_neighbours": 5, "confidence": True}
    further |= {"inception_score_splits": 4}
    fake = InMemoryDataset(dataset.images_NCHW[:40].flip(3), dataset.labels_N[:40])
    reading: list[int] = []
    for _ in range(2):  # computed, and then as cached
        judge = Judge(network, dataset, SHA, cache_folder=tmp_path, on_reading=reading.append)
        found = judge.measure(fake, SETTINGS.model_copy(update=further))
        assert reading == [256, 300]  # features and spatial features in one pass
        real_MD, fake_MD = (network(each.images_NCHW)["features"] for each in (dataset, fake))
        assert (found["kid"], found["kid_std"]) == kernel_distance(real_MD, fake_MD, num_subsets=3, subset_size=20)
        assert (found["density"], found["coverage"]) == density_coverage(Manifold.of(real_MD, 5), fake_MD)
        spatial = [Moments.of(network(each.images_NCHW)["spatial"]) for each in (fake, dataset)]
        distance = frechet_distance(spatial[0].mu_D, spatial[0].cov_DD, spatial[1].mu_D, spatial[1].cov_DD)
        assert found["sfid"] == pytest.approx(distance, rel=1e-9)
        assert found["sfid"] != pytest.approx(found["fid"], rel=1e-3)
        assert 0 < found["fid_std"] < found["fid"]
        assert 0 < found["sfid_std"] < found["sfid"]
        scores = inception_scores_of_logits(network(fake.images_NCHW)["logits"], 4)
        assert found["inception_score_std"] == pytest.approx(float(np.std(scores)), rel=1e-6)
    plain = Judge(network, dataset, SHA).measure(fake, SETTINGS)
    assert plain == {name: found[name] for name in ("fid", "precision", "recall")}


@pytest.mark.parametrize("density_neighbours", [None, 3, 5])
@pytest.mark.parametrize("neighbours", [None, 3])
def test_comparisons_are_counted_to_the_last_and_may_be_stopped_between(
    feature_network: FeatureNetwork, dataset: ImageDataset, neighbours: int | None, density_neighbours: int | None
) -> None:
    totals: list[int] = []
    counted: list[int] = []

    def begin(total: int) -> Callable[[int], None]:
        totals.append(total)
        counted.clear()
        return counted.append

    judge = Judge(feature_network, dataset, SHA, begin_comparing=begin)
    further = {"kid_subsets": 2, "kid_subset_size": 20, "density_neighbours": density_neighbours}
    settings = EvaluationSettings(num_samples=40, neighbours=neighbours, **further)
    for _ in range(2):  # the second time the data's own distances are known
        judge.measure(dataset, settings)
        assert counted[-1] == totals[-1]
        assert counted == sorted(counted)
    num_manifolds = len({neighbours, density_neighbours} - {None})
    assert totals[0] - totals[1] == 300 * num_manifolds
    assert totals[1] == (380 if neighbours else 0) + (40 if density_neighbours else 0) + 2

    def stop(_: int) -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        Judge(feature_network, dataset, SHA, begin_comparing=lambda _: stop).measure(dataset, settings)


@pytest.mark.parametrize(
    ("change", "error_class", "param"),
    [
        ({"sfid": True}, InvalidFeatureNetwork, "evaluation.sfid"),
        ({"num_samples": 39, "confidence": True}, InvalidSpec, "evaluation.confidence"),
        ({"density_neighbours": 40}, InvalidSpec, "density_neighbours"),
        ({"kid_subsets": 2, "kid_subset_size": 41}, InvalidSpec, "evaluation.kid_subset_size"),
        (FEW_REAL, IncompatibleInputs, "evaluation.kid_subset_size"),
    ],
)  # fmt: skip
def test_further_metrics_that_cannot_be_are_refused_by_name(
    feature_network: FeatureNetwork,
    dataset: ImageDataset,
    change: dict[str, int],
    error_class: type[EngineError],
    param: str,
) -> None:
    judge = Judge(feature_network, dataset, SHA)
    with pytest.raises(error_class) as error:
        judge.check(SETTINGS.model_copy(update=change))
    assert error.value.param == param


def test_protocol_names_further_metrics_only_where_they_are_asked_for(
    feature_network: FeatureNetwork, dataset: ImageDataset
) -> None:
    judge = Judge(feature_network, dataset, SHA)
    further = {"kid_subsets": 2, "kid_subset_size": 20, "density_neighbours": 5, "sfid": True, "confidence": True}
    with_further = judge.protocol(SETTINGS.model_copy(update=further))
    assert with_further.items() - judge.protocol(SETTINGS).items() == further.items()


def test_measure_the_dataset_itself_is_zero(feature_network: FeatureNetwork, dataset: ImageDataset) -> None:
    metrics = Judge(feature_network, dataset, SHA).measure(dataset, SETTINGS.model_copy(update={"num_samples": 300}))
    assert metrics["fid"] == pytest.approx(0, abs=1e-9)
    assert (metrics["precision"], metrics["recall"]) == (1.0, 1.0)


def test_measure_holds_a_batch_of_images_at_a_time(feature_network: FeatureNetwork, dataset: ImageDataset) -> None:
    """Whatever the batches, the numbers are those of all images at once."""
    seen: list[int] = []
    settings = EvaluationSettings(num_samples=290, inception_score_splits=10)
    judge = Judge(feature_network, dataset, SHA)
    metrics = judge.measure(dataset, settings, seen.append)
    assert seen == [256, 290]
    assert metrics == pytest.approx(
        judge.metrics(judge.outputs(dataset.batch(range(290)).images_BCHW, settings), settings)
    )


def test_measure_refuses_images_that_are_not_like_the_dataset_s(
    feature_network: FeatureNetwork, dataset: ImageDataset
) -> None:
    judge = Judge(feature_network, dataset, SHA)
    for images, param in ((torch.zeros(50, 1, 4, 4), "images"), (torch.zeros(39, 1, 8, 8), "num_samples")):
        with pytest.raises(IncompatibleInputs) as error:
            judge.measure(InMemoryDataset(images.to(torch.uint8), None), SETTINGS)
        assert error.value.param == param


def test_fingerprint_changes_with_everything_that_changes_numbers(
    feature_network: FeatureNetwork, dataset: ImageDataset
) -> None:
    base = evaluator(feature_network, dataset)
    variants = [
        base.fingerprint(SETTINGS.model_copy(update=change))
        for change in ({"seed": 6}, {"num_samples": 41}, {"neighbours": 4}, {"inception_score_splits": 4})
    ]
    for change in ({"num_steps": 4}, {"rho": 6.0}, {"labels": LabelDistribution.BALANCED}, {"S_churn": 1.0}):
        variants.append(evaluator(feature_network, dataset, SAMPLER.model_copy(update=change)).fingerprint(SETTINGS))
    variants.append(Evaluator(feature_network, dataset, "1" * 64, SAMPLER, 17, None).fingerprint(SETTINGS))
    variants.append(Evaluator(feature_network, dataset, SHA, SAMPLER, 256, None).fingerprint(SETTINGS))
    assert len({base.fingerprint(SETTINGS), *variants}) == len(variants) + 1
    assert base.fingerprint(SETTINGS) == evaluator(feature_network, dataset).fingerprint(SETTINGS)


def test_fingerprint_changes_with_the_feature_network(
    feature_file: Path, feature_network: FeatureNetwork, dataset: ImageDataset
) -> None:
    with torch.no_grad():
        next(feature_network.module.parameters()).add_(1)
    from ddo_engine.evaluation import save_features

    save_features(feature_file, feature_network.module, feature_network.manifest)
    other = load_features(feature_file)
    assert evaluator(other, dataset).fingerprint(SETTINGS) != evaluator(feature_network, dataset).fingerprint(SETTINGS)


def test_reference_is_cached_and_damaged_caches_are_computed_again(
    feature_network: FeatureNetwork, dataset: ImageDataset, tmp_path: Path
) -> None:
    expected = evaluator(feature_network, dataset, cache=tmp_path).judge.reference
    (file,) = tmp_path.rglob("*.npz")
    whole = file.read_bytes()
    # a dataset of other images but the same hash shows that the cache is what is read
    other = InMemoryDataset(255 - dataset.images_NCHW, dataset.labels_N)
    assert torch.equal(
        evaluator(feature_network, other, cache=tmp_path).judge.reference.moments.mu_D, expected.moments.mu_D
    )
    npy = BytesIO()
    np.save(npy, np.zeros(3))
    flipped = whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    for damaged in (b"", whole[:200], whole[:-50], flipped, b"PK\x03\x04" + bytes(400), npy.getvalue()):
        file.write_bytes(damaged)
        again = evaluator(feature_network, dataset, cache=tmp_path).judge.reference
        assert torch.equal(again.moments.scatter_DD, expected.moments.scatter_DD)
        assert torch.equal(again.features_MD, expected.features_MD)
        assert file.read_bytes() == whole


def test_reference_keeps_a_bounded_even_share_of_features(
    feature_network: FeatureNetwork, dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluator(feature_network, dataset).judge.reference
    monkeypatch.setattr("ddo_engine.evaluation.reference.MANIFOLD_IMAGES", 4)
    reference = evaluator(feature_network, dataset).judge.reference
    torch.testing.assert_close(reference.features_MD, whole.features_MD[[0, 100, 199, 299]])
    assert reference.moments.count == 300


def test_evaluator_unfit_inputs_are_refused(
    feature_network: FeatureNetwork, dataset: ImageDataset, model: torch.nn.Module
) -> None:
    with pytest.raises(InvalidFeatureNetwork):
        evaluator(feature_network, InMemoryDataset(dataset.images_NCHW.repeat(1, 3, 1, 1), None))
    with pytest.raises(IncompatibleInputs, match="two images"):
        evaluator(feature_network, InMemoryDataset(dataset.images_NCHW[:1], None))
    few = InMemoryDataset(dataset.images_NCHW[:3], dataset.labels_N)
    with pytest.raises(IncompatibleInputs, match="neighbours"):
        evaluator(feature_network, few).evaluate(model, get_family("edm"), SETTINGS)
    with pytest.raises(InvalidSpec, match="neighbours"):
        evaluator(feature_network, dataset).evaluate(
            model, get_family("edm"), EvaluationSettings(num_samples=3, neighbours=3)
        )


def test_evaluate_model_of_other_images_is_refused(feature_network: FeatureNetwork, dataset: ImageDataset) -> None:
    family = get_family("edm")
    small = family.build({"class_name": "MLPPrecond", "img_resolution": 4, "img_channels": 1, "width": 16})
    with pytest.raises(IncompatibleInputs, match="shape"):
        evaluator(feature_network, dataset).evaluate(small, family, SETTINGS)
