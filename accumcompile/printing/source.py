"""A program as one runnable Python file: its graphs as modules, and random inputs of the traced shapes."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch.fx import GraphModule

from accumcompile.ir import binding
from accumcompile.ir.binding import Binding, traced
from accumcompile.ir.loop import Split
from accumcompile.printing.annotated import annotated, heads

HEADER = '"""A program of accumcompile on random inputs: python runs it."""\n'
IMPORTS = (
    "import accumcompile.rules.table  # registers operators of ours",
    "from accumcompile.ir.loop import Split",
    "from math import inf, nan",
    "import torch",
)
MAIN = '''
def random_tensor(shape, stride, dtype, device):
    """Random numbers with these strides; zeros and ones where the dtype has no fractions."""
    size = 1 + sum((n - 1) * s for n, s in zip(shape, stride)) if all(shape) else 0
    fractions = dtype.is_floating_point or dtype.is_complex
    flat = torch.randn(size, dtype=dtype) if fractions else torch.randint(0, 2, (size,)).to(dtype)
    return flat.to(device).as_strided(shape, stride)


def inputs(seed=0):
    torch.manual_seed(seed)
    return [
INPUTS
    ]


if __name__ == "__main__":
    for output in Program()(*inputs()):
        print(tuple(output.shape), output.dtype) if isinstance(output, torch.Tensor) else print(output)
'''


def program_source(gm: GraphModule, split: Split, sizes: Binding | None = None) -> str:
    """The file's text. `gm`'s first input is the `split`.

    `sizes` binds symbolic sizes; those left out take the sizes of the traced call.
    """
    classes = list(_module_classes("Program", gm))
    imports = sorted(set(IMPORTS).union(*(lines for _, lines in classes)))
    inputs = [f"        {value},  # {name}" for name, value in _example_inputs(gm, split, sizes or {})]
    parts = [HEADER, "\n".join(imports), "", *("\n" + text for text, _ in classes)]
    return "\n".join(parts) + MAIN.replace("INPUTS", "\n".join(inputs))


REPRO = """

if __name__ == "__main__":
    from pathlib import Path

    inputs = torch.load(Path(__file__).parent / "{stem}.pt")
    body = Body().eval()
    with torch.no_grad():
        pairs = zip(torch.compile(body)(*inputs), body(*inputs), strict=True)
    for i, (compiled, plain) in enumerate(pairs):
        print(i, tuple(plain.shape), plain.dtype, "largest difference", (compiled - plain).abs().max().item())
"""


def repro_source(graph: GraphModule, stem: str) -> str:
    """A file that compares `graph` with its compiled code, on the inputs in `{stem}.pt` beside it."""
    classes = list(_module_classes("Body", graph))
    imports = sorted(set(IMPORTS).union(*(lines for _, lines in classes)))
    header = '"""Compiled code that gave another result than its graph: python shows it."""'
    return "\n".join([header, "\n".join(imports), *("\n" + text for text, _ in classes)]) + REPRO.format(stem=stem)


def _module_classes(name: str, gm: GraphModule, head: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """The class definitions of `gm`'s graph modules, innermost first, each with the imports it needs.

    The code of `gm` begins with the lines `head`.
    """
    lines, imports, about = [], set(), heads(gm)
    for target in _attributes_used(gm):
        value = _attribute(gm, target)
        inner = f"{name}_{target.replace('.', '_')}"
        if isinstance(value, GraphModule):
            yield from _module_classes(inner, value, about.get(target, ()))
            lines.append(f"self.{target} = {inner}()")
        else:
            lines.append(f"self.{target} = {_constant(value)}")
    code = annotated(gm, head)
    imports |= {line for key, value in code.globals.items() if key in code.src and (line := _import_of(key, value))}
    setup = "\n".join(f"        {line}" for line in ["super().__init__()", *lines])
    forward = "\n".join(f"    {line}" if line.strip() else "" for line in code.src.strip().splitlines())
    yield f"class {name}(torch.nn.Module):\n    def __init__(self):\n{setup}\n\n{forward}\n", imports


def _attributes_used(gm: GraphModule) -> list[str]:
    names = [str(node.target) for node in gm.graph.nodes if node.op in ("get_attr", "call_module")]
    return list(dict.fromkeys(names))


def _attribute(gm: GraphModule, target: str) -> Any:
    value: Any = gm
    for part in target.split("."):
        value = getattr(value, part)
    return value


def _constant(value: Any) -> str:
    """Code for a constant of the graph: a small tensor's values, or random values of a larger one's shape."""
    if not isinstance(value, torch.Tensor):
        return repr(value)
    if value.numel() <= 64 and type(value) in (torch.Tensor, torch.nn.Parameter) and not value.is_complex():
        return f"torch.tensor({value.tolist()}, dtype={value.dtype}, device={str(value.device)!r})"
    return _tensor_call(value, {})


def _import_of(name: str, value: Any) -> str:
    """The line that binds `name` to `value`, one of the globals of generated code."""
    if isinstance(value, ModuleType):
        return f"import {value.__name__} as {name}" if value.__name__ != name else f"import {name}"
    if value is type(None):
        return f"{name} = type(None)"
    if value is torch.device:
        return f"from torch import device as {name}" if name != "device" else "from torch import device"
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not module or not qualname:
        return ""  # inf and nan are always imported
    if "." in qualname:  # a method
        return f"from {module} import {qualname.split('.')[0]}; {name} = {qualname}"
    return f"from {module} import {qualname} as {name}" if qualname != name else f"from {module} import {name}"


def _example_inputs(gm: GraphModule, split: Split, sizes: Binding) -> Iterator[tuple[str, str]]:
    """Each input's name, and code that creates an example of it."""
    first, *others = gm.graph.find_nodes(op="placeholder")
    yield str(first.target), repr(split)
    for node in others:
        value = node.meta.get("val")
        tensor = isinstance(value, torch.Tensor)
        yield str(node.target), _tensor_call(value, sizes) if tensor else repr(_concrete(value, sizes))


def _tensor_call(value: torch.Tensor, sizes: Binding) -> str:
    shape, stride = ([_concrete(size, sizes) for size in each] for each in (value.shape, value.stride()))
    return f"random_tensor({shape}, {stride}, {value.dtype}, {str(value.device)!r})"


def _concrete(value: Any, sizes: Binding) -> Any:
    """`value` as a number: from `sizes` if they determine it, else its size in the traced call."""
    if not isinstance(value, torch.SymInt):
        return value
    bound = binding.value(value.node.expr, sizes)
    return traced(value) if bound is None else bound
