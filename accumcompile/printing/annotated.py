"""A graph as readable code.

Comments give the module and the user's line above each group of nodes, the shape, placement and stage after each value,
and a loop's inputs and outputs at the head of its body. The code runs as before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch.fx import GraphModule, Node
from torch.fx.graph import PythonCode

from accumcompile.diagnostics.where import user_frame
from accumcompile.ir.loop import LoopSpec, loops_in
from accumcompile.ir.origin import PLACE, is_backward
from accumcompile.ir.sizes import SYMBOLIC

from ..ir.names import of_module

_GROUP = "# ---- "
_NODE = re.compile(r"# COUNTER: (\d+)")  # torch.fx writes it above each node's code, for code transformers
_FREED = re.compile(r";  (\w+ = )+None$")


def annotated(
    gm: GraphModule, head: tuple[str, ...] = (), place: Callable[[Node], str] = lambda node: node.meta.get(PLACE, "")
) -> PythonCode:
    """The code of one graph; it begins with the lines ``head``, and ``place`` gives a node's placement and stage."""
    nodes = list(gm.graph.nodes)

    def transform(body: list[str]) -> list[str]:
        return [f"# {line}\n" for line in head] + list(_lines(body, nodes, place))

    with gm.graph.on_generate_code(lambda before: transform):
        code = gm.graph.python_code("self")
    return replace(code, src="\n".join(_spaced(code.src.splitlines())))


def _spaced(lines: list[str]) -> Iterator[str]:
    """The lines without blank ones, except one above each group of nodes."""
    for line in filter(str.strip, lines):
        if line.lstrip().startswith(_GROUP):
            yield ""
        yield line


def heads(gm: GraphModule) -> dict[str, tuple[str, ...]]:
    """For each loop body in a program, lines that list the loop's inputs and outputs."""
    return {name: tuple(_head(spec)) for name, spec in loops_in(gm)}


def _head(spec: LoopSpec) -> Iterator[str]:
    whole = list(spec.consts)
    sliced = [f"{x.source} {x.placement}" for x in spec.xs]
    carried = [f"{c.source} P({c.op}) in {str(c.dtype).removeprefix('torch.')}" for c in spec.carry]
    concatenated = [f"{y.source} S({y.dim})" for y in spec.ys]
    for word, values in (("slices", sliced), ("whole", whole), ("carries", carried), ("keeps", concatenated)):
        if values:
            yield f"{word:8}{', '.join(values)}"


def _lines(body: list[str], nodes: list[Node], place: Callable[[Node], str]) -> Iterator[str]:
    about, group = "", ""
    for line in "".join(body).splitlines():
        marker = _NODE.match(line)
        if marker is not None:
            node = nodes[int(marker[1])]
            about, origin = _about(node, place), _origin(node)
            if origin not in ("", group):
                group = origin
                yield f"{_GROUP}{origin}\n"
            yield f"{line}\n"
        elif line.strip():
            line = _FREED.sub("", line)
            yield f"{line}  # {about}\n" if about else f"{line}\n"


def _about(node: Node, place: Callable[[Node], str]) -> str:
    """The value's dtype, shape, placement and stage."""
    return " ".join(filter(None, (_shape(node), place(node)))) if node.op == "call_function" else ""


def _shape(node: Node) -> str:
    value = node.meta.get("val")
    if isinstance(value, SYMBOLIC):
        return "number"
    dtype = value.dtype if isinstance(value, torch.Tensor) else node.meta.get("dtype")
    sizes = node.meta.get("local_shape", tuple(value.shape) if isinstance(value, torch.Tensor) else ())
    return f"{str(dtype).removeprefix('torch.')}[{', '.join(map(str, sizes))}]" if dtype is not None else ""


def _origin(node: Node) -> str:
    """The module and the user's line that a node comes from; "" if unknown."""
    frame = user_frame(node.meta.get("stack_trace")) if node.op == "call_function" else None
    if frame is None:
        return ""
    backward = is_backward(node.meta)
    module = of_module({"nn_module_stack": node.meta["fwd_nn_module_stack"]} if backward else node.meta)
    place = f"{module}: " if module else ""
    return f"{'backward of ' if backward else ''}{place}{frame.where}  {frame.code}"
