"""Run one random step on the full batch and accumulated, compare, and measure."""

from __future__ import annotations

import gc
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import apart
import torch
from catalogue.compare import TOLERANCE, UPDATES, History, _observe, beyond, differences
from catalogue.row import Case

from accumcompile import accumulate
from accumcompile.diagnostics.errors import AccumulateError, AccumulateWarning, BuildError
from accumcompile.session import lowerings

from .noise import NOISE, Rounding, Tied
from .peak import measured
from .program import Program, build

LOWERINGS: dict[str, dict[str, Any]] = {
    "eager": {"lowering": "eager"},
    apart.NAME: {"lowering": apart.NAME},
    "inductor": {"lowering": "inductor"},
}
WELL_CONDITIONED = 1e-2 * TOLERANCE  # relative to which noise in rounding may show


@dataclass
class Outcome:
    """What became of a step. ``peaks`` are (accumulated, full batch), where there was more than one micro-batch."""

    program: Program
    lowering: str = "eager"
    skipped: str = ""
    refused: str = ""
    failure: str = ""
    peaks: tuple[int, int] | None = None
    differences: dict[str, float] = field(default_factory=dict)

    @property
    def lower(self) -> bool:
        """Whether the accumulated step needed less."""
        return self.peaks is not None and self.peaks[0] < self.peaks[1]


def check(program: Program, lowering: str = "eager") -> Outcome:
    """Everything about one step, in micro-batches lowered so."""
    torch._dynamo.reset()
    if lowering == apart.NAME:
        lowerings.LOWERINGS[apart.NAME] = apart.Apart
    if lowering == "inductor":
        import linking  # noqa: F401  (kernels compile faster; imported late: it loads Inductor)

        program = replace(program, runs=_few(program.runs))
    program, expected = _settled(program)
    outcome = Outcome(program, lowering)
    if expected is None:
        outcome.skipped = "ill-conditioned, or not defined"
        return outcome
    try:
        _compare(outcome, expected)
    except BuildError as error:
        outcome.failure = f"internal check: {error}"
    except AccumulateError as error:
        outcome.refused = error.code
    except AccumulateWarning as warning:
        outcome.failure = str(warning)
    except Exception as error:  # whatever else escapes is a bug
        outcome.failure = f"{type(error).__name__}: {error}\n{''.join(traceback.format_tb(error.__traceback__)[-4:])}"
    return outcome


def _few(runs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """One number of micro-batches for each batch size: every further one compiles each loop two or three times again,
    a second for each kernel."""
    return tuple({size: (size, steps) for size, steps in runs}.values())


def _settled(program: Program) -> tuple[Program, list[tuple[History, int]] | None]:
    """The step and its full-batch runs, with plain SGD where Adam would magnify rounding; None if that hangs on it, or
    if the step fails by itself."""
    for optimizer in dict.fromkeys((program.optimizer, "sgd")):
        settled = replace(program, optimizer=optimizer)
        expected = _reference(settled)
        if expected is not None:
            return settled, expected
    return program, None


def _reference(program: Program) -> list[tuple[History, int]] | None:
    source, found = program.source(), []
    for size, _ in program.runs:
        try:
            case = build(source)
            found.append(history(case, case.step, size, measure=not found))
            noisy = [_noisy(case, size, noise) for noise in (NOISE, -NOISE)]  # what is 0 here may be -1e-18 there
        except (Tied, ValueError, RuntimeError, IndexError):  # a batch that small leaves some operator nothing to do
            return None
        # A NaN is a difference too, so a step that yields one is left out.
        hangs_on_it = any(beyond(differences(found[-1][0], each), WELL_CONDITIONED) for each in noisy)
        if hangs_on_it or _not_finite(found[-1][0]):
            return None
    return found


def _noisy(case: Case, size: int, noise: float) -> History:
    case.restore()
    return history(case, case.step, size, around=partial(Rounding, size, noise))[0]


def _not_finite(record: History) -> bool:
    return any(v.tensor is not None and not v.tensor.isfinite().all() for values in record for v in values)


def _compare(outcome: Outcome, expected: list[tuple[History, int]]) -> None:
    program = outcome.program
    case = build(program.source())
    step = accumulate(steps=1, **LOWERINGS[outcome.lowering])(case.step)
    for i, ((size, steps), (full, full_peak)) in enumerate(zip(program.runs, expected, strict=True)):
        case.restore()
        step.steps = steps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="accumcompile AC05")  # code that does not compile, or is wrong
            actual, peak = history(case, step, size, measure=i == 0)
        if i == 0 and min(size, steps) > 1:
            outcome.peaks = peak, full_peak
        wrong = beyond(differences(full, actual), TOLERANCE)
        outcome.differences |= {f"B = {size}, steps = {steps}, {name}": d for name, d in wrong.items()}
    outcome.failure = "\n".join(f"{name}: {d:.1e}" for name, d in list(outcome.differences.items())[:6])


def history(
    case: Case, step: Callable[..., Any], size: int, measure: bool = False, around: Callable = nullcontext
) -> tuple[History, int]:
    """Two updates, and the peak of the second, in which nothing compiles."""
    record: History = []
    peak = 0
    for update in range(UPDATES):
        args, kwargs = case.arguments(size, update)
        if measure and update:
            gc.disable()
            with measured(lambda: _gradients(case)) as found:
                returned = step(*args, **kwargs)
            gc.enable()
            peak = found.bytes
        else:
            with around():
                returned = step(*args, **kwargs)
        record.append(list(_observe(case, returned, (args, kwargs))))
    return record, peak


def _gradients(case: Case) -> list[torch.Tensor]:
    return [p.grad for model in case.models.values() for p in model.parameters() if p.grad is not None]
