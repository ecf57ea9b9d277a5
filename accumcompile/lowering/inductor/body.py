"""A compiled loop body, which replaces the plain one in a program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ...ir.binding import Binding, bind
from ...ir.loop import LoopSpec, Split, finish, run_reference
from ...ir.sizes import ROWS
from ...session.session import Session
from ..arguments import Cut, check_body, local_shape
from ..specs import ArgumentSpec, Array, Literal, Symbolic, describe, describe_tensor, stride_pattern
from ..tracing import Tracing
from ..trust.trust import UNUSABLE, Trust, device_of
from . import api as inductor_api
from .api import signature
from .forms import Form, build
from .progress import Progress

STATIC_ROWS = 8  # micro-batch sizes compiled as numbers; further ones share a form with symbolic rows
STATIC_TAILS = 1
SIGNATURES_REMEMBERED = 256


class CompiledBody(torch.nn.Module):
    """The forms of one body, and how they run for arguments of each signature."""

    def __init__(self, body: GraphModule, name: str, session: Session, progress: Progress):
        super().__init__()
        self.body, self.name, self.session, self.progress = body, name, session, progress
        self.holders: list[Node] = list(body.graph.find_nodes(op="placeholder"))
        self.forms: dict[Any, list[Form]] = {}
        self.rows_seen: dict[str, set[int]] = {"rows": set(), "tail": set()}
        self.trust = Trust(body, name, session)
        self._schedules: dict[Any, LoopRun] = {}
        self._last: LoopRun | None = None

    def run(self, split: Split, consts: Sequence[Any], xs: Sequence[Any], spec: LoopSpec) -> list[torch.Tensor]:
        """Run the loop: see ``accumcompile.ir.loop``."""
        with torch.no_grad():
            if not self.trust.lost:
                try:
                    return self._compiled(split, consts, xs, spec)
                except UNUSABLE as why:
                    self.trust.lose(why)
            return run_reference(self.body, split, consts, xs, spec)

    def _compiled(self, split: Split, consts: Sequence[Any], xs: Sequence[Any], spec: LoopSpec) -> list[torch.Tensor]:
        schedule = self._last
        if schedule is None or not schedule.serves(split, consts, xs):
            schedule = self._last = self._schedule(split, consts, xs, spec)
        return schedule.run(consts, xs)

    def _schedule(self, split: Split, consts: Sequence[Any], xs: Sequence[Any], spec: LoopSpec) -> LoopRun:
        key = split, tuple(map(signature, consts)), tuple(map(signature, xs))
        if key not in self._schedules:
            if len(self._schedules) >= SIGNATURES_REMEMBERED:
                self._schedules.clear()
            self._schedules[key] = LoopRun(self, spec, split, consts, xs)
        return self._schedules[key]

    def form(
        self, spec: LoopSpec, role: str, specs: list[ArgumentSpec], sizes: Binding, rest: tuple, what: str
    ) -> Form:
        """The form for arguments of these specs; ``rest`` holds the accumulators and buffers of later micro-batches."""
        accumulators, buffers = rest
        into = (
            tuple((a.dtype, stride_pattern(a)) for a in accumulators or ()),
            tuple((b.dim, b.order) for b in buffers or ()),
        )
        forms = self.forms.setdefault((spec, role, tuple(specs), into), [])
        for form in forms:
            if form.serves(sizes):
                return form
        with self.progress.compiling(f"{self.name}, {what}"):
            forms.append(build(self.body, spec, specs, sizes, accumulators, buffers, self.compile_graph))
        return forms[-1]

    def compile_graph(self, gm: GraphModule, inputs: Sequence[Any], trace: Tracing) -> inductor_api.Boxed:
        """Compile with Inductor and the user's options."""
        return inductor_api.compile_graph(gm, inputs, trace, dict(self.session.options.inductor or {}))

    @property
    def compiled(self) -> int:
        """How many graphs have been compiled."""
        return sum(map(len, self.forms.values()))


