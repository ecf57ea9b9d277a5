"""A session: one step's options, and its state from call to call."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..diagnostics.where import Frame
from ..ir.loop import Split
from .choice import Choice
from .journal import Journal
from .lowerings import LOWERINGS, Lowering
from .options import Options

T = TypeVar("T")


@dataclass(eq=False)
class Session:
    """The state of one decorated step, or of one ``torch.compile(..., options=options)`` by backend name.

    options: read at run time, so that a new ``steps`` causes no recompilation in Dynamo.
    name: the step's name in messages.
    frame: where the step is defined.
    journal: the graphs that ran, while they are being recorded.
    notes: lines that explain() adds about the capture.
    choice: which inputs of the last call were split.
    warned: the code and line of each warning given, so that it is given once.
    """

    options: Options
    name: str = "step"
    frame: Frame | None = None
    journal: Journal = field(default_factory=Journal)
    notes: list[str] = field(default_factory=list)
    warned: set[tuple[str, str | None]] = field(default_factory=set)
    choice: Choice = field(default_factory=Choice)
    _parts: dict[Any, Any] = field(default_factory=dict)
    _lowerings: dict[str, Lowering] = field(default_factory=dict)

    def part(self, kind: Callable[[], T]) -> T:
        """The state that some part of the compiler keeps for the step, by its class; made on first use."""
        if kind not in self._parts:
            self._parts.setdefault(kind, kind())  # another thread may have been first
        return self._parts[kind]

    def change(self, **options: Any) -> None:
        """Replace options between calls; they are validated again."""
        self.options = dataclasses.replace(self.options, **options)

    def split(self, batch: int, granule: int) -> Split:
        """How a batch is split under the current options, if ``granule`` samples stay together."""
        return Split(batch, self.options.rows(batch, granule), int(self.options.steps or 0))

    @property
    def strict(self) -> bool:
        """Whether warnings are errors."""
        return self.options.strict

    @property
    def lowering(self) -> Lowering:
        """The lowering that the current options name."""
        name = self.options.lowering
        if name not in self._lowerings:
            entry = LOWERINGS[name]
            make = pkgutil.resolve_name(entry) if isinstance(entry, str) else entry
            self._lowerings.setdefault(name, make(self))
        return self._lowerings[name]

    def note(self, text: str) -> None:
        """Add a line for explain(), once."""
        if text not in self.notes:
            self.notes.append(text)
