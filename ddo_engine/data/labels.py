"""Where class labels come from: ``dataset.json``, folders, label files."""

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from ddo_engine.errors import InvalidDataset

LABELS_FILE = "dataset.json"
MAX_LABEL = 65_535
_MOST_OTHER_LISTS = 1000


def label_from_text(name: str, text: bytes) -> int:
    """Return the class index that a label file holds as decimal digits.

    Raises:
        InvalidDataset: It holds something else.
    """
    digits = text.strip()
    if not (digits.isdigit() and len(digits) <= 9):
        raise InvalidDataset(f"{name!r} must hold one class index in digits, not {digits[:40]!r}")
    return checked_label(name, int(digits))


def checked_label(name: str, label: object) -> int:
    """Return ``label`` if it is a class index.

    Raises:
        InvalidDataset: It is not an integer in range.
    """
    if type(label) is not int or not 0 <= label <= MAX_LABEL:
        raise InvalidDataset(f"the label of {name!r} must be an integer in 0 … {MAX_LABEL}, not {str(label)[:40]}")
    return label


def labels_from_json(text: bytes, names: Sequence[str]) -> Tensor | None:
    """Read EDM's ``dataset.json``: ``{"labels": [[name, class], …]}`` for all items, or ``{"labels": null}``.

    Args:
        text: Content of the file.
        names: Of the items, in order.

    Returns:
        int64 of shape (N,), or None for null.

    Raises:
        InvalidDataset: The file says something else, or not something about each item.
    """
    # A list takes twenty times its two characters of JSON in memory.
    if text.count(b"[") + text.count(b"{") > _MOST_OTHER_LISTS + len(names) + sum(map(_num_brackets, names)):
        raise InvalidDataset(f"{LABELS_FILE} holds far more lists than the {len(names):,} images need: write it again")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{LABELS_FILE} is not JSON ({error})") from error
    if not isinstance(content, dict) or "labels" not in content:
        raise InvalidDataset(f'{LABELS_FILE} must be {{"labels": [[name, class], …]}} or {{"labels": null}}')
    if content["labels"] is None:
        return None
    label_of = _parse_rows(content["labels"], frozenset(names))
    for name in names:
        if name not in label_of:
            raise InvalidDataset(f"{name!r} has no label: give every image one in {LABELS_FILE}, or set labels to null")
    return torch.tensor([label_of[name] for name in names], dtype=torch.int64)


def labels_from_folders(names: Sequence[str]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Take the folder that an item lies in as its class, numbered in sorted order; outer common folders do not matter.

    Returns:
        int64 of shape (N,) and the folders' names; None and () where all items lie in one place outside any folder.

    Raises:
        InvalidDataset: Not all items lie one level below the same folder.
    """
    parents = [name.rpartition("/")[0] for name in names]
    if not any(parents):
        return None, ()
    outer = parents[0].rpartition("/")[0]
    for name, parent in zip(names, parents, strict=True):
        if parent == "" or parent.rpartition("/")[0] != outer:
            raise InvalidDataset(
                f"{name!r} lies at another level than other images: put all into one folder per class, or all outside "
                f"of folders, or add a {LABELS_FILE}"
            )
    folders = sorted(set(parents))
    if len(folders) > MAX_LABEL + 1:
        raise InvalidDataset(f"there are {len(folders):,} class folders; at most {MAX_LABEL + 1:,} classes are read")
    class_of = {folder: index for index, folder in enumerate(folders)}
    labels_N = torch.tensor([class_of[parent] for parent in parents], dtype=torch.int64)
    return labels_N, tuple(folder.rpartition("/")[2] for folder in folders)


def _num_brackets(name: str) -> int:
    return name.count("[") + name.count("{")


def _parse_rows(rows: object, names: frozenset[str]) -> dict[str, int]:
    if not isinstance(rows, list):
        raise InvalidDataset(f"'labels' in {LABELS_FILE} must be a list of [name, class] pairs or null")
    label_of: dict[str, int] = {}
    for index, row in enumerate(rows):
        if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)):
            raise InvalidDataset(f"labels[{index}] in {LABELS_FILE} is not a [name, class] pair")
        name, label = row
        if name not in names:
            raise InvalidDataset(
                f"{LABELS_FILE} labels {name!r}, which is not in the dataset: remove the label or add the image"
            )
        if name in label_of:
            raise InvalidDataset(f"{name!r} is labelled twice in {LABELS_FILE}: keep one label")
        label_of[name] = checked_label(name, label)
    return label_of