class LoopRun:
    """How a loop runs for arguments of one signature."""

    def __init__(
        self, owner: CompiledBody, spec: LoopSpec, split: Split, consts: Sequence[Any], xs: Sequence[torch.Tensor]
    ):
        self.owner, self.spec, self.split = owner, spec, split
        holders = owner.holders
        self.sizes = bind(holders[2:], [*consts, *xs])
        self.cuts = [Cut(x, each.dim, split) for x, each in zip(xs, spec.xs, strict=True)]
        self.starts = starts(split, device_of([*xs, *consts]))
        self.const_specs = [describe(h, c, self.sizes) for h, c in zip(holders[2:], consts, strict=False)]
        self.tensors = [i for i, c in enumerate(consts) if isinstance(c, torch.Tensor)]
        self.numbers = [c for c in consts if not isinstance(c, torch.Tensor)]
        self.same = inductor_api.tensor_check([*(consts[i] for i in self.tensors), *xs])
        self.chosen: dict[tuple[str, int], tuple[Form, list[int]]] = {}
        check_body(owner.body, split.row_counts(spec.granule), split.batch, consts, xs, spec.xs, self.sizes)
        owner.progress.expect(1 + (len(split) > 1) + bool(split.tail and len(split) > 2))

    def serves(self, split: Split, consts: Sequence[Any], xs: Sequence[Any]) -> bool:
        """Whether these arguments have this run's signature; this takes a few microseconds."""
        return (
            split == self.split
            and self.numbers == [c for c in consts if not isinstance(c, torch.Tensor)]
            and self.same(*[consts[i] for i in self.tensors], *xs)
        )

    def run(self, consts: Sequence[Any], xs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run all micro-batches."""
        parts = [cut.pieces(x) for cut, x in zip(self.cuts, xs, strict=True)]
        accs: list[torch.Tensor] = []
        wholes: list[torch.Tensor] = []
        slots: list[list[torch.Tensor]] = []
        for i, (_, rows) in enumerate(self.split):
            arguments = [rows, self.starts[i], *consts, *[p(i) for p in parts]]
            form, numbers = self._form(i, rows, arguments, accs)
            if i == 0:
                wholes, slots = self._buffers(form)
            direct = [s[i] for s, b in zip(slots, self.buffers, strict=True) if b.direct]
            given = [*accs, *direct, *numbers, *form.select(arguments)]
            if self.owner.trust.is_due(form):
                outputs = self._checked(form, given, arguments, accs, direct)
            else:
                outputs = form.call(given)
            if i == 0:
                accs = form.contributions(outputs, arguments, len(self.spec.carry))
                outputs = outputs[len(accs) :]
            copied = [s[i] for s, b in zip(slots, self.buffers, strict=True) if not b.direct]
            for slot, piece in zip(copied, outputs, strict=True):
                slot.copy_(piece)
        finish(self.spec.carry, accs)
        return accs + wholes

    def _checked(self, form: Form, given: list, arguments: list, accs: list, direct: list) -> Sequence[torch.Tensor]:
        """A form's outputs, after checking them, ``accs`` and ``direct`` against its graph."""
        before: list[torch.Tensor] = []

        def meaning(parts: list) -> list:
            if not before:  # first called before the code updates them, and only if there is enough memory
                before.extend(acc.clone() for acc in accs)
            return self.spec.merged(before, parts)

        def run() -> tuple[list, list]:
            outputs = list(form.call(given))
            return outputs, form.left(outputs, accs, direct, len(self.spec.carry))

        need = 3 * sum(acc.nbytes for acc in accs)
        return self.owner.trust.checked(form, arguments, run, meaning, need)

    def _buffers(self, form: Form) -> tuple[list, list]:
        rows, batch = self.split.rows, self.split.batch
        values = form.values({**self.sizes, ROWS: rows})
        self.buffers = form.buffers
        wholes = [b.make(values, rows, batch) for b in form.buffers]
        return wholes, [b.pieces(w, rows, batch) for b, w in zip(form.buffers, wholes, strict=True)]

    def _form(self, i: int, rows: int, arguments: list, accs: list) -> tuple[Form, list[int]]:
        role = "first" if i == 0 else "later"
        if (role, rows) not in self.chosen:
            form = self._find(role, rows, arguments, accs)
            self.chosen[role, rows] = form, list(form.values({**self.sizes, ROWS: rows}).values())
        return self.chosen[role, rows]

    def _find(self, role: str, rows: int, arguments: list, accs: list) -> Form:
        owner = self.owner
        symbolic = self._is_symbolic(rows)
        sizes = {**self.sizes, ROWS: rows}
        specs = self._specs(rows, symbolic, arguments, sizes)
        rest = (None, None) if role == "first" else (accs, self.buffers)
        size = "any number of rows" if symbolic else f"{rows} rows"
        with owner.trust.compiling(arguments):
            return owner.form(self.spec, role, specs, sizes, rest, f"{role} micro-batch of {size}")

    def _is_symbolic(self, rows: int) -> bool:
        """Whether a number of rows shares a symbolic form: if data decides it, or so many are compiled already."""
        if self.spec.varies:
            return rows > 1
        kind, most = ("rows", STATIC_ROWS) if rows == self.split.rows else ("tail", STATIC_TAILS)
        seen = self.owner.rows_seen[kind]
        if rows not in seen and len(seen) >= most and rows > 1:
            return True
        seen.add(rows)
        return False

    def _specs(self, rows: int, symbolic: bool, arguments: list, sizes: Binding) -> list[ArgumentSpec]:
        holders, start = self.owner.holders, self.starts[0]
        of_rows: ArgumentSpec = Symbolic(ROWS) if symbolic else Literal(int, rows)
        of_start = Array((), (), torch.int64, start.device)
        first = 2 + len(self.const_specs)
        of_xs = [
            describe_tensor(x, local_shape(h, cut, rows, symbolic), sizes)
            for h, x, cut in zip(holders[first:], arguments[first:], self.cuts, strict=True)
        ]
        return [of_rows, of_start, *self.const_specs, *of_xs]


@lru_cache(maxsize=64)
def starts(split: Split, device: torch.device) -> list[torch.Tensor]:
    """The first row of each micro-batch, as 0-dim tensors 16 bytes apart (which Triton code expects)."""
    rows = [start for start, _ in split]
    return list(torch.tensor(rows).repeat_interleave(2).reshape(-1, 2).to(device)[:, 0].unbind())
