"""Run a case for two updates and compare everything that anybody could see of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from .row import Call, Case

UPDATES = 2
TOLERANCE = 1e-10


@dataclass(frozen=True)
class Value:
    """One observed value. `scale` names the values whose largest magnitude its difference is measured by."""

    name: str
    scale: str
    tensor: torch.Tensor | None


History = list[list[Value]]


def run(case: Case, step: Callable[..., Any], size: int) -> History:
    """Run `step`, which is the case's own or a form of it, for two updates from where the case stands."""
    return [observed(case, step, case.arguments(size, update)) for update in range(UPDATES)]


def observed(case: Case, step: Callable[..., Any], call: Call) -> list[Value]:
    """Run one update."""
    args, kwargs = call
    returned = step(*args, **kwargs)
    return list(_observe(case, returned, call))


def differences(expected: History, actual: History, exclude: Iterable[str] = ()) -> dict[str, float]:
    """The relative difference of each value, by a name that says which value of which update it is."""
    found = {}
    for update, (before, after) in enumerate(zip(expected, actual, strict=True)):
        scales = _scales(before)
        by_name = {value.name: value for value in after}
        for missing in by_name.keys() ^ {value.name for value in before}:
            found[f"update {update}: {missing} (on one side only)"] = math.inf
        for value in before:
            if value.name in by_name and value.name not in exclude:
                found[f"update {update}: {value.name}"] = _difference(value, by_name[value.name], scales)
    return found


def beyond(differences: dict[str, float], tolerance: float = TOLERANCE) -> dict[str, float]:
    """The differences that are too large, the largest first."""
    wrong = {name: size for name, size in differences.items() if size > tolerance}
    return dict(sorted(wrong.items(), key=lambda item: -item[1]))


def _observe(case: Case, returned: Any, arguments: Any) -> Iterator[Value]:
    yield from _leaves("returned", returned)
    # A step may edit its inputs in place, and may differentiate with respect to them.
    yield from _leaves("input", arguments)
    yield from _leaves("gradient of input", pytree.tree_map(_leaf_gradient, arguments))
    for model, module in case.models.items():
        for name, parameter in module.named_parameters():
            yield Value(f"gradient {model}.{name}", f"gradient {model}", _copy(parameter.grad))
            yield Value(f"parameter {model}.{name}", f"parameter {model}", _copy(parameter))
        for name, buffer in module.named_buffers():
            yield Value(f"buffer {model}.{name}", f"buffer {model}.{name}", _copy(buffer))
        for name, kept in _attributes(module):
            yield Value(f"attribute {model}.{name}", f"attribute {model}.{name}", _copy(kept))


def _attributes(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """What a forward leaves on the modules."""
    for path, part in module.named_modules():
        yield from ((f"{path}.{name}", value) for name, value in vars(part).items() if isinstance(value, torch.Tensor))


def _leaves(kind: str, tree: Any) -> Iterator[Value]:
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        if isinstance(leaf, (torch.Tensor, bool, int, float)):
            name = f"{kind} {pytree.keystr(path)}"
            yield Value(name, name, _copy(torch.as_tensor(leaf)))


def _leaf_gradient(leaf: Any) -> torch.Tensor | None:
    return leaf.grad if isinstance(leaf, torch.Tensor) and leaf.is_leaf else None


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().clone()


def _scales(values: list[Value]) -> dict[str, float]:
    scales: dict[str, float] = {}
    for value in values:
        scales[value.scale] = max(scales.get(value.scale, 0.0), _largest(value.tensor))
    return scales


def _largest(tensor: torch.Tensor | None) -> float:
    if tensor is None or tensor.numel() == 0:
        return 0.0
    return tensor.abs().max().item() if tensor.dtype != torch.bool else float(tensor.any())


def _difference(expected: Value, actual: Value, scales: dict[str, float]) -> float:
    """Zero for equal, infinite for what no tolerance excuses (a shape, a dtype, an integer, a NaN)."""
    a, b = expected.tensor, actual.tensor
    if a is None or b is None:
        return 0.0 if a is b else math.inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return math.inf
    if torch.equal(a, b):
        return 0.0
    if not a.is_floating_point():
        return math.inf
    relative = _largest(a - b) / max(scales[expected.scale], torch.finfo(a.dtype).tiny)
    return math.inf if math.isnan(relative) else relative
