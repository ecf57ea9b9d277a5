"""Many random steps at a time, in processes that are given up after a while."""

from __future__ import annotations

import logging
import multiprocessing
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch
from rich.progress import Progress

from .check import Outcome, check
from .search import step_of
from .strategy import LONGEST

AT_A_TIME = 50  # steps in one process: torch keeps megabytes of each


def outcomes(numbers: Sequence[int], jobs: int, lowering: str = "eager", most: int = LONGEST) -> dict[int, Outcome]:
    """What becomes of the step of each number, of at most so many ops, but for the few whose draw makes no step."""
    length = min(AT_A_TIME, -(-len(numbers) // jobs))
    portions = [numbers[i : i + length] for i in range(0, len(numbers), length)]
    spawn = multiprocessing.get_context("spawn")
    found: dict[int, Outcome] = {}
    with ProcessPoolExecutor(jobs, spawn, quiet, max_tasks_per_child=1) as workers, Progress() as progress:
        task = progress.add_task("random steps", total=len(numbers))
        waiting = {workers.submit(_check_all, portion, lowering, most): portion for portion in portions}
        for done in as_completed(waiting):
            found |= done.result()
            progress.advance(task, len(waiting[done]))
    return dict(sorted(found.items()))


def quiet() -> None:
    """One thread, and nothing said but what a search finds."""
    torch.set_num_threads(1)
    torch._dynamo.config.fake_tensor_cache_enabled = False  # no step has another's shapes: it costs a sixth of the time
    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    logging.getLogger("torch.__trace").propagate = True  # else torch renders every graph for a trace nobody reads


def _check_all(numbers: Sequence[int], lowering: str, most: int) -> dict[int, Outcome]:
    steps = ((number, step_of(number, most)) for number in numbers)
    return {number: check(step, lowering) for number, step in steps if step is not None}
