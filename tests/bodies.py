"""Random bodies of a few operators, and compilers that make other code of them: honest ones, and wrong ones."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from accumcompile.lowering.trust.rounding import _FRACTION, _WORDS

aten = torch.ops.aten
ROWS, COLUMNS = 24, 6

# Each makes a value of [ROWS, COLUMNS] of some such values, named by `pick`.
FORMS: dict[str, Callable[[Any, Callable[[], Any]], Any]] = {
    "add": lambda g, pick: g(aten.add.Tensor, pick(), pick()),
    "mul": lambda g, pick: g(aten.mul.Tensor, pick(), g(aten.sigmoid.default, pick())),
    "sub_mean": lambda g, pick: g(aten.sub.Tensor, x := pick(), g(aten.mean.dim, x, [0], True)),
    "tanh": lambda g, pick: g(aten.tanh.default, pick()),
    "gelu": lambda g, pick: g(aten.gelu.default, pick()),
    "relu": lambda g, pick: g(aten.relu.default, pick()),
    "sqrt": lambda g, pick: g(aten.sqrt.default, g(aten.add.Tensor, g(aten.abs.default, pick()), 0.1)),
    "softmax": lambda g, pick: g(aten._softmax.default, pick(), -1, False),
    "norm": lambda g, pick: g(aten.div.Tensor, x := pick(), g(aten.add.Tensor, _norm(g, x), 0.5)),
    "mm": lambda g, pick: g(aten.mm.default, pick(), _square(g, pick())),
    "cumsum": lambda g, pick: g(aten.div.Tensor, g(aten.cumsum.default, pick(), 0), 8.0),
    "sort": lambda g, pick: g.item(g(aten.sort.default, pick(), 0), 0),
    "gather": lambda g, pick: g(aten.gather.default, pick(), 1, _order(g, pick())),
    "scatter": lambda g, pick: g(aten.scatter.src, g(aten.full_like.default, pick(), 0.0), 1, _top(g, pick()), pick()),
    "scatter_add": lambda g, pick: g(aten.scatter_add.default, pick(), 1, _top(g, pick()), pick()),
    "where": lambda g, pick: g(aten.where.self, g(aten.gt.Tensor, pick(), pick()), pick(), pick()),
    "amax": lambda g, pick: g(aten.mul.Tensor, pick(), _is_largest(g, pick())),
    "threshold": lambda g, pick: g(aten.mul.Tensor, pick(), _cast(g, g(aten.gt.Scalar, pick(), 0.3), pick())),
    "round": lambda g, pick: g(aten.round.default, g(aten.mul.Tensor, pick(), 3.0)),
    "rows": lambda g, pick: g(aten.index.Tensor, pick(), [_row_order(g, pick())]),
}


# The same with an order that is given.
SMOOTH: dict[str, Callable[[Any, Callable[[], Any]], Any]] = {
    "gather": lambda g, pick: g(aten.gather.default, pick(), 1, g.order),
    "scatter": lambda g, pick: g(aten.scatter.src, g(aten.full_like.default, pick(), 0.0), 1, _two(g), pick()),
    "scatter_add": lambda g, pick: g(aten.scatter_add.default, pick(), 1, _two(g), pick()),
    "where": lambda g, pick: g(aten.where.self, g(aten.gt.Scalar, g.order, 2), pick(), pick()),
}


def _two(g: Any) -> Any:
    return g(aten.slice.Tensor, g.order, 1, 0, 2)


def _norm(g: Any, x: Any) -> Any:
    return g(aten.sqrt.default, g(aten.sum.dim_IntList, g(aten.mul.Tensor, x, x), [-1], True))


def _square(g: Any, x: Any) -> Any:
    return g(aten.div.Tensor, g(aten.mm.default, g(aten.permute.default, x, [1, 0]), x), float(ROWS))


def _order(g: Any, x: Any) -> Any:
    return g(aten.argsort.default, x, 1)


def _row_order(g: Any, x: Any) -> Any:
    return g(aten.argsort.default, g(aten.sum.dim_IntList, x, [1]), 0)


def _top(g: Any, x: Any) -> Any:
    return g.item(g(aten.topk.default, x, 2), 1)


def _is_largest(g: Any, x: Any) -> Any:
    return _cast(g, g(aten.eq.Tensor, x, g(aten.amax.default, x, [1], True)), x)


def _cast(g: Any, mask: Any, like: Any) -> Any:
    return g(aten.mul.Tensor, g(aten.full_like.default, like, 1.0), mask)


class Writer:
    """Writes operators into a graph."""

    def __init__(self, graph: Graph, order: Node):
        self.graph, self.order = graph, order

    def __call__(self, target: Any, *args: Any) -> Node:
        return self.graph.call_function(target, args)

    def item(self, node: Node, index: int) -> Node:
        """One of several results."""
        return self.graph.call_function(operator.getitem, (node, index))


# Forms in which a rounding error can move the result by a jump.
JUMP = {"sort", "gather", "scatter", "scatter_add", "where", "amax", "threshold", "round", "rows", "relu"}


def random_body(seed: int, jumps: bool = True) -> GraphModule:
    """body(x, y, k) of [ROWS, COLUMNS], k an order of the columns of each row: sums, a maximum and values of a few
    operators of ``FORMS``, or of ``SMOOTH`` if it may not jump."""
    draw = random.Random(seed)
    forms = FORMS if jumps else {name: form for name, form in FORMS.items() if name not in JUMP} | SMOOTH
    graph = Graph()
    values: list[Any] = [graph.placeholder("x"), graph.placeholder("y")]
    g = Writer(graph, graph.placeholder("k"))
    for _ in range(draw.randint(3, 12)):
        values.append(forms[draw.choice(list(forms))](g, lambda: draw.choice(values[-4:])))
    last = values[-1]
    weight = g(aten.mm.default, g(aten.permute.default, last, [1, 0]), values[-2])
    sums = g(aten.sum.default, last), g(aten.sum.dim_IntList, values[-2], [0]), g(aten.amax.default, last, [0])
    graph.output((*sums, weight, last))
    return GraphModule(torch.nn.Module(), graph)


def random_arguments(seed: int, dtype: torch.dtype) -> list[Tensor]:
    """Arguments of a random body, some of whose elements are equal."""
    made = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(ROWS, COLUMNS, generator=made, dtype=torch.float64) for _ in range(2))
    order = torch.rand(ROWS, COLUMNS, generator=made).argsort(1)
    return [x.to(dtype), torch.where(y > 1, 0.5, y).to(dtype), order]


# --- other code for the same graph


class Unrounded(Interpreter):
    """A kernel that keeps float64 between operators, as fused code keeps more bits than it stores."""

    def run_node(self, n: Node) -> Any:
        widen = lambda t: t.double() if t.is_floating_point() else t  # noqa: E731
        return pytree.tree_map_only(Tensor, widen, super().run_node(n))


class Reordered(Interpreter):
    """A kernel that reduces in another order: halves one by one, the second first."""

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        if target is aten.sum.dim_IntList and args[0].shape[args[1][0]] > 3:
            dim = args[1][0]
            parts = [p.sum(dim, keepdim=True) for p in args[0].flip(dim).split(3, dim)]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            return total if len(args) > 2 and args[2] else total.squeeze(dim)
        return super().call_function(target, args, kwargs)


class Noisy(Interpreter):
    """A kernel every inexact result of which is off by one rounding, up or down."""

    def __init__(self, graph: GraphModule, seed: int):
        super().__init__(graph)
        self.noise = torch.Generator().manual_seed(seed)

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        value = super().call_function(target, args, kwargs)
        if target not in ROUND or not isinstance(value, Tensor):
            return value
        word, few_bits = value.view(_WORDS[value.dtype]), 2 ** (_FRACTION[value.dtype] // 2)
        other = (word + torch.randint(-1, 2, word.shape, generator=self.noise).to(word.dtype)).view(value.dtype)
        exact = value * few_bits == (value * few_bits).round()  # 0, 1, 0.5
        for operand in (a for a in args if isinstance(a, Tensor) and a.shape == value.shape):
            exact |= value == operand  # times one, plus zero
        return torch.where(exact, value, other)


# Operators that compute; the others pick elements, and no code rounds there.
ROUND = {
    *(aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.mm.default, aten.mean.dim),
    *(aten.sum.default, aten.sum.dim_IntList, aten.cumsum.default, aten._softmax.default),
    *(aten.tanh.default, aten.gelu.default, aten.sigmoid.default, aten.sqrt.default),
}


def honest(graph: GraphModule, arguments: Sequence[Tensor], seed: int) -> dict[str, list[Tensor]]:
    """What honest code may make of a graph."""
    dtype = arguments[0].dtype
    return {
        "noisy": list(Noisy(graph, seed).run(*arguments)),
        "reordered": list(Reordered(graph).run(*arguments)),
        "unrounded": [v.to(dtype) for v in in_float64(graph, arguments)],
    }


def in_float64(graph: GraphModule, arguments: Sequence[Tensor]) -> list[Tensor]:
    """A graph's results without any rounding to speak of."""
    return list(Unrounded(graph).run(*(a.double() if a.is_floating_point() else a for a in arguments)))


