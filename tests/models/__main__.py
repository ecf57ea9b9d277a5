"""``python tests/models [NAME ...] [--write FILE]``: train the models both ways, and print what came of it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
from check import BATCH, EXACT, STEPS, TOLERANCE, Outcome, check
from rich.console import Console
from rich.markup import escape
from widened import transformers
from zoo import TOKENS, ZOO

QUARTER = 0.25


def main() -> int:
    os.environ.setdefault("ACCUMCOMPILE_PROGRESS", "0")
    parser = argparse.ArgumentParser(prog="python tests/models")
    parser.add_argument("names", nargs="*", help="models; all of them where none is named")
    parser.add_argument("--write", type=Path, help="the file for the table")
    parser.add_argument("--json", type=Path, help="the file for the outcomes as data")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    outcomes = survey(asked.names or list(ZOO), Console(stderr=True))
    text = document(outcomes)
    print(text)
    if asked.write:
        asked.write.write_text(text)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    return 0 if all(outcome.runs or outcome.verdict == "refused" for outcome in outcomes) else 1


def survey(names: Sequence[str], console: Console) -> list[Outcome]:
    outcomes = []
    for i, name in enumerate(names, 1):
        outcomes.append(check(name))
        last = outcomes[-1]
        console.print(f"{i}/{len(names)} {name}: {last.verdict} {escape(last.why)} ({last.seconds:.0f} s)")
    return outcomes


def document(outcomes: Sequence[Outcome]) -> str:
    """The table, and what it comes to."""
    return "\n".join([*_head(outcomes), *map(_line, outcomes), "", *_notes(outcomes)]) + "\n"


def _head(outcomes: Sequence[Outcome]) -> list[str]:
    running = sum(outcome.runs for outcome in outcomes)
    plain = [o for o in outcomes if o.runs and not o.batch_norm]
    small = sum(o.activations < QUARTER for o in plain)
    library = f"transformers {transformers.__version__}"
    versions = f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}"
    return [
        "# Models nobody here wrote",
        "",
        f"{running} of {len(outcomes)} run unchanged and equal the full batch; of the {len(plain)} of these without",
        f"BatchNorm, {small} need less than a quarter of its activation memory at {STEPS} micro-batches.",
        "",
        f"Architectures of {library}, tiny, of random weights, in float64: batch {BATCH},",
        f"{TOKENS} tokens, padded, labels of -100 where nothing is to be learnt. Equal means: loss, gradients,",
        f"parameters and buffers within {TOLERANCE:.0e} of the eager full batch after one SGD update.",
        f"Made by `make models` on {date.today()} with {versions}, lowering `eager`.",
        "",
        "*activations*: the peak of live bytes in one update, measured by the profiler, as a share of the full",
        "batch's; gradients and the model's output, which the step keeps alive (*kept*), are left out of both.",
        "*graphs*: more than one where Dynamo breaks the model's forward.",
        "",
        "| model | verdict | difference | graphs | loops | gathered | activations | kept |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]


def _line(o: Outcome) -> str:
    name = o.name + (" (BatchNorm)" if o.batch_norm else "")
    if o.verdict != EXACT:
        return f"| {name} | {o.verdict} | {o.why} | | | | | |"
    gathered = f"{o.gathered / 1024:.0f} KiB" if o.gathered else "0"
    numbers = (
        f"{o.difference:.0e} | {o.graphs} | {o.loops} | {gathered} | {o.activations:.2f} | {o.kept / 1024:.0f} KiB"
    )
    return f"| {name} | {o.verdict} | {numbers} |"


def _notes(outcomes: Sequence[Outcome]) -> list[str]:
    large = [o.name for o in outcomes if o.runs and o.activations >= QUARTER]
    return [f"Above a quarter: {', '.join(large) or 'none'}."]


if __name__ == "__main__":
    sys.exit(main())
