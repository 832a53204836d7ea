"""DDO where everything is exact: the toy of the paper's figure 1, and theorem 3.2 in numbers.

    python -m examples.toy [--figure docs/toy.png]

Prints the tables of docs/toy.md and draws its figure. Source: arXiv:2503.01103, figure 1 and section 3.2.
"""

import argparse
from pathlib import Path

from examples.toy import figure, report


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", type=Path, help="PNG to write")
    options = parser.parse_args()
    cases = [report.Case.of(name) for name in report.FAMILIES]
    for case in cases:
        print(f"## {case.name} family\n")
        for title, lines in (
            ("Reference at the exact optimum of maximum likelihood", report.at_the_optimum(case)),
            ("Over-dispersed reference, best of the grid's trials", report.rounds(case)),
            ("The same, long trials and no choice: KL(data ‖ model), KL(model ‖ data)", report.without_choice(case)),
            ("Theorem 3.2, the largest share of each bound that a density reached", report.bounds(case)),
        ):
            print(f"{title}\n\n" + "\n".join(lines) + "\n", flush=True)
    if options.figure is not None:
        figure.draw(cases, options.figure)


if __name__ == "__main__":
    main()
