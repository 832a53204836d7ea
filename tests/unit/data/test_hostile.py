"""Files made to hurt: refused by name, in little time and memory, before anything large is decoded."""

import io
import json
import os
import resource
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from ddo_engine.data import DatasetLimits, load_dataset
from ddo_engine.data.limits import DEFAULT_LIMITS
from ddo_engine.data.zip_archive import ZipArchive
from ddo_engine.errors import InvalidDataset
from ddo_engine.spec import DatasetReading
from tests.unit.data.dataset_files import (
    PIXELS,
    by_class,
    encoded,
    refusal,
    samples,
    write_folder,
    write_tar,
    write_zip,
)

IMAGE = encoded(PIXELS[0])
MEBIBYTE = 2**20

MEASURE = """
import resource, sys, time
from ddo_engine.data import load_dataset
from ddo_engine.errors import InvalidDataset
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, start = peak(), time.process_time()
try:
    load_dataset(sys.argv[1])
    said = "accepted"
except InvalidDataset as error:
    said = error.message
print(peak() - before, time.process_time() - start, said)
"""


def cost_of_refusal(path: Path) -> tuple[int, float, str]:
    """Return the growth of the peak memory in bytes, the processor seconds, and the message, of a fresh process."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    memory, seconds, said = result.stdout.split(maxsplit=2)
    return int(memory), float(seconds), said


def zip_of_entries(path: Path, names: list[bytes], content: bytes = b"") -> Path:
    """Write a zip whose entries all point at their own copy of ``content``; faster than zipfile."""
    crc, body, directory = zlib.crc32(content), bytearray(), bytearray()
    for name in names:
        sizes = (crc, len(content), len(content), len(name))
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, *sizes, 0, 0, 0, 0, 0, len(body)) + name
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, *sizes, 0) + name + content
    end64 = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, len(names), len(names), len(directory), len(body)
    ) + struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(directory), 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(bytes(body + directory) + end64 + end)
    return path


@pytest.mark.parametrize("kind", ["folders", "empty files", "tiny files"])
def test_zip_of_a_million_entries_is_cheap_to_refuse(tmp_path: Path, kind: str) -> None:
    suffix = b"/" if kind == "folders" else b".png"
    names = [b"%07d%s" % (index, suffix) for index in range(1_000_000)]
    path = zip_of_entries(tmp_path / "a.zip", names, b"x" if kind == "tiny files" else b"")
    memory, seconds, said = cost_of_refusal(path)
    assert said != "accepted"
    assert memory < (400 if kind == "tiny files" else 100) * MEBIBYTE
    assert seconds < 20


def test_zip_of_our_own_making_is_one_that_zipfile_reads(tmp_path: Path) -> None:
    path = zip_of_entries(tmp_path / "a.zip", [b"a.png", b"b.png"], IMAGE)
    assert zipfile.ZipFile(path).testzip() is None
    archive = ZipArchive(path, DEFAULT_LIMITS)
    assert [archive.read(index) for index in range(2)] == [IMAGE, IMAGE]


def test_zip_with_64_bit_fields_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    path = write_zip(tmp_path / "a.zip", {"a.png": IMAGE, "b.png": IMAGE})
    assert b"PK\6\6" in path.read_bytes()
    archive = ZipArchive(path, DEFAULT_LIMITS)
    assert [archive.read(index) for index in range(2)] == [IMAGE, IMAGE]


@pytest.mark.parametrize("field", ["size", "compressed", "offset"])
def test_zip_with_64_bit_fields_beyond_the_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    path = write_zip(tmp_path / "a.zip", {"a.png": IMAGE, "b.png": IMAGE})
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2") + 46 + len("b.png") + 4 + 8 * ["size", "compressed", "offset"].index(field)
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(content)
    assert refusal(path)


def test_zip_that_claims_too_many_entries_is_refused_before_the_walk(tmp_path: Path) -> None:
    path = zip_of_entries(tmp_path / "a.zip", [b"%d.png" % index for index in range(50)], IMAGE)
    assert "50 entries" in refusal(path, limits=DatasetLimits(max_images=10, max_folders=10))


def test_zip_whose_entries_overlap_is_refused(tmp_path: Path) -> None:
    """The trick of bombs that unpack to a thousand times what a single deflated entry can."""
    path = zip_of_entries(tmp_path / "a.zip", [b"a.png", b"b.png"], IMAGE)
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\1\2")
    content[second + 42 : second + 46] = bytes(4)
    path.write_bytes(content)
    assert "overlaps" in refusal(path)


def test_zip_whose_names_differ_inside_is_refused(tmp_path: Path) -> None:
    path = zip_of_entries(tmp_path / "a.zip", [b"a.png", b"b.png"], IMAGE)
    path.write_bytes(path.read_bytes().replace(b"b.png", b"c.png", 1))
    assert "two different names" in refusal(path)


def test_zip_entry_that_inflates_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": bytes(10_000_000)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2")
    content[at + 24 : at + 28] = struct.pack("<L", 60_000)
    path.write_bytes(content)
    memory, _, said = cost_of_refusal(path)
    assert "size" in said
    assert memory < 8 * MEBIBYTE


def test_zip_entry_with_more_data_than_content_is_refused(tmp_path: Path) -> None:
    """Else a file of any size would be read into memory to find ten bytes in it."""
    path = write_zip(tmp_path / "a.zip", {"a.png": os.urandom(100_000)}, zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\1\2")
    content[at + 24 : at + 28] = struct.pack("<L", 10)
    path.write_bytes(content)
    assert "two different sizes" in refusal(path)


@pytest.mark.parametrize("inner", ["a.zip", "42.zip", "x.tar"])
def test_zip_in_a_zip_is_not_opened(tmp_path: Path, inner: str) -> None:
    content = write_zip(tmp_path / "inner.zip", by_class()).read_bytes()
    assert inner in refusal(write_zip(tmp_path / "a.zip", {inner: content}))


def test_zip_with_a_foreign_beginning_or_end_is_refused(tmp_path: Path) -> None:
    content = write_zip(tmp_path / "a.zip", by_class()).read_bytes()
    for changed in (b"PK" + content, content + b"more", content + content[-22:]):
        (tmp_path / "b.zip").write_bytes(changed)
        assert "not a complete zip" in refusal(tmp_path / "b.zip")


def tar_with(path: Path, **attributes: object) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        good = tarfile.TarInfo("a.png")
        good.size = len(IMAGE)
        archive.addfile(good, io.BytesIO(IMAGE))
        odd = tarfile.TarInfo("b.png")
        for name, value in attributes.items():
            setattr(odd, name, value)
        archive.addfile(odd, io.BytesIO(bytes(odd.size)))
    return path


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link"),
        ({"type": tarfile.LNKTYPE, "linkname": "a.png"}, "a link"),
        ({"type": tarfile.CHRTYPE}, "a device"),
        ({"type": tarfile.BLKTYPE}, "a device"),
        ({"type": tarfile.FIFOTYPE}, "a pipe"),
        ({"type": tarfile.GNUTYPE_SPARSE, "size": 512}, "a sparse file"),
        ({"type": b"7", "size": 10}, "unknown type"),
        ({"name": "/etc/b.png", "size": 5}, "plain relative name"),
        ({"name": "x/../../b.png", "size": 5}, "plain relative name"),
        ({"name": "a.png", "size": 5}, "twice"),
        ({"name": "b.png", "size": 0}, "empty"),
        ({"name": "b.exe", "size": 5}, "b.exe"),
        ({"name": "n" * 2000 + ".png", "size": 5}, "longer than"),
    ],
)
def test_tar_member_that_is_no_plain_file_is_refused(tmp_path: Path, attributes: dict[str, object], said: str) -> None:
    assert said in refusal(tar_with(tmp_path / "a.tar", **attributes))


def test_tar_sparse_map_of_pax_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size, member.pax_headers = len(IMAGE), {"GNU.sparse.size": "99999999999"}
        archive.addfile(member, io.BytesIO(IMAGE))
    assert "sparse" in refusal(tmp_path / "a.tar")


@pytest.mark.parametrize("size", ["1e9", "-5", "9" * 18, "9" * 200])
def test_tar_size_of_pax_that_is_wrong_is_refused(tmp_path: Path, size: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size, member.pax_headers = len(IMAGE), {"size": size}
        archive.addfile(member, io.BytesIO(IMAGE))
    assert "not a complete tar" in refusal(tmp_path / "a.tar")


def test_tar_long_names_of_both_kinds_are_read(tmp_path: Path) -> None:
    name = "class/" + "é" * 200 + ".png"
    for tar_format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = write_tar(tmp_path / "a.tar", {"class/a.jpg": b"x", name: IMAGE}, tar_format)
        assert "class/a.jpg" in refusal(path)  # the long one is fine, and sorts after it


def test_tar_huge_extended_header_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size, member.pax_headers = len(IMAGE), {"comment": "1 " * 100_000}
        archive.addfile(member, io.BytesIO(IMAGE))
    assert "extended header" in refusal(tmp_path / "a.tar")


def test_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """Also between two members, where most readers see a shorter tar."""
    content = write_tar(tmp_path / "a.tar", by_class()).read_bytes()
    end = content.rindex(b"IEND") + 512
    for length in range(0, end // 512 * 512, 256):
        (tmp_path / "b.tar").write_bytes(content[:length])
        assert "complete" in refusal(tmp_path / "b.tar")


@pytest.mark.parametrize("writer", [write_zip, write_tar])
def test_archive_with_flipped_bits_never_fails_otherwise(tmp_path: Path, writer: object) -> None:
    whole = writer(tmp_path / "a", samples() if writer is write_tar else by_class()).read_bytes()  # type: ignore[operator]
    refused = 0
    for at in range(0, len(whole), 61):
        changed = bytearray(whole)
        changed[at] ^= 1 << (at % 8)
        (tmp_path / "b").write_bytes(changed)
        try:
            load_dataset(tmp_path / "b")
        except InvalidDataset:
            refused += 1
    assert refused > 20


def test_tar_of_many_folders_and_deep_folders_are_refused(tmp_path: Path) -> None:
    limits = DatasetLimits(max_folders=20)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for index in range(30):
            member = tarfile.TarInfo(f"f{index}")
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
    assert "folder number 21" in refusal(tmp_path / "a.tar", limits=limits)
    folder = write_folder(tmp_path / "many", {f"f{index}/a.png": IMAGE for index in range(30)})
    assert "folder number 21" in refusal(folder, limits=limits)


def test_npz_bomb_is_refused_in_little_memory(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", np.zeros((400, 512, 512, 3), np.uint8))
    memory, _, said = cost_of_refusal(tmp_path / "a.npz")
    assert "suspiciously" in said
    assert memory < 32 * MEBIBYTE


def test_images_within_all_limits_beyond_memory_stay_on_disk(tmp_path: Path) -> None:
    """300 images of 1024x1024 are 900 MB decoded; of them only what a batch asks for is."""
    image = encoded(np.zeros((1024, 1024, 3), np.uint8))
    path = write_zip(tmp_path / "a.zip", {f"{index}.png": image for index in range(300)})
    script = MEASURE.replace(
        "load_dataset(sys.argv[1])", "load_dataset(sys.argv[1], max_memory_bytes=2**26).batch([1])"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True)
    assert result.stdout.endswith("accepted\n")
    assert int(result.stdout.split()[0]) < 64 * MEBIBYTE


def test_labels_file_of_absurd_size_is_refused(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "a.zip", {"a.png": IMAGE, "dataset.json": b'{"labels": [' + b"{}," * 2_000_000 + b"{}]}"}
    )
    assert "dataset.json" in refusal(path)


@pytest.mark.parametrize("row", [b"[],", b"{},"])
def test_labels_file_of_many_lists_is_refused_before_it_is_parsed(tmp_path: Path, row: bytes) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.png": IMAGE, "dataset.json": b'{"labels": [' + row * 300_000 + b"[]]}"})
    assert "far more lists than the 1 images need" in refusal(path)


def test_labels_of_names_with_brackets_are_read(tmp_path: Path) -> None:
    files = {f"[[[{{{{{index:04d}.png": IMAGE for index in range(2000)}
    labels = json.dumps({"labels": [[name, 1] for name in files]}).encode()
    dataset = load_dataset(write_zip(tmp_path / "a.zip", files | {"dataset.json": labels}))
    assert len(dataset) == 2000


@pytest.mark.parametrize("transform", ["center-crop-dhariwal", "var"])
@pytest.mark.parametrize("form", ["png", "npz"])
def test_line_of_pixels_that_would_be_resized_to_gigabytes_is_refused(
    tmp_path: Path, transform: Literal["center-crop-dhariwal", "var"], form: str
) -> None:
    pixels = np.zeros((512, 8, 3), np.uint8)
    reading = DatasetReading(transform=transform, resolution=8192)
    if form == "npz":
        np.savez(tmp_path / "a.npz", pixels[None])
    else:
        write_zip(tmp_path / "a.png", {"a.png": encoded(pixels)})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "8x512, which has more than 268,435,456 pixels" in refusal(tmp_path / f"a.{form}", reading)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_image_of_tiny_parts_is_refused_before_a_decoder_walks_through_them(tmp_path: Path) -> None:
    jpeg, chunk = encoded(PIXELS[0], "JPEG"), b"\0\0\0\0abCd" + zlib.crc32(b"abCd").to_bytes(4, "big")
    scan = jpeg.index(b"\xff\xda")
    for image in (
        IMAGE[:33] + chunk * 10_000 + IMAGE[33:],
        IMAGE[:-12] + chunk * 10_000 + IMAGE[-12:],
        jpeg[:2] + b"\xff" * 10_000 + jpeg[2:],
        jpeg[:2] + b"\xff\xe1\0\2" * 10_000 + jpeg[2:],
        jpeg[:scan] + b"\xff\xe1\0\2" * 10_000 + jpeg[scan:],
    ):
        assert "very many tiny parts" in refusal(write_zip(tmp_path / "a.zip", {"a.png": image}))


def test_image_of_many_large_parts_is_read(tmp_path: Path) -> None:
    text = b"tEXtComment\0" + b"x" * 2000
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    path = write_zip(tmp_path / "a.zip", {"a.png": IMAGE[:33] + chunk * 6000 + IMAGE[33:]})
    assert len(load_dataset(path)) == 1
