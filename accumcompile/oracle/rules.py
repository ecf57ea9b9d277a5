"""Checks one rule against its operator: tests every claim that the rule makes on a few samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import Node

from ..ir.operands import operands
from ..ir.placement import Partial
from ..rules.rule import Alignment, Rule
from ..rules.table import RULES
from ..verify.differences import rel_diff
from .apart import apart
from .capture import Captured, Choice, capture, chosen
from .check import TOLERANCE, alignment_of, linear_differences, parts_of, placed, run_split, scale_of, seeded
from .flips import flips
from .samples import Sample, choices, sample_of, together


def counterexamples(op: Any, rule: Rule, samples: Iterable[tuple]) -> Iterator[str]:
    """Each way in which ``rule`` is wrong about ``op``: see ``accumcompile.testing.check_rule``."""
    covered = False
    with registered(op, rule):
        for sample in samples:
            call = as_sample(op, sample)
            static = capture(call.run, call.tensors, (None,) * len(call.tensors), decompose=False)
            node = next((n for n in static.gm.graph.nodes if n.target is op), None)
            if node is not None and (rule.factory or alignment_of(node) is not None):
                covered = True
            yield from _sums(op, call, node, static)
            yield from _dims(op, call, _claimed(node, static) if node is not None else [])
    if not covered:
        yield f"{op}: the rule covers none of the samples"


@contextmanager
def registered(op: Any, rule: Rule) -> Iterator[None]:
    """Use ``rule`` as the rule of ``op`` inside the block."""
    before = RULES.get(op)
    RULES[op] = rule
    try:
        yield
    finally:
        if before is None:
            del RULES[op]
        else:
            RULES[op] = before


def as_sample(op: Callable, sample: tuple) -> Sample:
    """A sample from a tuple of arguments: a last dict holds named ones, a function in front replaces the operator."""
    fn, *args = sample if callable(sample[0]) and not isinstance(sample[0], torch.Tensor) else (op, *sample)
    kwargs = args.pop() if args and isinstance(args[-1], dict) else {}
    return sample_of(str(op), fn, tuple(args), kwargs)


def _claimed(node: Node, static: Captured) -> Iterator[Choice]:
    """For each factor, the dimensions that it leads in the operands."""
    alignment = alignment_of(node)
    holders = {n: i for i, n in enumerate(static.gm.graph.find_nodes(op="placeholder"))}
    if alignment is None:
        return
    for factor in alignment.sizes:
        choice: list[int | None] = [None] * len(holders)
        for operand, dims in zip(operands(node), alignment.operands, strict=False):
            if operand.node in holders:
                leading = [d for d, dim in enumerate(dims) if dim[:1] == (factor,)]
                choice[holders[operand.node]] = leading[0] if leading else None
        yield tuple(choice)


def _dims(op: Any, call: Sample, claimed: Iterable[Choice]) -> Iterator[str]:
    for choice in dict.fromkeys([*claimed, *together(call.tensors), *choices(call.tensors)]):
        if len({x.shape[d] for x, dims in zip(call.tensors, choice, strict=True) for d in chosen(dims)} - {1}) != 1:
            continue
        try:
            captured = capture(call.run, call.tensors, choice, decompose=False)
        except Exception:  # the operator cannot be traced with this dimension symbolic
            continue
        if captured.batch is None:
            continue
        try:
            outcome = run_split(captured, normalise=False)
        except Exception as error:
            yield f"{op}({call.key}), {_batch(choice)}: {_claims(captured)}: {type(error).__name__}: {error}"
            continue
        for i, (wrong, result) in enumerate(zip(outcome.differences, outcome.outputs, strict=True)):
            if not wrong < TOLERANCE:
                placed = outcome.propagation.placement(result)
                yield f"{op}({call.key}), {_batch(choice)}: result {i} is not {placed}, off by {wrong:.1e}"


def _batch(choice: Choice) -> str:
    """Where the batch was, in words."""
    places = [f"dimension {d} of tensor {i}" for i, dims in enumerate(choice) for d in chosen(dims)]
    return f"the batch being {' and '.join(places)}"


def _claims(captured: Captured) -> str:
    """The placements that the rule gives to the results."""
    try:
        gm, propagation = placed(captured, normalise=False)
    except Exception:  # an alignment, given as a function, that does not fit its node
        return "it cannot be placed"
    results = enumerate(gm.graph.output_node().args[0])
    claims = [f"result {i} is not {propagation.placement(n)}" for i, n in results if isinstance(n, Node)]
    return f"the micro-batches' values do not fit together, {' or '.join(claims)}"


def _sums(op: Any, call: Sample, node: Node | None, static: Captured) -> Iterator[str]:
    if node is None or not operands(node):
        return
    values: dict[Node, Any] = dict(zip(static.gm.graph.find_nodes(op="placeholder"), static.tensors, strict=True))
    for other in static.gm.graph.nodes:
        if other is node:
            break
        if other.op == "call_function":
            values[other] = other.target(
                *torch.fx.map_arg(other.args, values.get), **torch.fx.map_arg(other.kwargs, values.get)
            )
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: values[n])
    moves = RULES[node.target].moves and alignment_of(node) is not None
    for group, difference in linear_differences(node, args, kwargs).items():
        if not difference < TOLERANCE:
            which = " and ".join(map(str, sorted(group)))
            yield f"{op}({call.key}): P(sum) does not pass: not linear in tensor {which}, off by {difference:.1e}"
    if moves:
        yield from _maxima(op, as_sample(op, (*args, dict(kwargs))))


def _maxima(op: Any, call: Sample) -> Iterator[str]:
    """Data movement must preserve the maximum of parts, as it does their sum."""
    parts = [parts_of(x) for x in call.tensors]
    runs = zip(*(seeded(call.run, part) for part in zip(*parts, strict=True)), strict=True)
    whole = seeded(call.run, [torch.stack(part).amax(0) for part in parts])
    if any(not rel_diff(w, torch.stack(r).amax(0), scale_of(w)) < TOLERANCE for w, r in zip(whole, runs, strict=True)):
        yield f"{op}({call.key}): {Partial('max')} does not pass: it does more than move data"


def surviving(op: Any, rule: Rule, samples: Sequence[tuple]) -> Iterator[str]:
    """Each flip of a rule that the samples do not refute.

    Each is tried in a separate process, since cutting an index into parts, say, may crash it.
    """
    for name, wrong in flips(rule, list(_alignments(op, samples))):
        if apart(survives, op, wrong, samples):
            yield name


def survives(op: Any, rule: Rule, samples: Sequence[tuple]) -> bool:
    """Whether no sample refutes a rule."""
    return next(counterexamples(op, rule, samples), None) is None


def _alignments(op: Any, samples: Iterable[tuple]) -> Iterator[Alignment]:
    for sample in samples:
        call = as_sample(op, sample)
        static = capture(call.run, call.tensors, (None,) * len(call.tensors), decompose=False)
        alignments = [alignment_of(n) for n in static.gm.graph.nodes if n.target is op]
        yield from filter(None, alignments)
