"""Where a jump compares a value with one that was selected from it, and other code computed them.

A maximum equals one of the values that it was selected from: ``v >= m`` finds that one, and ``log(m - v + eps)`` is
defined. If ``m`` is loaded, and ``v`` computed again by other code, which rounds differently, then ``v`` equals
nothing, or exceeds its own maximum. So it is with whatever holds elements of other values: a k-th largest, a row that
was looked up, the gathered batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from torch.fx import Node

from ..ir.operands import descendants, is_view
from ..ir.placement import Shard
from ..propagation.placed import Propagation
from ..rules.table import jumps_in, keeps_elements, rule_of

_EXTREMES = "max", "min"


@dataclass
class EarlierLoops:
    """What the loops before one did: those that compute a value, and the one that a reduced or full value is from."""

    computing: dict[Node, set[int]] = field(default_factory=dict)
    source: dict[Node, int] = field(default_factory=dict)

    def saving(self, nodes: Iterable[Node]) -> EarlierLoops:
        """The same, with values saved by the last loop that computes them."""
        return replace(self, source=self.source | {node: max(self.computing[node]) for node in nodes})


@dataclass(frozen=True)
class Conflict:
    """A selected value, and the values it is compared with in a loop's body although they come from other code.

    between_loops: the selected value is computed between loops, for the full batch, and so can the others be.
    """

    selected: Node
    values: frozenset[Node]
    between_loops: bool


class Comparisons:
    """What a loop's body compares. ``loaded`` are the S values that it loads."""

    def __init__(
        self, propagation: Propagation, earlier: EarlierLoops, body: Sequence[Node], loaded: AbstractSet[Node]
    ):
        self.propagation, self.earlier, self.body, self.loaded = propagation, earlier, set(body), loaded
        self._known: dict[Node, tuple[set[Node], list[Node]]] = {}
        self.takers: dict[Node, set[Node]] = {}  # for each selected value that comes from outside, who takes it
        for node in body:
            for selected in self._selected(node, node.all_input_nodes):
                self.takers.setdefault(selected, set()).add(node)
        jumps = [(node, operands) for node in body if (operands := jumps_in(node))] if self.takers else []
        self.jumps = {node: (operands, self._selected(node, operands)) for node, operands in jumps}

    def conflicts(self) -> Iterator[Conflict]:
        """The conflicts in the body."""
        for selected in self.takers:
            values = {v for v in self._met(selected) if self._is_apart(v, selected)}
            if values:
                yield Conflict(selected, frozenset(values), selected not in self.earlier.source)

    def _met(self, selected: Node) -> set[Node]:
        """The values that a selected value came from, where another way leads from them to a jump that it reaches."""
        below = descendants(self.takers[selected], self.body.__contains__)
        jumps = {n: operands for n, (operands, taken) in self.jumps.items() if operands & below or selected in taken}
        compared = set(jumps) | self.propagation.closure(set().union(*jumps.values()), self.loaded)
        read = compared.union(*(self.propagation[node].local for node in compared))
        came_from = read & self._came_from(selected)
        return {value for value in came_from if compared.intersection(value.users) - came_from}

    def _came_from(self, selected: Node) -> AbstractSet[Node]:
        """The values that a selected value was computed from, wherever; of one made between loops, those made there."""
        if selected in self.earlier.source:
            return self.propagation.closure([selected])
        return self._between(selected)[0]

    def _is_apart(self, value: Node, selected: Node) -> bool:
        """Whether other code computed a value than a selected one came from."""
        home = self.earlier.source.get(selected)
        computing = self.earlier.computing.get(value, set())
        if value in self.body:
            return home is None or bool(computing)
        return home in computing and self.earlier.source.get(value) != home

    def _selected(self, node: Node, operands: Iterable[Node]) -> list[Node]:
        """The selected values that a node takes, among these operands, from outside its loop."""
        placed, found = self.propagation[node], list[Node]()
        for operand in operands:
            if operand in placed.whole:
                remade, ends = self._between(operand)
                found += [*ends, operand] if any(map(_rounds, remade)) else ends
            elif operand in self.loaded and operand in placed.local and self._is_selected(operand):
                found.append(operand)
        return found

    def _between(self, value: Node) -> tuple[set[Node], list[Node]]:
        """The S values that are computed between loops for a whole one, and the gathered ones and maxima they need."""
        if value not in self._known:
            self._known[value] = remade, ends = set[Node](), list[Node]()
            seen, stack = {value}, [value]
            while stack:
                node = stack.pop()
                placed = self.propagation[node]
                if placed.remade and node not in self.earlier.source:
                    remade |= {node} if isinstance(placed.placement, Shard) else set()
                    stack += [operand for operand in node.all_input_nodes if operand not in seen]
                    seen.update(node.all_input_nodes)
                elif isinstance(placed.placement, Shard) or getattr(placed.placement, "op", "") in _EXTREMES:
                    ends.append(node)
        return self._known[value]

    def _is_selected(self, value: Node) -> bool:
        """Whether a value's numbers were selected among others, or computed one by one from such numbers."""
        if not value.meta["val"].is_floating_point():
            return False
        seen, stack = {value}, [value]
        while stack:
            node = stack.pop()
            rule = rule_of(node.target)
            if rule is not None and rule.picks:
                return True
            if is_view(node) or (rule is not None and rule.exact):
                stack += [operand for operand in self.propagation[node].local if operand not in seen]
                seen.update(self.propagation[node].local)
        return False


def _rounds(node: Node) -> bool:
    return node.op == "call_function" and not keeps_elements(node)
