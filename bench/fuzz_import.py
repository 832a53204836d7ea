"""Damages official-looking checkpoints in thousands of ways and converts each: only EngineErrors may come of it.

    python -m bench.fuzz_import --count 20000

Seeded: the same count and seed damage the same bytes. Prints one line a format; exits with 1 if anything else escaped.
"""

import argparse
import pickletools
import random
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from ddo_engine.conversion import convert
from ddo_engine.errors import EngineError

_CODES = [operation.code.encode("latin-1") for operation in pickletools.opcodes]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return a damaged copy: flipped, cut, repeated, removed or exchanged bytes, operations, or numbers."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5, 20))):
        at = draw.randrange(len(data)) if data else 0
        match draw.randrange(8):
            case 0:
                data[at : at + 1] = bytes([draw.randrange(256)])
            case 1:
                data[at : at + 1] = draw.choice(_CODES)
            case 2:
                data[at:at] = draw.choice(_CODES)
            case 3:
                del data[at : at + draw.choice((1, 2, 8, 100))]
            case 4:
                other, length = draw.randrange(max(1, len(data))), draw.choice((1, 4, 16, 200))
                data[at:at] = data[other : other + length]
            case 5:
                data[at : at + 4] = draw.choice((b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\0\0\0\0"))
            case 6:
                data[at : at + 8] = draw.choice((b"\xff" * 8, b"\0" * 7 + b"\x80", b"\xff" * 7 + b"\x7f"))
            case 7 if draw.random() < 0.1:
                del data[at:]
    return bytes(data)


def main() -> None:
    """Run the fuzzer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="inputs in all, over all formats")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.unit.conversion.official_files import small_official_files  # noqa: PLC0415

    originals = small_official_files()
    crashes = 0
    for name, content in originals.items():
        draw = random.Random(f"{options.seed} {name}")  # noqa: S311  (reproducible, not secret)
        crashes += _fuzz(name, content, options.count // len(originals), draw)
    sys.exit(1 if crashes else 0)


def _fuzz(name: str, content: bytes, count: int, draw: random.Random) -> int:
    outcomes: Counter[str] = Counter()
    crashes = 0
    slowest, started = 0.0, time.monotonic()
    with TemporaryDirectory() as folder:
        source = Path(folder) / "fuzzed"
        for _ in range(count):
            source.write_bytes(mutated(content, draw))
            began = time.monotonic()
            try:
                convert(source, Path(folder) / "out")
                outcomes["converted"] += 1
            except EngineError as error:
                outcomes[error.code] += 1
            except Exception as error:  # noqa: BLE001  (what we are looking for)
                crashes += 1
                print(f"CRASH {name}: {type(error).__name__}: {error}")
            slowest = max(slowest, time.monotonic() - began)
    took = time.monotonic() - started
    print(
        f"{name:24} {count} inputs, {crashes} crashes, slowest {slowest:.2f} s, {took:.0f} s in all, {dict(outcomes)}"
    )
    return crashes


if __name__ == "__main__":
    main()
