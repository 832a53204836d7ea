import json
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddo_engine.data import DatasetLimits, load_dataset, write_dataset
from ddo_engine.errors import InvalidDataset

FIRST, SECOND = "00000/img00000000.png", "00000/img00000001.png"


def png(width: int = 8, height: int = 8, mode: str = "L") -> bytes:
    buffer = BytesIO()
    Image.new(mode, (width, height)).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def write_zip(
    path: Path, files: dict[str, bytes], labels: object = "none", compression: int = zipfile.ZIP_STORED
) -> Path:
    with zipfile.ZipFile(path, "w", compression=compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if labels != "none":
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
    return path


def refusal(path: Path, **limits: float) -> str:
    with pytest.raises(InvalidDataset) as caught:
        load_dataset(path, limits=DatasetLimits(**limits))
    return caught.value.message


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labelled", [True, False])
def test_load_what_was_written_returns_it(tmp_path: Path, channels: int, labelled: bool) -> None:
    images = torch.randint(0, 256, (5, channels, 6, 6), dtype=torch.uint8)
    labels = torch.tensor([2, 0, 2, 1, 2]) if labelled else None
    write_dataset(tmp_path / "set.zip", images, labels)
    dataset = load_dataset(tmp_path / "set.zip")
    assert torch.equal(dataset.images_NCHW, images)
    assert dataset.info.class_counts == ((1, 1, 3) if labelled else ())
    assert (dataset.info.num_images, dataset.info.img_resolution, dataset.info.img_channels) == (5, 6, channels)
    batch = dataset.batch([4, 4, 0])
    assert torch.equal(batch.images_BCHW, images[[4, 4, 0]])
    assert batch.labels_B is None if labels is None else torch.equal(batch.labels_B, labels[[4, 4, 0]])


def test_load_unsorted_zip_sorts_names_with_their_labels(tmp_path: Path) -> None:
    def grey(value: int) -> bytes:
        buffer = BytesIO()
        Image.fromarray(np.full((4, 4), value, dtype=np.uint8)).save(buffer, format="PNG")
        return buffer.getvalue()

    files = {"b/x.png": grey(2), "a/y.png": grey(1), "a10.png": grey(3)}
    dataset = load_dataset(write_zip(tmp_path / "z.zip", files, [["b/x.png", 0], ["a10.png", 5], ["a/y.png", 1]]))
    assert dataset.images_NCHW[:, 0, 0, 0].tolist() == [1, 3, 2]
    assert dataset.labels_N is not None
    assert dataset.labels_N.tolist() == [1, 5, 0]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_load_folders_null_labels_and_deflate_are_read(tmp_path: Path, compression: int) -> None:
    path = write_zip(tmp_path / "z.zip", {"00000/": b"", FIRST: png(mode="RGB")}, None, compression)
    assert load_dataset(path).labels_N is None


BAD_LABELS = {
    "negative": ([[FIRST, -1], [SECOND, 0]], FIRST),
    "too large": ([[FIRST, 0], [SECOND, 10**30]], SECOND),
    "a fraction": ([[FIRST, 0.5], [SECOND, 0]], FIRST),
    "a boolean": ([[FIRST, True], [SECOND, 0]], FIRST),
    "one-hot": ([[FIRST, [0, 1]], [SECOND, [1, 0]]], FIRST),
    "missing": ([[FIRST, 0]], SECOND),
    "double": ([[FIRST, 0], [FIRST, 1], [SECOND, 0]], FIRST),
    "of an unknown image": ([[FIRST, 0], [SECOND, 0], ["00000/img00000009.png", 0]], "img00000009.png"),
    "not a pair": ([[FIRST, 0, 0], [SECOND, 0]], "labels[0]"),
    "a mapping": ({FIRST: 0, SECOND: 0}, "must be a list"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_load_label_wrong_names_the_image(tmp_path: Path, case: str) -> None:
    labels, named = BAD_LABELS[case]
    assert named in refusal(write_zip(tmp_path / "z.zip", {FIRST: png(), SECOND: png()}, labels))


@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"labels": ' + b"1" * 5000 + b"}"])
def test_load_dataset_json_wrong_is_refused(tmp_path: Path, text: bytes) -> None:
    assert "dataset.json" in refusal(write_zip(tmp_path / "z.zip", {FIRST: png(), "dataset.json": text}))


BAD_IMAGES = {
    "not square": png(8, 9),
    "other size": png(9, 9),
    "other mode": png(mode="RGB"),
    "palette": png(mode="P"),
    "transparency": png(mode="RGBA"),
    "one bit": png(mode="1"),
    "sixteen bits": png(mode="I;16"),
    "truncated": png()[:-30],
    "truncated header": png()[:20],
    "broken checksum": png()[:-20] + bytes(20),
    "a JPEG": b"\xff\xd8\xff\xe0" + bytes(60),
    "empty": b"",
    "no size": png()[:16] + bytes(8) + png()[24:],
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_load_image_wrong_names_the_image(tmp_path: Path, case: str) -> None:
    assert SECOND in refusal(write_zip(tmp_path / "z.zip", {FIRST: png(), SECOND: BAD_IMAGES[case]}))


def test_load_huge_header_is_refused_before_decoding(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = png()[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png()[33:]
    assert "60000x60000" in refusal(write_zip(tmp_path / "z.zip", {FIRST: bomb}))


def test_load_second_header_with_another_size_is_refused(tmp_path: Path) -> None:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    second = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb = png()[:33] + second + png()[33:]
    assert FIRST in refusal(write_zip(tmp_path / "z.zip", {FIRST: bomb}))


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"max_images": 1}, "at most"),
        ({"max_image_pixels": 63}, FIRST),
        ({"max_decoded_bytes": 127}, "bytes of memory"),
        ({"max_entry_bytes": 50}, FIRST),
    ],
)
def test_load_beyond_a_limit_is_refused(tmp_path: Path, limits: dict[str, float], said: str) -> None:
    path = write_zip(tmp_path / "z.zip", {FIRST: png(), SECOND: png(), "z.png": png()})
    assert len(load_dataset(path)) == 3
    assert said in refusal(path, **limits)


def test_load_zip_bomb_is_refused_unread(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "z.zip", {FIRST: bytes(10**7)}, compression=zipfile.ZIP_DEFLATED)
    assert "suspiciously" in refusal(path)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a\\b.png", "C:a.png", "a/../../b.png", "a\nb.png"])
def test_load_odd_name_is_refused(tmp_path: Path, name: str) -> None:
    assert "plain relative name" in refusal(write_zip(tmp_path / "z.zip", {name: png()}))


@pytest.mark.parametrize("name", ["readme.txt", "00000/img.jpg", "__MACOSX/.DS_Store"])
def test_load_other_file_is_refused(tmp_path: Path, name: str) -> None:
    assert name in refusal(write_zip(tmp_path / "z.zip", {FIRST: png(), name: b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_load_name_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr(FIRST, png())
        archive.writestr(FIRST, png())
    assert "twice" in refusal(tmp_path / "z.zip")


def test_load_no_images_not_a_zip_or_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no images" in refusal(write_zip(tmp_path / "empty.zip", {}))
    assert "no images" in refusal(write_zip(tmp_path / "labels.zip", {}, None))
    (tmp_path / "text.zip").write_text("hello")
    assert "not a complete zip" in refusal(tmp_path / "text.zip")
    (tmp_path / "void.zip").touch()
    assert "not a complete zip" in refusal(tmp_path / "void.zip")
    (tmp_path / "void.zip").unlink()
    assert "no such file" in refusal(tmp_path / "absent.zip")
    assert "neither an image" in refusal(tmp_path)


def test_load_damaged_anywhere_is_refused_or_unharmed(tmp_path: Path) -> None:
    """Truncations and flipped bits give InvalidDataset or the same pixels, never another error."""
    path = write_zip(tmp_path / "z.zip", {FIRST: png(), SECOND: png()}, [[FIRST, 0], [SECOND, 1]])
    whole, expected = path.read_bytes(), load_dataset(path)
    damaged = [whole[:length] for length in range(0, len(whole), 7)]
    damaged += [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] for at in range(0, len(whole), 3)]
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            found = load_dataset(path)
        except InvalidDataset:
            refused += 1
        else:
            assert torch.equal(found.images_NCHW, expected.images_NCHW)
    assert refused > 0.8 * len(damaged)


@pytest.mark.parametrize(("offset", "value"), [(6, 99), (8, 0x20), (8, 0x40)], ids=["version", "patched", "strong"])
@pytest.mark.parametrize("first", [True, False])
def test_load_zip_beyond_what_is_implemented_refuses_it(tmp_path: Path, offset: int, value: int, first: bool) -> None:
    path = write_zip(tmp_path / "set.zip", {FIRST: png(), SECOND: png()})
    content = bytearray(path.read_bytes())
    entry = content.find(b"PK\x01\x02") if first else content.rfind(b"PK\x01\x02")
    content[entry + offset : entry + offset + 2] = struct.pack("<H", value)
    path.write_bytes(content)
    assert "write or upload" in refusal(path)
