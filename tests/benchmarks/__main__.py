"""Prints how fast each step is beside what people use instead.

    make bench                                            (all)
    python -m tests.benchmarks convert --repeats 3        (one of them)

Figures are ratios between programs measured in turn in one run; the steady rate is the slope between a smaller and a
larger number of images, so that start-up is left out and shown apart.
"""

import argparse

from tests.benchmarks import convert, decode, evaluation, feeding, fit, listing, remote, transfer

BENCHMARKS = {
    "decode": decode.run,
    "convert": convert.run,
    "fit": fit.run,
    "input": feeding.run,
    "transfer": transfer.run,
    "evaluation": evaluation.run,
    "listing": listing.run,
    "remote": remote.run,
    "nodes": remote.run_nodes,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all of them by default")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each program; the median counts")
    options = parser.parse_args()
    unknown = set(options.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"unknown benchmark {min(unknown)}; expected {', '.join(BENCHMARKS)}")
    for name in options.names or BENCHMARKS:
        BENCHMARKS[name](options.repeats)


if __name__ == "__main__":
    main()
