"""Judges one operator of ``op_db``: what the table claims wrongly, and what it could claim but does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Interpreter, Node

from ..ir.placement import Partial, Replicate
from ..ir.sizes import NO_BATCH
from ..ir.torch_api import OpOverload, pytree
from ..propagation.propagate import propagate
from . import brute
from .capture import Captured, Choice, capture, differentiable
from .check import PATTERN, TOLERANCE, Uneven, linear_differences, normal, run_split
from .samples import Sample, choices, samples_of, spread

if TYPE_CHECKING:
    from torch.testing._internal.opinfo.core import OpInfo

aten = torch.ops.aten
DRAWS = 3


@dataclass
class Verdict:
    """The findings for one operator."""

    name: str
    samples: int = 0
    placed: int = 0  # split runs that were compared
    linear: int = 0  # linear claims that were compared
    unsound: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # the compiler raised an error
    possible: int = 0  # placements that hold
    missing: list[str] = field(default_factory=list)  # those of them that the table does not give
    died: bool = False  # the process crashed or timed out: nothing is known
    fixed: int = 0  # choices of the batch that tracing rejects or specialises


def survey(op: OpInfo, most_samples: int = 6, most_choices: int = 6) -> Verdict:
    """Judge the table by the samples of one entry of ``op_db``."""
    return _Survey(op, most_choices).run(most_samples)


class _Survey:
    def __init__(self, op: OpInfo, most_choices: int):
        self.op, self.most_choices = op, most_choices
        self.draws = [{s.key: s for s in samples_of(op, seed)} for seed in range(DRAWS)]
        self.seen: set = set()
        self.tally: dict[tuple, list[tuple[bool, bool, str]]] = defaultdict(list)

    def run(self, most_samples: int) -> Verdict:
        self.verdict = Verdict(next(iter(self.draws[0].values())).name if self.draws[0] else self.op.name)
        samples = list(self.draws[0].values())
        samples = [s for s in samples if choices(s.tensors)] or samples
        for sample in spread(samples, most_samples):
            self.verdict.samples += 1
            self._sums(sample)
            for choice in choices(sample.tensors, self.most_choices):
                self._shards(sample, choice)
        for entries in self.tally.values():
            self._count(entries)
        return self.verdict

    def _count(self, entries: list[tuple[bool, bool, str]]) -> None:
        """Count one placement on all samples with the same other arguments: to be possible it must hold on all."""
        if all(holds for holds, _, _ in entries):
            self.verdict.possible += 1
            lacking = [text for _, given, text in entries if not given]
            self.verdict.missing += lacking[:1]

    def _capture(self, sample: Sample, choice: Choice) -> tuple[Captured, bool] | None:
        """Capture with the backward if there is one."""
        if getattr(self.op, "supports_autograd", True) and any(map(differentiable, sample.tensors)):
            try:
                return capture(sample.run, sample.tensors, choice, joint=True), True
            except Exception:  # not differentiable with these arguments, or an operator that tracing does not know
                pass
        try:
            return capture(sample.run, sample.tensors, choice), False
        except Exception:
            return None

    # --- dimensions

    def _shards(self, sample: Sample, choice: Choice) -> None:
        traced = self._capture(sample, choice)
        if traced is None or traced[0].batch is None:
            self.verdict.fixed += 1
            return
        captured, joint = traced
        where = f"{sample.name} {sample.key} batch {choice}"
        try:
            outcome = run_split(captured)
        except Exception as error:
            self.verdict.failed.append(f"{where}: {type(error).__name__}: {error}")
            return
        self.verdict.placed += 1
        wrong = [d for d in outcome.differences if not d < TOLERANCE]
        if wrong:
            self.verdict.unsound.append(f"{where}: {max(wrong):.1e} {[str(p) for p in outcome.placements]}")
        self._compare(sample, choice, captured, outcome, joint)

    def _compare(self, sample: Sample, choice: Choice, captured: Captured, outcome, joint: bool) -> None:
        pieces = list(Uneven(captured.size))
        drawn = [s.tensors for s in self._redraws(sample)]
        single = [dim for dim in choice if not isinstance(dim, tuple)]
        if len(single) < len(choice):
            return
        if not brute.varies(sample.run, drawn):
            return
        held = brute.intersect([brute.sharded(sample.run, t, single, pieces) for t in drawn])
        results = [o for o in outcome.outputs if isinstance(o, Node)]
        forward = results[: len(held or ())]
        self._record(sample, ("S", choice), held, forward, outcome)
        if joint and held and all(held):
            self._backward(sample, single, pieces, held, results[len(held) :], outcome, captured)

    def _backward(self, sample: Sample, choice: list, pieces: list, held, results, outcome, captured: Captured) -> None:
        count = len(sample.tensors)
        tangents = captured.tensors[count:]
        differ = [h for h, x in zip(held, captured.outputs, strict=False) if differentiable(x)]
        dims = [next((p.dim for p in sorted(h, key=str) if hasattr(p, "dim") and p.outer == 1), None) for h in differ]
        if len(dims) != len(tangents):
            return
        gradients = brute.backward(sample.run, count)
        drawn = [[*s.tensors, *map(torch.randn_like, tangents)] for s in self._redraws(sample)]
        back = brute.intersect([brute.sharded(gradients, t, (*choice, *dims), pieces) for t in drawn])
        if back is None or len(back) == len(results):
            self._record(sample, ("backward", tuple(choice)), back, results, outcome)

    def _record(self, sample: Sample, kind: tuple, held: brute.Holding | None, results: list[Node], outcome) -> None:
        """Keep whether a placement holds on this sample, and whether the table gives it."""
        if not held or not all(held):
            self.tally[sample.group, *kind].append((False, False, ""))
            return
        if any(h - {Replicate()} for h in held) and len(results) == len(held):
            placements = [outcome.propagation.placement(r) for r in results]
            given = all(Replicate() in h or p != Replicate() for h, p in zip(held, placements, strict=True))
            text = f"{sample.name} {sample.key} {kind}: {_words(held)}, not {[str(p) for p in placements]}"
            self.tally[sample.group, *kind].append((True, given, text))

    def _redraws(self, sample: Sample) -> Iterator[Sample]:
        return (draw[sample.key] for draw in self.draws if sample.key in draw)

    # --- sums

    def _sums(self, sample: Sample) -> None:
        traced = self._capture(sample, (None,) * len(sample.tensors))
        if traced is None:
            return
        captured, _ = traced
        torch.manual_seed(0)
        with torch.no_grad(), suppress(RuntimeError):  # it may run only with the strides of the trace
            _Claims(captured.gm, self.seen, self.verdict).run(*captured.tensors)
        floats = [i for i, x in enumerate(sample.tensors) if differentiable(x) and min(x.shape, default=1) > 1]
        for chosen in dict.fromkeys([*((i,) for i in floats), tuple(floats)]):
            if chosen:
                self._partial(sample, chosen, captured)

    def _partial(self, sample: Sample, chosen: tuple[int, ...], captured: Captured) -> None:
        held = brute.intersect([brute.partial(sample.run, s.tensors, chosen) for s in self._redraws(sample)])
        if (
            held is None
            or not all(Partial() in h or Replicate() in h for h in held)
            or not any(Partial() in h for h in held)
        ):
            return
        graph = normal(captured.gm, NO_BATCH).graph
        holders = graph.find_nodes(op="placeholder")
        propagation = propagate(graph, NO_BATCH, {holders[i]: Partial() for i in chosen})
        results = [o for o in graph.output_node().args[0] if isinstance(o, Node)][: len(held)]
        given = all(
            Replicate() in h or propagation.placement(r) == Partial() for h, r in zip(held, results, strict=True)
        )
        self.tally[sample.group, "P", chosen].append((True, given, f"{sample.name} {sample.key} ('P', {chosen})"))


def _words(held: brute.Holding) -> list[list[str]]:
    return [sorted(map(str, h)) for h in held]


class _Claims(Interpreter):
    """Runs a graph, and checks every node's claims of linearity against its operator."""

    MOST = 12  # calls checked for one operator

    def __init__(self, gm: torch.fx.GraphModule, seen: set, verdict: Verdict):
        super().__init__(gm)
        self.seen, self.verdict = seen, verdict

    def run_node(self, n: Node) -> object:
        if n.op == "call_function" and isinstance(n.target, OpOverload):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            shown = [
                (tuple(v.shape), v.dtype) if isinstance(v, torch.Tensor) else repr(v)
                for v in pytree.tree_leaves((args, kwargs))
            ]
            if (n.target, str(shown)) not in self.seen and sum(op is n.target for op, _ in self.seen) < self.MOST:
                self.seen.add((n.target, str(shown)))
                self._check(n, args, kwargs, shown)
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> object:
        """Run a view as a reshape, which copies if the strides differ from the trace."""
        return super().call_function(aten.reshape.default if target is aten.view.default else target, args, kwargs)

    def _check(self, node: Node, args: tuple, kwargs: dict, shown: list) -> None:
        if node.target is aten.view.default:
            args = (args[0].contiguous(), *args[1:])
        for group, difference in linear_differences(node, args, kwargs).items():
            self.verdict.linear += 1
            if not difference < TOLERANCE:
                self.verdict.unsound.append(f"{node.target} linear in {sorted(group)} {shown}: {difference:.1e}")


__all__ = ["PATTERN", "Verdict", "survey"]
