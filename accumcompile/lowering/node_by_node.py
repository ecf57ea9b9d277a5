"""Runs a graph node by node, without a compiler."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from ..ir.draws import SLICES, whole_args
from ..ir.torch_api import pytree


class Plain(Interpreter):
    """Runs a graph of operators, releases each value after its last use, and counts the live bytes.

    most: the peak bytes of its values, arguments and constants not counted.
    """

    def __init__(self, graph: GraphModule):
        super().__init__(graph)
        self.most = 0
        self._lent: set[int] = set()  # addresses of memory that arguments and constants own
        self._held: dict[Node, dict[int, int]] = {}  # for each live value: memory address -> bytes

    def values(self, *arguments: Any) -> list[torch.Tensor]:
        """What the graph returns for ``arguments``."""
        with torch.no_grad():
            return list(self.run(*arguments))

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Run Inductor's draws as our operators: run eagerly, they would ignore their seeds."""
        if target in SLICES:
            target, args = SLICES[target], whole_args(target, args, torch.zeros((), dtype=torch.int64))
        return super().call_function(target, args, kwargs)

    def run_node(self, n: Node) -> Any:
        """The value of a node; ``env`` has since dropped values that are no longer needed."""
        self._held = {node: memory for node, memory in self._held.items() if node in self.env}
        value = super().run_node(n)
        memory = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(value)}
        if n.op == "call_function":
            self._held[n] = {address: size for address, size in memory.items() if address not in self._lent}
            self.most = max(self.most, self._alive())
        else:
            self._lent |= memory.keys()
        return value

    def _alive(self) -> int:
        """The bytes that live values hold; memory that several of them share counts once."""
        return sum({address: size for memory in self._held.values() for address, size in memory.items()}.values())


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
