"""``python -m accumcompile.oracle``: checks the table against every operator of ``op_db``."""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import Progress
from torch.testing._internal.common_methods_invocations import op_db

from .apart import apart
from .survey import Verdict, survey
from .table import markdown, show


def main() -> int:
    """Judge and print; the exit status says whether the table is sound."""
    parser = argparse.ArgumentParser(prog="python -m accumcompile.oracle", description=__doc__)
    parser.add_argument("operators", nargs="*", help="names in op_db (default: all)")
    parser.add_argument("--samples", type=int, default=6, help="calls of each operator")
    parser.add_argument("--choices", type=int, default=6, help="ways to place the batch in one call")
    parser.add_argument("--part", default="0/1", help="such as 0/2: the first half of the operators")
    parser.add_argument("--write", type=Path, help="write the result to this file")
    options = parser.parse_args()
    _quiet()
    part, parts = map(int, options.part.split("/"))
    chosen = [op for op in op_db if not options.operators or op.name in options.operators][part::parts]
    verdicts = list(_judge(chosen, options.samples, options.choices))
    show(verdicts)
    if options.write:
        options.write.write_text(markdown(verdicts))
    return int(any(v.unsound or v.failed for v in verdicts))


def _quiet() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)


def _judge(operators: list, samples: int, choices: int) -> Iterator[Verdict]:
    """Judge each operator in a separate process, since invalid parts of an input may crash it."""
    survey(next(op for op in op_db if op.name == "addmm"), 1, 1)  # imports once what every process needs
    with Progress(auto_refresh=False) as progress:  # no refresh thread, since processes are forked here
        for op in progress.track(operators, description="operators"):
            yield apart(survey, op, samples, choices) or Verdict(op.name, died=True)


if __name__ == "__main__":
    raise SystemExit(main())
