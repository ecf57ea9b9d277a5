"""Samples of torch's own operator database, as functions of their tensors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..ir.torch_api import pytree
from .capture import Choice

if TYPE_CHECKING:
    from torch.testing._internal.opinfo.core import OpInfo

UNDEFINED = {
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}  # any value is right
DTYPES = (torch.float64, torch.float32, torch.int64, torch.bool)


@dataclass
class Sample:
    """``run(*tensors)`` is one call of an operator.

    ``key`` identifies the call except for its tensors' values; ``group`` ignores their sizes as well.
    """

    name: str
    run: Callable
    tensors: list[torch.Tensor]
    key: str
    group: str = ""


def sample_of(name: str, fn: Callable, args: tuple, kwargs: dict) -> Sample:
    """A call as a function of its tensors."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def run(*tensors: torch.Tensor) -> object:
        filled = list(leaves)
        for place, x in zip(places, tensors, strict=True):
            filled[place] = x
        again, named = pytree.tree_unflatten(filled, spec)
        return fn(*again, **named)

    tensors = [leaves[i].detach().clone() for i in places]
    shown = ", ".join(map(_shown, leaves))
    ranks = [(v.dim(), str(v.dtype)) if isinstance(v, torch.Tensor) else repr(v) for v in leaves]
    return Sample(name, run, tensors, shown, str((ranks, str(spec))))


def _shown(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return repr(value)
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


def samples_of(op: OpInfo, seed: int = 0) -> Iterator[Sample]:
    """The samples of an entry of ``op_db``, one for each way of calling it."""
    dtype = next((d for d in DTYPES if op.supports_dtype(d, "cpu")), None)
    if dtype is None or op.name in UNDEFINED:
        return
    torch.manual_seed(seed)
    seen: set[str] = set()
    name = f"{op.name}.{op.variant_test_name}".rstrip(".")
    for sample in op.sample_inputs("cpu", dtype, requires_grad=False, set_seed=False):
        drawn = sample_of(name, op.op, (sample.input, *sample.args), sample.kwargs)
        if drawn.key not in seen and all(_is_plain(x) for x in drawn.tensors) and _runs(drawn):
            seen.add(drawn.key)
            yield drawn


def _runs(sample: Sample) -> bool:
    """Whether the call runs on copies of its tensors: one on a view may read memory outside the view."""
    try:
        sample.run(*(x.clone() for x in sample.tensors))
    except RuntimeError:
        return False
    return True


def _is_plain(x: torch.Tensor) -> bool:
    return x.layout is torch.strided and not x.is_quantized and x.numel() > 0


def spread(items: list, most: int) -> list:
    """At most ``most`` of the items, evenly spread."""
    if len(items) <= most:
        return items
    return [items[i * len(items) // most] for i in range(most)]


def choices(tensors: list[torch.Tensor], most: int = 8) -> list[Choice]:
    """Ways of choosing the batch among the dimensions of one size: one of them, many, and all."""
    sizes = sorted({s for x in tensors for s in x.shape if s > 1})
    candidates: list[Choice] = []
    for size in sizes:
        options = [[None, *(d for d, s in enumerate(x.shape) if s == size)] for x in tensors]
        every = [c for c in itertools.islice(itertools.product(*options), 1000) if any(d is not None for d in c)]
        every.sort(key=lambda c: sum(d is not None for d in c))
        single, joint = [c for c in every if sum(d is not None for d in c) == 1], every[::-1]
        candidates += dict.fromkeys([*single, *joint[:4], *together(tensors, [size])])
    return spread(list(dict.fromkeys(candidates)), most)


def together(tensors: list[torch.Tensor], sizes: Iterable[int] | None = None) -> list[Choice]:
    """For each size that occurs more than once, all dimensions of that size: these tell factors apart."""
    every = sizes if sizes is not None else sorted({s for x in tensors for s in x.shape if s > 1})
    of_size = [[tuple(d for d, s in enumerate(x.shape) if s == size) for x in tensors] for size in every]
    return [tuple(_short(dims) for dims in c) for c in of_size if sum(map(len, c)) > 1]


def _short(dims: tuple[int, ...]) -> int | tuple[int, ...] | None:
    return (dims[0] if len(dims) == 1 else dims) if dims else None
