"""The measured aims of this project, as a table and benchmarks/results.json.

python benchmarks/run.py            everything that this machine can measure
python benchmarks/run.py S2 U1      some aims only: those whose functions' docstrings begin with the name
"""

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import analysis
import generation
import judging
import selection
import training

from nbutils.core import disk, manifests
from nbutils.core.errors import exits_cleanly

BENCHMARKS: list[Callable[[], Any]] = [
    *selection.BENCHMARKS,
    *analysis.BENCHMARKS,
    *training.BENCHMARKS,
    *judging.BENCHMARKS,
    *generation.BENCHMARKS,
]
RESULTS = Path(__file__).with_name("results.json")


def main(aims: list[str]) -> None:
    """Measure, print as each is done, and write the results; aims that were not asked for keep their last result."""
    chosen = [each for each in BENCHMARKS if not aims or _aim_of(each) in aims]
    measured = [row for benchmark in chosen for row in _print_rows(benchmark())]
    kept = [row for row in _last_results() if row["aim"] not in {row["aim"] for row in measured}]
    disk.write_json(RESULTS, {"machine": _machine(), "results": sorted(kept + measured, key=lambda row: row["aim"])})
    print(f"\nwritten: {RESULTS}")


def _aim_of(benchmark: Callable[[], Any]) -> str:
    return (benchmark.__doc__ or "").partition(":")[0]


def _print_rows(found: dict[str, Any] | list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = found if isinstance(found, list) else [found]
    for row in rows:
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[row["met"]]
        print(f"{row['aim']:3} {verdict:12} {row['value']!s:>13}  ({row['target']})  {row['what']}", flush=True)
        details = row["detail"] if isinstance(row["detail"], dict) else {"": row["detail"]} if row["detail"] else {}
        for name, value in details.items():
            print(f"{'':32}{name}{': ' if name else ''}{value}", flush=True)
    return rows


def _last_results() -> list[dict[str, Any]]:
    import json

    return json.loads(RESULTS.read_text(encoding="utf-8"))["results"] if RESULTS.is_file() else []


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "system": platform.platform(), "versions": manifests.installed_versions()}


if __name__ == "__main__":
    exits_cleanly(main)(sys.argv[1:])
