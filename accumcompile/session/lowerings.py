"""The lowerings: all that the compiler asks of one, and where each is found by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch.fx import GraphModule


class Lowering(Protocol):
    """How programs come to run. A session makes one for itself: what it must remember, it keeps.

    draws_by_seed: whether a captured graph's random numbers become functions of a seed (Inductor's prims), so that a
        micro-batch draws its own part of them. Else they are drawn whole, before the loops.
    """

    draws_by_seed: bool

    def decompositions(self) -> Mapping[Any, Callable]:
        """What a captured graph's operators are written as. One that no rule knows then runs on the whole batch."""

    def lower(self, program: GraphModule) -> GraphModule:
        """A module that is called as ``program`` is, and computes the same; it may be ``program``, rewritten.

        A loop is a call of ``accumulate_loop`` in it. Its body may give way to any module with a method ``run``, which
        does what ``run_reference`` does of a body.
        """


# By name: a class (a function that makes one of a session), or where it is imported from when it is first asked for.
LOWERINGS: dict[str, str | Callable[[Any], Lowering]] = {
    "inductor": "accumcompile.lowering.inductor.lowering:InductorLowering",
    "eager": "accumcompile.lowering.eager:EagerLowering",
}
