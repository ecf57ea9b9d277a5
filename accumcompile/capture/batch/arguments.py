"""The batch among a step's arguments: which tensors are split, along which dim, and how large it is."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from ...diagnostics import errors, where
from ...session.session import Session

# Types of arguments that never hold a part of the batch.
NOT_DATA = (
    torch.nn.Module,
    torch.nn.Parameter,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    str,
    bytes,
)


@dataclass(frozen=True, eq=False)
class Leaf:
    """A tensor among the arguments. ``dim`` is its batch dim, or None if it is not a batch input."""

    name: str
    tensor: torch.Tensor
    dim: int | None = None
    declared: bool = False
    leading: bool = False  # whether its size is the batch size, as nothing was declared

    @property
    def size(self) -> int:
        """The size of the batch dim."""
        return self.tensor.shape[self.dim or 0]


@dataclass(frozen=True)
class CallBatch:
    """The batch of one call."""

    size: int
    leaves: tuple[Leaf, ...]

    @property
    def split(self) -> list[tuple[torch.Tensor, int]]:
        """The tensors that carry the batch, and along which dim."""
        return [(leaf.tensor, leaf.dim) for leaf in self.leaves if leaf.dim is not None]


@dataclass
class Candidates:
    """The undeclared arguments of a step, by name, whose dim 0 may be the batch dim.

    taken: it was used as such in some call so far.
    refused: it is not from now on, because its size differed from the batch's or became a constant.
    """

    taken: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)


_INFER = object()  # the batch_dims of an undeclared argument


def members(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """(suffix of the name, key, value) of each item of a container; nothing for other values."""
    if isinstance(value, Mapping):  # dicts, and UserDicts such as BatchEncoding
        yield from ((f"[{key!r}]", key, value[key]) for key in value)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f".{name}", i, item) for i, (name, item) in enumerate(zip(value._fields, value, strict=True)))
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", i, item) for i, item in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{f.name}", f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value))
    elif hasattr(type(value), "__attrs_attrs__"):
        yield from ((f".{a.name}", a.name, getattr(value, a.name, None)) for a in type(value).__attrs_attrs__)
    elif isinstance(value, SimpleNamespace):
        yield from ((f".{name}", name, item) for name, item in vars(value).items())


def tensors(name: str, value: Any, dims: Any = _INFER) -> Iterator[tuple[str, torch.Tensor, Any]]:
    """(name, tensor, declared dim) of every tensor in ``value``, except those of modules and optimizers."""
    if isinstance(value, NOT_DATA):
        return
    if isinstance(value, torch.Tensor):
        _check_dim(name, value, dims)
        yield name, value, dims
        return
    for suffix, key, item in members(value):
        yield from tensors(name + suffix, item, _below(name, dims, key))


def lists(name: str, value: Any, rows: int) -> Iterator[str]:
    """The names of the Python lists of ``rows`` values in ``value`` that hold no tensor themselves."""
    if isinstance(value, (list, tuple)) and len(value) == rows and not isinstance(value[0], torch.Tensor):
        yield name
    elif not isinstance(value, NOT_DATA):
        for suffix, _, item in members(value):
            yield from lists(name + suffix, item, rows)


def _below(name: str, dims: Any, key: Any) -> Any:
    """The part of ``dims`` for one item of a container: a prefix holds for everything below it."""
    if dims is _INFER or dims is None or isinstance(dims, int):
        return dims
    if isinstance(dims, Mapping):
        return dims.get(key, _INFER)
    if isinstance(dims, Sequence) and isinstance(key, int) and key < len(dims):
        return dims[key]
    raise _misfit(name, why=f"{dims!r} has no entry for {key!r}", fix="nest it like the argument")


def _check_dim(name: str, tensor: torch.Tensor, dims: Any) -> None:
    if dims is _INFER or dims is None:
        return
    if isinstance(dims, bool) or not isinstance(dims, int):
        raise _misfit(name, why=f"{dims!r} is no dim of a tensor", fix="give an int or None")
    if not -tensor.dim() <= dims < tensor.dim():
        why = f"there is no dim {dims} in a tensor of shape {tuple(tensor.shape)}"
        raise _misfit(name, why=why, fix="give one of its dims, or None")


def _misfit(argument: str, why: str, fix: str) -> Exception:
    return errors.error("AC010", where.users_line(), argument=argument, why=why, fix=fix)


def arguments(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by name, in the signature's order; each of ``*args`` and ``**kwargs`` on its own."""
    named: dict[str, Any] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named |= {f"{name}[{i}]": item for i, item in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named |= value
        else:
            named[name] = value
    return named


def declared(batch_dims: Any, named: Mapping[str, Any]) -> dict[str, Any]:
    """The declared dims of each argument."""
    if batch_dims is None or isinstance(batch_dims, int):
        return dict.fromkeys(named, _INFER if batch_dims is None else batch_dims)
    if isinstance(batch_dims, Mapping):
        for name in batch_dims:
            if name not in named:
                why = f"the step has no such argument; it has {', '.join(named)}"
                raise _misfit(repr(name), why=why, fix="use the names of the step's arguments")
        return {name: batch_dims.get(name, _INFER) for name in named}
    if isinstance(batch_dims, Sequence) and len(batch_dims) == len(named):
        return dict(zip(named, batch_dims, strict=True))
    why = f"{batch_dims!r} is for another number of arguments than {len(named)}: {', '.join(named)}"
    raise _misfit("the step", why=why, fix="give one entry for each argument, or a dict by name")


def find(named: Mapping[str, Any], batch_dims: Any, session: Session) -> CallBatch:
    """The batch: as declared, else dim 0 of the first data tensor; and dim 0 of undeclared tensors of that size."""
    dims = declared(batch_dims, named)
    in_arguments = [leaf for name, value in named.items() for leaf in tensors(name, value, dims[name])]
    sure = [Leaf(n, t, d % t.dim(), declared=True) for n, t, d in in_arguments if isinstance(d, int)]
    open_ = [(n, t) for n, t, d in in_arguments if d is _INFER and t.dim() > 0 and t.layout is torch.strided]
    if not sure and not open_:
        raise errors.error("AC011", where.users_line(), step=session.name)
    first, leading = _leading(open_) if not sure else (None, None)
    size = _size(sure) if leading is None else leading.shape[0]
    inferred = [Leaf(n, t, _inferred(n, t, size, first, session), leading=n == first) for n, t in open_]
    leaves: dict[int, Leaf] = {}
    for leaf in [*sure, *inferred, *(Leaf(n, t) for n, t, _ in in_arguments)]:
        leaves.setdefault(id(leaf.tensor), leaf)
    _check_not_empty(leaves.values())
    return CallBatch(size, tuple(leaves.values()))


def _leading(candidates: Sequence[tuple[str, torch.Tensor]]) -> tuple[str, torch.Tensor]:
    """The first tensor that does not require grad, as data seldom does; else the first of all."""
    return next((each for each in candidates if not each[1].requires_grad), candidates[0])


def _inferred(name: str, tensor: torch.Tensor, size: int, first: str | None, session: Session) -> int | None:
    """Dim 0 if it has had the batch's size in every call so far, else None from now on."""
    candidates = session.part(Candidates)
    if name == first or (tensor.shape[0] == size and name not in candidates.refused):
        candidates.taken.add(name)
        return 0
    if name in candidates.taken and name not in candidates.refused:
        session.note(f"{name}: dim 0 is no batch, its size {tensor.shape[0]} differed from the batch's {size}")
    candidates.refused.add(name)
    return None


def _size(sure: Sequence[Leaf]) -> int:
    sizes = {leaf.name: (leaf.size, leaf.dim) for leaf in sure}
    if len({size for size, _ in sizes.values()}) > 1:
        listed = ", ".join(f"{name} has {size} along dim {dim}" for name, (size, dim) in sizes.items())
        raise errors.error("AC012", where.users_line(), sizes=listed)
    return sure[0].size


def _check_not_empty(leaves: Iterable[Leaf]) -> None:
    for leaf in leaves:
        if leaf.dim is not None and leaf.size == 0:
            raise errors.error("AC013", where.users_line(), name=leaf.name, dim=leaf.dim)


def within_reach(fn: Callable[..., Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """The step's arguments and their attributes, its closure and its globals, by name."""
    within = dict(named)
    for name, value in named.items():
        if not isinstance(value, NOT_DATA) and hasattr(value, "__dict__"):
            within |= {f"{name}.{attribute}": item for attribute, item in vars(value).items()}
    reach = inspect.getclosurevars(inspect.unwrap(fn)) if inspect.isfunction(inspect.unwrap(fn)) else None
    return within | ({**reach.globals, **reach.nonlocals} if reach else {})


def modules(fn: Callable[..., Any], named: Mapping[str, Any]) -> dict[str, torch.nn.Module]:
    """The modules within reach."""
    within = within_reach(fn, named)
    by_name = {name: value for name, value in within.items() if isinstance(value, torch.nn.Module)}
    for name, value in named.items():
        by_name |= {f"{name}{s}": item for s, _, item in members(value) if isinstance(item, torch.nn.Module)}
    return by_name
