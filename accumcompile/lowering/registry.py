"""The lowerings, by the name that a step asks for them with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .eager import EagerLowering
from .inductor import InductorLowering
from .protocol import Lowering

if TYPE_CHECKING:
    from ..session import Session

LOWERINGS: dict[str, Callable[[Session], Lowering]] = {
    "inductor": InductorLowering,
    "eager": EagerLowering,
}
