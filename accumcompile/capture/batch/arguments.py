"""The batch among a step's arguments: which tensors are split, along which dim, and how large it is."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ...diagnostics import errors, where
from ...session.choice import Choice
from ...session.session import Session
from .candidates import Candidate, Candidates, Leaf, choice, ranked
from .containers import NOT_DATA, members
from .sample_lists import Samples, lists_of_samples


@dataclass(frozen=True, eq=False)
class CallBatch:
    """The batch of one call.

    candidate: what it was chosen as, unless dims are declared.
    others: further candidates, in the order of trial.
    along: the batch of the same call along another candidate.
    """

    size: int
    leaves: tuple[Leaf, ...]
    candidate: Candidate | None = None
    others: tuple[Candidate, ...] = ()
    along: Callable[[Candidate], CallBatch] | None = None

    @property
    def split(self) -> list[tuple[torch.Tensor, int]]:
        """The tensors that carry the batch, or one of their own, and along which dim."""
        return [(leaf.tensor, leaf.dim) for leaf in self.leaves if leaf.dim is not None]

    @property
    def leader(self) -> Leaf | None:
        """The tensor whose size the batch is, unless dims are declared."""
        return next((leaf for leaf in self.leaves if leaf.leading), None)

    @property
    def is_listed(self) -> bool:
        """Whether the batch is, or is also, a Python list of one tensor for each sample."""
        return any(leaf.alone for leaf in self.leaves)

    @cached_property
    def by_id(self) -> dict[int, Leaf]:
        """The leaves by the id of their tensors."""
        return {id(leaf.tensor): leaf for leaf in self.leaves}

    def open_others(self, state: Candidates) -> list[Candidate]:
        """The other candidates that may be the batch yet, but for batches of their own."""
        return [c for c in self.others if state.is_open(c.leader) and c.leader.name not in state.beside]

    def choice(self, state: Candidates) -> Choice:
        """What explain() says of it."""
        split = [leaf for leaf in self.leaves if leaf.dim is not None and not leaf.beside]
        why = (state.why if self.leader is not None else "") or self._why
        return choice(split, self.size, why, self.open_others(state), [leaf for leaf in self.leaves if leaf.beside])

    @property
    def _why(self) -> str:
        if self.leader is None:
            return "declared, and what has that size" if any(leaf.declared for leaf in self.leaves) else ""
        first = "the first dim that is larger than 1" if self.leader.dim else "the first tensor of data"
        followers = [leaf for leaf in self.leaves if leaf.dim is not None and not (leaf.leading or leaf.beside)]
        return first + (", and what has its size" if followers else "")


_INFER = object()  # the batch_dims of an undeclared argument


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
    """The batch: as declared, else the first candidate's; and dim 0 of undeclared tensors of that size."""
    dims = declared(batch_dims, named)
    in_arguments = [leaf for name, value in named.items() for leaf in tensors(name, value, dims[name])]
    lists = _samples(named, session)
    inside = {id(tensor): samples.alone for samples in lists.values() for tensor in samples.tensors}
    sure = [Leaf(n, t, d % t.dim(), declared=True) for n, t, d in in_arguments if isinstance(d, int)]
    open_ = [(n, t) for n, t, d in in_arguments if d is _INFER and t.dim() > 0 and t.layout is torch.strided]
    open_ = [(n, t) for n, t in open_ if id(t) not in inside] + [(n, v.stand_in()) for n, v in lists.items()]
    rest = [Leaf(n, t, sampled=id(t) in inside, alone=inside.get(id(t), False)) for n, t, _ in in_arguments]
    if sure:
        size = sure[0].size  # further sizes are batches of their own
        inferred = [Leaf(n, t, _inferred(n, t, size, session)) for n, t in open_]
        return CallBatch(size, _checked(sure, inferred, rest))
    if not open_:
        raise errors.error("AC011", where.users_line(), step=session.name)
    return _chosen(ranked(open_, session.part(Candidates)), open_, rest, session)


def _samples(named: Mapping[str, Any], session: Session) -> dict[str, Samples]:
    """The lists of one item for each sample: those that were one in an earlier call still are."""
    known = session.part(Candidates).lists
    lists = lists_of_samples(named, known)
    known |= lists.keys()
    return lists


def _chosen(
    candidates: Sequence[Candidate], open_: Sequence[tuple[str, torch.Tensor]], rest: Sequence[Leaf], session: Session
) -> CallBatch:
    """The batch of the first of ``candidates``; the others may take its place in the course of the call."""
    state, first = session.part(Candidates), candidates[0]
    if first.size != 1:
        state.lead(first.leader.key)
    dims = {leaf.name: leaf.dim for leaf in first.leaves if leaf.dim}  # of a batch in one row
    leaves = []
    for name, tensor in open_:
        leads = name == first.leader.name
        if name in state.beside and not leads:
            leaves.append(Leaf(name, tensor, state.beside[name], beside=True))
            continue
        dim = dims[name] if name in dims else _inferred(name, tensor, first.size, session, leads)
        leaves.append(Leaf(name, tensor, dim, leading=leads))

    def along(other: Candidate) -> CallBatch:
        return _chosen([other, *(c for c in candidates if c is not other)], open_, rest, session)

    return CallBatch(first.size, _checked(leaves, rest), first, tuple(candidates[1:]), along)


def _checked(*leaves: Sequence[Leaf]) -> tuple[Leaf, ...]:
    """The leaves, each tensor once: the first of its leaves."""
    by_id: dict[int, Leaf] = {}
    for leaf in itertools.chain(*leaves):
        by_id.setdefault(id(leaf.tensor), leaf)
    _check_not_empty(by_id.values())
    return tuple(by_id.values())


def _inferred(name: str, tensor: torch.Tensor, size: int, session: Session, leads: bool = False) -> int | None:
    """Dim 0 if it has had the batch's size in every call so far, else None from now on."""
    candidates = session.part(Candidates)
    if leads or (tensor.shape[0] == size and name not in candidates.refused):
        candidates.taken.add(name)
        return 0
    if name in candidates.taken and name not in candidates.refused:
        session.note(f"{name}: dim 0 is no batch, its size {tensor.shape[0]} differed from the batch's {size}")
    candidates.refused.add(name)
    return None


def _check_not_empty(leaves: Iterable[Leaf]) -> None:
    for leaf in leaves:
        if leaf.dim is not None and leaf.size == 0 and not leaf.beside:
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
