"""The tensor operands of a node, in the order of its schema."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node

from .placement import Size
from .sizes import SYMBOLIC, expression
from .torch_api import OpOverload, is_unbacked

Path = tuple[str | int, ...]
aten = torch.ops.aten
SIZE_READS = {aten.sym_size, aten.sym_stride, aten.sym_numel, aten.sym_storage_offset}


@dataclass(frozen=True)
class Operand:
    """One tensor operand. ``node`` is None for a Python scalar, and for an ``absent`` optional operand."""

    path: Path
    node: Node | None
    absent: bool = False


def is_tensor(node: Any) -> bool:
    """Whether a node yields one tensor."""
    return isinstance(node, Node) and isinstance(node.meta.get("val"), torch.Tensor)


def operands(node: Node) -> list[Operand]:
    """Every tensor operand; for an operator without a schema, every tensor among its arguments."""
    if isinstance(node.target, OpOverload):
        return list(_by_schema(node))
    taken = [(path, value) for path, value in leaves(node) if isinstance(value, Node) and not is_size(value)]
    return [Operand(path, value) for path, value in taken]


def is_size(node: Node) -> bool:
    """Whether a node yields a number, not a tensor."""
    return isinstance(node.meta.get("val"), (*SYMBOLIC, int, float, bool))


def is_view(node: Node) -> bool:
    """Whether a node's result may alias its first operand, by its schema, or is one of several results."""
    if node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is None or all(is_size(n) for n in node.all_input_nodes):
        return False
    return any(result.alias_info is not None for result in schema.returns)


def input_sizes(gm: GraphModule) -> Iterator[torch.SymInt]:
    """The symbolic sizes in a graph's inputs: those of tensors, and inputs that are sizes themselves."""
    for node in gm.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
        yield from (size for size in sizes if isinstance(size, torch.SymInt))


def shape_of(node: Node | None) -> tuple[Size, ...] | None:
    """The full-batch shape of a node with one result, as sympy expressions."""
    value = node.meta.get("val") if node is not None else None
    return tuple(expression(s) for s in value.shape) if isinstance(value, torch.Tensor) else None


def shapes_of(node: Node) -> tuple[tuple[Size, ...] | None, ...]:
    """The full-batch shapes of all results of a node; None for a result that is not a tensor."""
    value = node.meta.get("val")
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(tuple(expression(s) for s in v.shape) if isinstance(v, torch.Tensor) else None for v in values)


def reads_sizes(node: Node) -> bool:
    """Whether a node reads a size of a tensor. It is known before the tensor, or with the first of that size."""
    return getattr(node.target, "overloadpacket", None) in SIZE_READS


def makers(nodes: Iterable[Node]) -> dict[sympy.Basic, tuple[Node, int | None]]:
    """For each data-dependent size, the first node that yields it, and along which dimension; None: as a number."""
    found: dict[sympy.Basic, tuple[Node, int | None]] = {}
    for node in (n for n in nodes if n.op == "call_function"):
        sizes = [(expression(node.meta["val"]), None)] if is_size(node) else []
        for size, dim in (*sizes, *((size, dim) for dim, size in enumerate(shape_of(node) or ()))):
            if is_unbacked(size):
                found.setdefault(size, (node, dim))
    return found


def data_symbols(size: Any) -> list[sympy.Symbol]:
    """The data-dependent symbols in a size, ordered by name."""
    expr = expression(size) if isinstance(size, SYMBOLIC) else size
    symbols = expr.free_symbols if isinstance(expr, sympy.Basic) else ()
    return sorted(filter(is_unbacked, symbols), key=str)


def comes_from_data(size: Any) -> bool:
    """Whether a size was data-dependent when traced, even if a check has since equated it with another size."""
    return bool(_traced_from_data(size))


def _traced_from_data(size: Any) -> set[sympy.Symbol]:
    symbols = size.node._expr.free_symbols if isinstance(size, SYMBOLIC) else ()
    return set(filter(is_unbacked, symbols))


def is_decided_by_data(node: Node) -> bool:
    """Whether a node introduces data-dependent numbers or sizes; each such node has its own symbols for them."""
    own = _symbols_of_data(node)
    return bool(own) and not own <= {s for n in node.all_input_nodes for s in _symbols_of_data(n)}


def _symbols_of_data(node: Node) -> set[sympy.Symbol]:
    return {s for size in _numbers(node) for s in _traced_from_data(size)}


def _numbers(node: Node) -> Iterator[Any]:
    """The sizes of a node's tensor results, and its other results as they are."""
    value = node.meta.get("val")
    for result in value if isinstance(value, (tuple, list)) else (value,):
        yield from result.shape if isinstance(result, torch.Tensor) else (result,)


def _by_schema(node: Node) -> Iterator[Operand]:
    for i, argument in enumerate(node.target._schema.arguments):
        path: Path = ("args", i) if i < len(node.args) else ("kwargs", argument.name)
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
        kind = str(argument.type)
        if kind in ("Tensor", "Optional[Tensor]"):
            yield _operand(path, value)
        elif kind in ("List[Tensor]", "List[Optional[Tensor]]", "Optional[List[Tensor]]"):
            yield from (_operand((*path, j), v) for j, v in enumerate(value or ()))


def _operand(path: Path, value: Any) -> Operand:
    return Operand(path, value if isinstance(value, Node) and not is_size(value) else None, value is None)


def leaves(node: Node) -> Iterator[tuple[Path, Any]]:
    """Every leaf of a node's arguments, with its path."""
    for i, value in enumerate(node.args):
        yield from _walk(("args", i), value)
    for name, value in node.kwargs.items():
        yield from _walk(("kwargs", name), value)


def _walk(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _walk((*path, i), item)
    else:
        yield path, value


def rebuild(node: Node, at: Callable[[Path, Any], Any]) -> tuple[tuple, dict]:
    """The node's arguments with each leaf replaced by ``at(path, leaf)``."""

    def walk(path: Path, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            items = [walk((*path, i), item) for i, item in enumerate(value)]
            return tuple(items) if type(value) is tuple else items
        return at(path, value)

    args = tuple(walk(("args", i), value) for i, value in enumerate(node.args))
    return args, {name: walk(("kwargs", name), value) for name, value in node.kwargs.items()}


def ancestors(*nodes: Node, counts: Callable[[Node], bool] = lambda source: True) -> set[Node]:
    """Everything that nodes are computed from, by nodes that count."""
    seen: set[Node] = set()
    stack = [source for node in nodes for source in node.all_input_nodes]
    while stack:
        current = stack.pop()
        if current not in seen and counts(current):
            seen.add(current)
            stack += current.all_input_nodes
    return seen


def descendants(nodes: Collection[Node], counts: Callable[[Node], bool] = lambda user: True) -> set[Node]:
    """Nodes, and everything that is computed from them by nodes that count."""
    seen, stack = set(nodes), list(nodes)
    while stack:
        users = [user for user in stack.pop().users if user not in seen and counts(user)]
        seen.update(users)
        stack += users
    return seen


def outputs(gm: GraphModule) -> list[Any]:
    """The outputs of a graph."""
    return list(next(iter(gm.graph.find_nodes(op="output"))).args[0])
