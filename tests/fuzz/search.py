"""One random step for each seed, and the smallest step that fails as it does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.internal.conjecture import providers

from .program import Program
from .strategy import LONGEST, programs

# Hypothesis tries the simplest example first and varies what it has tried before: of two, the second is the seed's own.
_TWO: dict[str, Any] = {"max_examples": 2, "deadline": None, "database": None, "derandomize": False}
_TWO |= {"suppress_health_check": list(HealthCheck)}

# Hypothesis draws constants from the sources of whatever is imported: a seed's step shall not hang on that.
providers._get_local_constants = providers.Constants


class _Found(Exception):
    """Stops the search: the step fails."""


def step_of(number: int, most: int = LONGEST) -> Program | None:
    """The step of a seed, with at most so many ops; None where what was drawn makes none."""
    drawn: list[Program] = []
    _search(number, drawn.append, (Phase.generate,), most)
    return drawn[1] if len(drawn) > 1 else None


def smallest(number: int, fails: Callable[[Program], bool], most: int = LONGEST) -> Program:
    """The step of a seed, which fails, as small as Hypothesis finds one that fails too."""
    found: list[Program] = []

    def run(program: Program) -> None:
        if fails(program):
            found.append(program)
            raise _Found

    with suppress(_Found):
        _search(number, run, (Phase.generate, Phase.shrink), most)
    return min(found, key=lambda p: (len(p.ops), len(p.source()))) if found else step_of(number, most)


def _search(number: int, run: Callable[[Program], None], phases: tuple[Phase, ...], most: int = LONGEST) -> None:
    @seed(number)
    @settings(**_TWO, phases=phases)
    @given(programs(most=most))
    def search(program: Program) -> None:
        run(program)

    search()