# Each makes a wrong value of (operator, arguments, the right value, an earlier value of its shape), or None.
MISTAKES: dict[str, Callable[..., Tensor | None]] = {
    "dropped_scatter": lambda op, args, right, earlier: args[0] if op in SCATTERS else None,
    "stale_buffer": lambda op, args, right, earlier: earlier if op in POINTWISE else None,
    "wrong_mask": lambda op, args, right, earlier: torch.where(args[0], args[2], args[1]) if op is WHERE else None,
    "last_row_left_out": lambda op, args, right, earlier: args[0][:-1].sum(0) if _adds_rows(op, args) else None,
    "row_not_written": lambda op, args, right, earlier: _without_row(right) if op in POINTWISE else None,
    "index_off_by_one": lambda op, args, right, earlier: _next(*args) if op is aten.gather.default else None,
    "added_twice": lambda op, args, right, earlier: right + args[0][-1] if _adds_rows(op, args) else None,
}
SCATTERS = aten.scatter.src, aten.scatter_add.default
POINTWISE = aten.add.Tensor, aten.mul.Tensor, aten.tanh.default, aten.gelu.default, aten._softmax.default
WHERE = aten.where.self


class Wrong(Interpreter):
    """Code with one mistake, made wherever it can be. ``made`` says whether it could."""

    def __init__(self, graph: GraphModule, mistake: str):
        super().__init__(graph)
        self.mistake, self.made = MISTAKES[mistake], False

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        right = super().call_function(target, args, kwargs)
        like = [v for v in self.env.values() if isinstance(v, Tensor) and isinstance(right, Tensor)]
        earlier = next((v for v in like if (v.shape, v.dtype) == (right.shape, right.dtype)), None)
        wrong = self.mistake(target, args, right, earlier)
        self.made |= wrong is not None
        return right if wrong is None else wrong


def _adds_rows(op: Any, args: tuple) -> bool:
    return op is aten.sum.dim_IntList and args[1] == [0]


def _without_row(right: Tensor) -> Tensor | None:
    return torch.cat([right[:5], torch.zeros_like(right[5:6]), right[6:]]) if len(right) == ROWS else None


def _next(x: Tensor, dim: int, index: Tensor) -> Tensor:
    return x.gather(dim, (index + 1) % x.shape[dim])
