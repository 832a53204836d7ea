"""Official checkpoints into ours."""

from pathlib import Path

from ddo_engine.checkpoint import CheckpointManifest, check_fit, check_tensors, write_checkpoint
from ddo_engine.conversion.official_file import open_official
from ddo_engine.conversion.options import ConversionOptions
from ddo_engine.conversion.unpacking import unpacked
from ddo_engine.errors import InvalidSpec
from ddo_engine.files import write_atomically
from ddo_engine.tensor_file import read_tensor_file


def convert(
    source: str | Path, destination: str | Path, options: ConversionOptions | None = None
) -> CheckpointManifest:
    """Write a checkpoint of any supported format as one of ours: weights bit for bit, configuration in the manifest.

    The weights go from file to file a few megabytes at a time. What was written is checked as a loader would check it
    before it appears under its name.

    Args:
        source: As in :func:`ddo_engine.conversion.open_official`; a folder may also be packed into a zip or tar.
        destination: Where to, in an existing folder; a file that is there is replaced.
        options: What the file does not say itself.

    Returns:
        The manifest of what was written.

    Raises:
        CorruptCheckpoint: The source is damaged, of another format, or its tensors are not those of its network.
        InvalidSpec: The options do not fit it, or the destination cannot be written.
    """
    source, destination = Path(source), Path(destination)
    workspace = destination.parent if destination.parent.is_dir() else None
    with unpacked(source, workspace) as folder_or_file:
        official = open_official(folder_or_file, options, origin=source)
        check_fit(source, official.manifest, official.tensors)

        def write(temporary: Path) -> None:
            write_checkpoint(temporary, official.tensors, official.manifest)
            check_tensors(source, official.manifest, read_tensor_file(temporary).tensors)

        try:
            write_atomically(destination, write)
        except OSError as error:
            raise InvalidSpec(
                f"{destination} cannot be written ({error.strerror or error})", param="destination"
            ) from error
        return official.manifest
