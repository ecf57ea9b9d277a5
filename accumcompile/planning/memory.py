"""How much memory a piece of code needs: the values it makes, and how long each of them lives.

Estimates from shapes, by one scan in program order. Inputs and parameters are not counted, and fusion, which
avoids materialising some values, is ignored.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.fx import Node

from ..ir.binding import Binding, is_known, value
from ..ir.operands import is_size, is_view
from ..ir.placement import Placement, Shard, Size
from ..ir.sizes import expression

Key = tuple[Node, int]  # a node, and the index of a result


@dataclass(frozen=True)
class Made:
    """A tensor that a step makes. ``shape`` is the full batch's."""

    shape: tuple[Size, ...]
    itemsize: int
    sharded: bool  # whether a micro-batch holds only its share
    last: int  # the step of its last use
    wider: int = 0  # extra bytes per element while a loop accumulates it

    def bytes(self, sizes: Binding) -> int:
        """The bytes of the full batch's value."""
        return volume(self.shape, sizes) * self.itemsize

    def wider_bytes(self, sizes: Binding) -> int:
        """The extra bytes that it takes while a loop accumulates it."""
        return volume(self.shape, sizes) * self.wider


@dataclass(frozen=True)
class Step:
    """One node: the tensors that it makes, and the index of the loop that it runs, if any."""

    makes: tuple[Made, ...]
    loop: int | None = None


def volume(shape: Iterable[Size], sizes: Binding) -> int:
    """The number of elements of a shape; 0 if that is data-dependent."""
    total = 1
    for size in shape:
        total *= value(size, sizes) or 0
    return total


def all_known(steps: Iterable[Step], sizes: Binding) -> bool:
    """Whether the sizes of everything that the steps make are known: none is data-dependent."""
    return all(is_known(held.shape, sizes) for step in steps for held in step.makes)


def peak(steps: Sequence[Step], sizes: Binding, share: tuple[int, int] = (1, 1), loops: Sequence[int] = ()) -> int:
    """The most bytes that are alive at once.

    Args:
        steps: the code.
        sizes: the symbols' values.
        share: (samples of a micro-batch, samples of the batch), for what is sharded; with a single micro-batch
            nothing is accumulated.
        loops: the bytes that each loop needs while it runs.
    """
    freed = [0] * (len(steps) + 1)
    alive = most = 0
    for i, step in enumerate(steps):
        for held in step.makes:
            size = held.bytes(sizes)
            size = -(-size * share[0] // share[1]) if held.sharded else size
            alive += size
            freed[held.last] += size
        most = max(most, alive + (_running(step, sizes, share, loops[step.loop]) if step.loop is not None else 0))
        alive -= freed[i]
    return most


def _running(step: Step, sizes: Binding, share: tuple[int, int], need: int) -> int:
    """The bytes that a loop takes while it runs, besides its outputs."""
    return need + sum(held.wider_bytes(sizes) for held in step.makes if share[0] < share[1])


def steps_of(
    nodes: Sequence[Node],
    stay: Iterable[Node],
    placements: Callable[[Node], Sequence[Placement]] = lambda node: (),
    loops: Mapping[Node, tuple[int, Mapping[Node, int]]] | None = None,
) -> tuple[Step, ...]:
    """The steps of ``nodes``.

    Args:
        nodes: the code, in order.
        stay: nodes whose values are still alive at the end.
        placements: the placements of a node's results; by default nothing is sharded.
        loops: for each node that runs a loop, the loop's index, and the nodes whose values it yields, each with the
            extra bytes per element while it is accumulated.
    """
    loops = loops or {}
    last: dict[Key, int] = {}
    owners: dict[Node, Key] = {}
    for i, node in enumerate(nodes):
        if node.target is not operator.getitem:
            last |= dict.fromkeys((owner(source, owners) for source in node.all_input_nodes), i)
    last |= dict.fromkeys((owner(node, owners) for node in stay), len(nodes))
    steps = []
    for i, node in enumerate(nodes):
        number_of_loop, yielded = loops.get(node, (None, {}))
        wider = list(yielded.values())
        makes = [
            Made(shape, itemsize, sharded, last.get((node, k), i), wider[k] if wider else 0)
            for k, shape, itemsize, sharded in _results(node, yielded, placements(node))
        ]
        steps.append(Step(tuple(makes), number_of_loop))
    return tuple(steps)


def _results(node: Node, yielded: Iterable[Node], placements: Sequence[Placement]) -> Iterator[tuple]:
    """(index, shape, itemsize, sharded) of each tensor that a node makes; nothing for a view."""
    if is_size(node) or is_view(node):
        return
    value = [n.meta["val"] for n in yielded] or node.meta.get("val")
    for k, tensor in enumerate(value if isinstance(value, (tuple, list)) else [value]):
        if isinstance(tensor, torch.Tensor):
            sharded = k < len(placements) and isinstance(placements[k], Shard)
            yield k, tuple(expression(s) for s in tensor.shape), tensor.dtype.itemsize, sharded


def owner(node: Node, owners: dict[Node, Key] | None = None) -> Key:
    """The node, and the index of its result, that owns the memory of a node's value. ``owners`` caches answers."""
    owners = {} if owners is None else owners
    base = node
    while base not in owners and is_view(base) and not _is_result(base):
        base = next(n for n in base.all_input_nodes if not is_size(n))
    key = owners.get(base) or ((base.args[0], base.args[1]) if _is_result(base) else (base, 0))
    owners[node] = key
    return key


def _is_result(node: Node) -> bool:
    """Whether a node selects one of several results that another node makes."""
    return node.target is operator.getitem and not is_view(node.args[0])
