"""The floors of the large networks are those that documents give."""

from pathlib import Path

from bench.sharded_memory import print_floors

DOCUMENT = Path(__file__).parents[3] / "docs" / "benchmarks.md"


def test_documented_floors_are_what_the_bench_counts(capsys):
    print_floors([1, 2, 4, 8])
    assert capsys.readouterr().out in DOCUMENT.read_text(encoding="utf-8")
