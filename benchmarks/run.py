"""Time and peak memory of one training update, three ways:

  full   the forward and loss of the whole batch, under torch.compile
  hand   the micro-batch loop that a careful engineer writes, its forward and loss under torch.compile
  ours   the step written for one batch, under accumcompile

Times are taken in one process, the variants in turn (A B C, B C A, ...), and compared pair by pair within
each round, so that whatever else the machine does hits all of them. Memory is taken in one fresh process per
variant, after the timing has filled the compile caches, with the peak reset after the warm-up.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from live import live_peak
from measure import Spread, interleave, peak_memory, ratio, timed
from models import CASES
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from variants import VARIANTS, make_step

BASELINE = Path(__file__).with_name("baseline.json")
QUIET = {"ACCUMCOMPILE_PROGRESS": "0", "KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}


@dataclass(frozen=True)
class Result:
    """One variant of one case."""

    case: str
    variant: str
    first_call_s: float
    update_ms: float
    to_full: Spread | None
    to_hand: Spread | None
    peak_mib: float
    live_mib: float


def measure(name: str, variants: list[str], rounds: int, device: str, say: Callable[[str], None]) -> list[Result]:
    """All variants of one case."""
    torch.compiler.reset()
    steps, first_call = {}, {}
    for variant in variants:
        say(f"{name}: compiling {variant}")
        steps[variant] = make_step(CASES[name], variant, device)
        first_call[variant] = timed(steps[variant])
    say(f"{name}: {rounds} rounds of one update each")
    interleave(steps, 2)
    times = interleave(steps, rounds)
    results = []
    for variant in variants:
        say(f"{name}: peak memory of {variant}")
        update_ms = 1e3 * statistics.median(times[variant])
        ratios = ratio(times, variant, "full"), ratio(times, variant, "hand")
        memory = memory_in_subprocess(name, variant, device)
        results.append(Result(name, variant, first_call[variant], update_ms, *ratios, **memory))
    return results


def memory_in_subprocess(case: str, variant: str, device: str) -> dict[str, float]:
    script = [sys.executable, __file__, "--memory", "--threads", str(torch.get_num_threads())]
    command = [*script, "--case", case, "--variant", variant, "--device", device]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | QUIET)
    return json.loads(done.stdout.splitlines()[-1])


def report_memory(case: str, variant: str, device: str) -> None:
    """What such a process does; its last line is for the one that started it."""
    step = make_step(CASES[case], variant, device)
    for _ in range(3):
        step()
    peak = peak_memory(step, device)
    print(json.dumps({"peak_mib": peak, "live_mib": live_peak(step) / 2**20}))


def table_of(results: list[Result]) -> Table:
    title = CASES[results[0].case].title
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in ("", "first call", "update", "time / full", "time / hand", "peak", "tensors"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for r in results:
        table.add_row(
            r.variant,
            f"{r.first_call_s:.1f} s",
            f"{r.update_ms:.1f} ms",
            ratio_text(r.to_full),
            ratio_text(r.to_hand),
            f"{r.peak_mib:.0f} MiB",
            f"{r.live_mib:.1f} MiB",
        )
    return table


def ratio_text(spread: Spread | None) -> str:
    return "" if spread is None else "{:.2f} ({:.2f}-{:.2f})".format(*spread)


def setting(device: str, rounds: int) -> dict[str, object]:
    """What a reader needs to compare these figures with others."""
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    return {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads(), "rounds": rounds}


def processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="default: all")
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="5 rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--write-baseline", action="store_true", help=f"write them to {BASELINE.name}")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def write(paths: list[Path], facts: dict[str, object], results: list[Result]) -> None:
    text = json.dumps({"setting": facts, "results": [asdict(r) for r in results]}, indent=1) + "\n"
    for path in paths:
        path.write_text(text)


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    if args.memory:
        report_memory(args.case[0], args.variant[0], args.device)
        return
    os.environ.update(QUIET)  # one status line is enough
    rounds = 5 if args.quick else args.rounds
    console = Console()
    console.width = max(console.width, 96)
    facts, results = setting(args.device, rounds), []
    console.print(", ".join(f"{key}: {value}" for key, value in facts.items()), highlight=False)
    for name in args.case:
        with console.status(name) as status:
            rows = measure(name, args.variant, rounds, args.device, status.update)
        console.print(table_of(rows))
        results += rows
    write([*filter(None, [args.json]), *([BASELINE] if args.write_baseline else [])], facts, results)


if __name__ == "__main__":
    main()
