"""Feature networks into files of ours."""

from pathlib import Path

from ddo_engine.errors import InvalidSpec
from ddo_engine.evaluation.networks.building import check_features, require_finite
from ddo_engine.evaluation.networks.feature_file import FeatureFile, FeatureManifest, write_feature_file
from ddo_engine.evaluation.networks.feature_module import FeatureModule
from ddo_engine.evaluation.networks.foreign_features import open_features
from ddo_engine.evaluation.networks.program import untrusted
from ddo_engine.files import sha256_of_tree


def save_features(path: str | Path, module: FeatureModule, manifest: FeatureManifest) -> None:
    """Write a feature network atomically; the same weights and manifest give the same bytes."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in module.state_dict().items()}
    write_feature_file(Path(path), FeatureFile(manifest, tensors))


def convert_features(source: str | Path, destination: str | Path) -> FeatureManifest:
    """Write a feature network of any supported format as one of ours; nothing in it is run.

    The weights go from file to file a few megabytes at a time.

    Args:
        source: As for :func:`ddo_engine.load_features`, but no program.
        destination: Where to, in an existing folder; a file that is there is replaced.

    Raises:
        InvalidFeatureNetwork: As there.
        InvalidSpec: The destination cannot be written.
    """
    source, destination = Path(source), Path(destination)
    with open_features(source, workspace=destination.parent) as file:
        if file is None:
            raise untrusted(source.name, sha256_of_tree(source))
        check_features(source, file)
        for name, tensor in file.tensors.items():
            require_finite(source, name, tensor)
        try:
            write_feature_file(destination, file)
        except OSError as error:
            raise InvalidSpec(
                f"{destination} cannot be written ({error.strerror or error})", param="destination"
            ) from error
        return file.manifest
