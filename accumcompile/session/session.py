"""A session: what one step was asked for, and what it remembers from call to call."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..diagnostics.where import Frame
from .journal import Journal
from .lowerings import LOWERINGS, Lowering
from .options import Options

T = TypeVar("T")


@dataclass(eq=False)
class Session:
    """One for each decorated step, and for each ``torch.compile(..., options=options)`` by name.

    options: read at run time, so that a new ``steps`` compiles nothing anew in Dynamo.
    name: the step's, as messages call it.
    frame: where the step is defined.
    journal: what ran, as long as somebody records it.
    notes: what explain() adds about the capture.
    warned: warnings that were given, each once: its code and line.
    """

    options: Options
    name: str = "step"
    frame: Frame | None = None
    journal: Journal = field(default_factory=Journal)
    notes: list[str] = field(default_factory=list)
    warned: set[tuple[str, str | None]] = field(default_factory=set)
    _parts: dict[Any, Any] = field(default_factory=dict)
    _lowerings: dict[str, Lowering] = field(default_factory=dict)

    def part(self, kind: Callable[[], T]) -> T:
        """What some part of the compiler remembers of the step, by its class; made when it is first asked for."""
        if kind not in self._parts:
            self._parts.setdefault(kind, kind())  # another thread may have been first
        return self._parts[kind]

    def change(self, **options: Any) -> None:
        """Replace options between calls; they are validated again."""
        self.options = dataclasses.replace(self.options, **options)

    def rows(self, batch: int, granule: int) -> int:
        """The samples of a micro-batch, as the options are now."""
        return self.options.rows(batch, granule)

    @property
    def strict(self) -> bool:
        """Whether warnings are errors."""
        return self.options.strict

    @property
    def lowering(self) -> Lowering:
        """That which is asked for now."""
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
