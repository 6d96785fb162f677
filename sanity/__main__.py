"""csi-sanity against the driver, in lab nodes: `python -m sanity [VARIANT …]`."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lab.errors import LabError
from lab.interrupt import end_at_interrupt
from lab.lab import Lab
from sanity import report
from sanity.suite import VERSION, Run, run_variant
from sanity.variants import VARIANTS, Variant


def main() -> int:
    names = [variant.name for variant in VARIANTS]
    parser = argparse.ArgumentParser(prog="python -m sanity", description=__doc__)
    parser.add_argument("variant", nargs="*", help=f"some of {', '.join(names)} (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="nodes at a time (2)")
    parser.add_argument("--output", type=Path, help="folder for what the suite printed")
    options = parser.parse_args()
    if unknown := set(options.variant) - set(names):
        parser.error(f"no variant {', '.join(sorted(unknown))}: there are {', '.join(names)}")
    chosen = [variant for variant in VARIANTS if variant.name in (options.variant or names)]
    console = Console()
    try:
        runs = _run(chosen, options.jobs, console)
    except LabError as error:
        console.print(f"[red]{error}", highlight=False)
        return 1
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        for run in runs:
            (options.output / f"{run.variant.name}.log").write_text(run.output)
    return 1 if any(run.problems for run in runs) else 0


def _run(variants: list[Variant], jobs: int, console: Console) -> list[Run]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
    )
    console.print(f"csi-sanity {VERSION} against XLSS, each variant in a lab node of its own")
    with (
        Lab() as lab,
        Progress(*columns, console=console) as bars,
        ThreadPoolExecutor(jobs) as pool,
    ):

        def run(variant: Variant, bar: TaskID) -> Run:
            bars.start_task(bar)
            done = run_variant(lab, variant, lambda specs: bars.update(bar, completed=specs))
            bars.update(bar, completed=report.SPECS_AT_LEAST)
            bars.stop_task(bar)
            colour = "red" if done.problems else "green"
            console.print(done.text(), style=colour, markup=False, highlight=False, soft_wrap=True)
            return done

        total = report.SPECS_AT_LEAST
        tasks = [
            pool.submit(run, variant, bars.add_task(variant.name, start=False, total=total))
            for variant in variants
        ]
        return [task.result() for task in tasks]


if __name__ == "__main__":
    end_at_interrupt()
    sys.exit(main())
