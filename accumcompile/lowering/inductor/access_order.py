"""Keeps reads and writes of one buffer in order when Inductor fuses them.

Inductor's scheduler expresses that order by dependencies: a node that reads a buffer after a mutation depends on the
mutation's name, and a mutation depends weakly on earlier readers. When it recomputes a node's loops to fuse it with
another, torch 2.13 loses the names and torch 2.11 both, so that a read overtakes the write that it must see (2.15 keeps
them; ``docs/upstream.md``). The names used here are private to torch; checked on 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from uuid import uuid4

from torch._inductor import custom_graph_pass
from torch._inductor.dependencies import Dep, StarDep, WeakDep
from torch._inductor.scheduler import BaseSchedulerNode, Scheduler, SchedulerNode
from torch.utils._ordered_set import OrderedSet

HOOK = "_pre_fusion_custom_pass"
NodesPass = Callable[[list[BaseSchedulerNode]], list[BaseSchedulerNode]]
Epochs = dict[tuple[str, str], int]

# 2.11 has no class for scheduler passes, and accepts graph passes instead.
SchedulerPass: Any = getattr(custom_graph_pass, "CustomSchedulerPass", custom_graph_pass.CustomGraphPass)


class KeptOrder(SchedulerPass):
    """A pass before fusion: recomputed nodes keep their ordering dependencies, and the final order is checked.

    As a setting it is part of the key of Inductor's disk cache, so that code cached without it is not used.
    """

    def __init__(self, following: NodesPass | None = None):
        self.following = following  # a pass that was already set

    def __call__(self, nodes: list[BaseSchedulerNode]) -> list[BaseSchedulerNode]:
        if self.following is not None:
            nodes = self.following(nodes)
        for node in single_nodes(nodes):
            if isinstance(node, SchedulerNode):
                node._compute_attrs = partial(recompute, node)  # type: ignore[method-assign]
        if nodes:
            check_order(nodes[0].scheduler, epochs(nodes))
        return nodes

    def uuid(self) -> Any:
        """A cache key that changes with this file, and with every call if the following pass has no ``uuid``."""
        mine = custom_graph_pass.get_hash_for_files((__file__,))
        if self.following is None:
            return mine
        return mine, self.following.uuid() if isinstance(self.following, SchedulerPass) else uuid4()


def recompute(node: SchedulerNode, *args: Any, **kwargs: Any) -> None:
    """Recompute a node's loops, keeping its ordering dependencies."""
    ordering: OrderedSet[Dep] = OrderedSet(d for d in node.read_writes.reads if isinstance(d, (WeakDep, StarDep)))
    SchedulerNode._compute_attrs(node, *args, **kwargs)
    node.set_read_writes(node.read_writes.with_read(ordering).rename(node.mutation_renames))


def check_order(scheduler: Scheduler, expected: Epochs) -> None:
    """Check the final order: every access of a buffer must come after as many of its writes as before fusion."""

    def check() -> None:
        fused = epochs(scheduler.nodes)
        wrong = sorted(access for access in fused.keys() & expected.keys() if fused[access] != expected[access])
        if wrong:
            raise RuntimeError(f"Inductor exchanged a read and a write of one buffer: {wrong}")
        Scheduler.compute_last_usage(scheduler)

    scheduler.compute_last_usage = check  # type: ignore[method-assign]  # the first method called on the final order


def epochs(nodes: Iterable[BaseSchedulerNode]) -> Epochs:
    """For each operation and each buffer that it reads or writes, the number of earlier writes of that buffer."""
    written: Counter[str] = Counter()
    seen: Epochs = {}
    for node in single_nodes(nodes):
        real = node.scheduler.mutation_real_name
        writes = {real.get(buffer.get_name(), buffer.get_name()) for buffer in node.get_outputs()}
        reads = {real.get(d.name, d.name) for d in node.read_writes.reads if not isinstance(d, WeakDep)}
        seen |= {(node.get_name(), name): written[name] for name in reads | writes}
        written.update(writes)
    return seen


def single_nodes(nodes: Iterable[BaseSchedulerNode]) -> Iterator[BaseSchedulerNode]:
    """The operations, fused or not, in their order."""
    for node in nodes:
        yield from node.get_nodes()
