"""Outputs of our graphs that carry the batch: a graph that receives one splits it along the same dim."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from typing import Any

import sympy
import torch
from torch import fx
from torch.utils.weak import WeakIdKeyDictionary

_dims: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by output tensor; None: of constant size, such as a sum


def dim_of(tensor: torch.Tensor) -> int | None:
    """The dim along which an output of one of our graphs carries the batch; None for any other tensor."""
    return _dims.get(tensor)


def is_summary(tensor: Any) -> bool:
    """Whether a tensor is an output of one of our graphs that does not carry the batch: computed of all samples."""
    return isinstance(tensor, torch.Tensor) and _dims.get(tensor, tensor) is None


def remembering(run: Callable[..., Any], gm: fx.GraphModule, symbols: Set[sympy.Symbol]) -> Callable[..., Any]:
    """``run``, compiled from ``gm``, remembering which outputs carry the batch that ``symbols`` name."""
    dims = list(_output_dims(gm, symbols))
    if not dims:
        return run

    def runs_remembering(*args: Any) -> Any:
        outputs = run(*args)
        for i, dim in dims:
            _dims[outputs[i]] = dim
        return outputs

    return runs_remembering


def _output_dims(gm: fx.GraphModule, symbols: Set[sympy.Symbol]) -> Iterator[tuple[int, int | None]]:
    """(index, dim) of the outputs that carry the batch, and (index, None) of those of constant size."""
    returned: Any = gm.graph.output_node().args[0]
    for i, node in enumerate(returned):
        value = node.meta.get("example_value") if isinstance(node, fx.Node) else None
        if not isinstance(value, torch.Tensor):
            continue
        sizes = [size.node.expr if isinstance(size, torch.SymInt) else None for size in value.shape]
        dim = next((d for d, size in enumerate(sizes) if size is not None and size.free_symbols & symbols), None)
        if dim is not None or not any(sizes):
            yield i, dim
