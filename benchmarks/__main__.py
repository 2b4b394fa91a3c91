"""All benchmarks, stages first, in some nine minutes: ``make bench``.

    python -m benchmarks [--count N] [--rounds N] [--seconds N] [--save]

``--save`` writes ``results/latest.json`` and ``latest.svg``, the record in the
repository; without it nothing is written.
"""

from __future__ import annotations

import argparse
import asyncio

from benchmarks import bench_sandbox, end_to_end, figures, stages
from benchmarks.machine import facts
from benchmarks.report import table, write_json


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=30_000, help="of a backlog")
    parser.add_argument("--rounds", type=int, default=3, help="of the main workload")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a steady load")
    parser.add_argument("--save", action="store_true", help="replace the record")
    given = parser.parse_args()
    costs = stages.measure(stages.COUNT, stages.RUNS)
    print(table(stages.COLUMNS, stages.rows(costs)), end="\n\n", flush=True)
    sandbox = bench_sandbox.measure()
    print(bench_sandbox.tables(sandbox), end="\n\n", flush=True)
    measured = asyncio.run(end_to_end.run(given.count, given.rounds, given.seconds))
    print(figures.tables(measured))
    print("\n" + ", ".join(f"{name} {value}" for name, value in facts().items()))
    if given.save:
        record = figures.document(measured, given.count)
        record["stages"] = stages.document(costs)
        record["sandbox"] = sandbox
        folder = end_to_end.RESULTS
        write_json(folder / "latest.json", record)
        plot = figures.plot(measured)
        (folder / "latest.svg").write_text(plot, encoding="utf-8")


if __name__ == "__main__":
    main()
