"""``python tests/fuzz N``: N random steps, each equal to the full batch or refused, most with a lower peak."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler says twice a step that it runs
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.check import LOWERINGS, Outcome, check
from fuzz.parallel import outcomes, quiet
from fuzz.report import Summary, show
from fuzz.search import smallest
from fuzz.strategy import LONGEST, LONGEST_COMPILED

FEW = 50  # steps, of which shares say nothing


def main() -> int:
    """Search, print, and say by the exit status whether every promise was kept."""
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("steps", type=int, nargs="?", default=300, help="how many random steps")
    parser.add_argument("--seed", type=int, default=0, help="the first step's; the others follow")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="steps at a time (default: one per core)")
    parser.add_argument("--lowering", choices=LOWERINGS, default="eager", help="inductor: 10 s a step")
    parser.add_argument(
        "--most", type=int, help=f"ops of a step (default: {LONGEST}; {LONGEST_COMPILED} with inductor)"
    )
    parser.add_argument("--shrink", action="store_true", help="make each failing step as small as possible (minutes)")
    parser.add_argument("--kinds", action="store_true", help="which ops stand in steps whose peak is not lower")
    options = parser.parse_args()
    quiet()
    most = options.most or (LONGEST_COMPILED if options.lowering == "inductor" else LONGEST)
    found = outcomes(range(options.seed, options.seed + options.steps), options.jobs, options.lowering, most)
    summary = Summary(found)
    if options.shrink:
        summary.failures = {number: _smaller(number, o, most) for number, o in summary.failures.items()}
    show(summary, options.kinds)
    return 0 if summary.kept or (options.steps < FEW and not summary.failures) else 1


def _smaller(number: int, outcome: Outcome, most: int) -> Outcome:
    """The failing step, made smaller as long as it fails for the same reason."""
    reason = _reason(outcome)
    found = smallest(number, lambda program: _reason(check(program, outcome.lowering)) == reason, most)
    return check(found, outcome.lowering)


def _reason(outcome: Outcome) -> str:
    return "different" if outcome.differences else outcome.failure.split("\n")[0][:60]


if __name__ == "__main__":
    raise SystemExit(main())
