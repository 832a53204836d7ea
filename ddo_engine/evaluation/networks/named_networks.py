"""Feature networks by name."""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ddo_engine.errors import InvalidFeatureNetwork
from ddo_engine.spec import FETCH_INCEPTION, INCEPTION, INCEPTION_VARIABLE


def path_of(name_or_path: str | Path) -> Path:
    """Return where a feature network lies: what is called "inception" is what ``DDO_INCEPTION_WEIGHTS`` names.

    Raises:
        InvalidFeatureNetwork: The variable is not set, or names what is not on this machine. Nothing is fetched.
    """
    if str(name_or_path) != INCEPTION:
        return Path(name_or_path)
    value = os.environ.get(INCEPTION_VARIABLE, "")
    if not value:
        raise InvalidFeatureNetwork(
            f"the feature network 'inception' is the file that {INCEPTION_VARIABLE} names, which is not set: fetch the "
            f"weights with `{FETCH_INCEPTION}`, and set it to their path",
            param="feature_network",
        )
    parts = urlsplit(value)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in value:
        raise InvalidFeatureNetwork(
            f"{INCEPTION_VARIABLE} is {value}, which is not fetched; the engine reads local files: copy it, and set "
            "the variable to its path",
            param="feature_network",
        )
    return Path(value)
