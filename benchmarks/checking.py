"""What it costs that compiled code is compared with its graph when it first runs (`check="first"`).

The first call of a step in fresh processes, with the check and without it in turn, once the compile caches are warm:
its time, and the most that the process held. Later calls are the same code.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from measure import ratio
from models import CASES
from rich.console import Console
from rich.table import Table
from run import ratio_text

CHECKS = ("never", "first")


def first_call(case: str, check: str) -> None:
    """What each process does; its last line is for the one that started it."""
    import torch
    from models import Problem
    from variants import ours

    torch.manual_seed(0)
    problem: Problem = CASES[case].build()
    optimizer = torch.optim.AdamW(problem.model.parameters(), lr=1e-4, fused=True)
    step = ours(problem, optimizer, CASES[case].steps, check=check)
    begun = time.perf_counter()
    step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - begun, "peak_mib": peak}))


def in_a_process(case: str, check: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", case, "--one", check]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout.splitlines()[-1])


def rows(case: str, rounds: int) -> Iterator[tuple[str, str, str, str]]:
    """A row for each way: its name, its time, that as a share of the time without, its peak."""
    for check in CHECKS:
        in_a_process(case, check)
    turns = [{check: in_a_process(case, check) for check in CHECKS} for _ in range(rounds)]
    seconds = {check: [turn[check]["seconds"] for turn in turns] for check in CHECKS}
    for check in CHECKS:
        peak = statistics.median(turn[check]["peak_mib"] for turn in turns)
        share = ratio_text(ratio(seconds, check, "never"))
        yield check, f"{statistics.median(seconds[check]):.2f} s", share, f"{peak:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=["gpt-demo", "mlp"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=CHECKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        first_call(options.case[0], options.one)
        return
    for case in options.case:
        table = Table("check", "first call", "time / never", "peak", title=CASES[case].title, title_justify="left")
        for row in rows(case, options.rounds):
            table.add_row(*row)
        Console().print(table)


if __name__ == "__main__":
    main()
