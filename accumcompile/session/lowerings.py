"""The interface of a lowering, and the table of lowerings by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch.fx import GraphModule


class Lowering(Protocol):
    """Turns programs into modules that run. Each session has its own instance, which may keep state.

    draws_by_seed: whether a captured graph's random numbers become functions of a seed (Inductor's prims), so that a
        micro-batch draws its own part of them. Otherwise they are drawn for the whole batch, before the loops.
    """

    draws_by_seed: bool

    def decompositions(self) -> Mapping[Any, Callable]:
        """The decompositions for a captured graph. An operator left without a rule runs on the whole batch."""

    def lower(self, program: GraphModule) -> GraphModule:
        """A module with the signature and results of ``program``; it may be ``program`` itself, rewritten.

        A loop is a call of ``accumulate_loop``. Its body may be replaced by any module with a ``run`` method that
        computes what ``run_reference`` computes with the body.
        """


# By name: a class (or a function) that makes a lowering for a session, or its import path, resolved on first use.
LOWERINGS: dict[str, str | Callable[[Any], Lowering]] = {
    "inductor": "accumcompile.lowering.inductor.lowering:InductorLowering",
    "eager": "accumcompile.lowering.eager:EagerLowering",
}
