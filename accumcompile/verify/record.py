"""One run of a step, and every value that it left: what `verify` compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from accumcompile.verify import differentiated
from accumcompile.verify.reach import Reachable, reach, walk

from ..ir.torch_api import TorchDispatchMode, pytree


@dataclass(frozen=True, eq=False)
class Entry:
    """One value after a run, copied to main memory. `None` where a gradient does not exist."""

    kind: str  # "loss", "output", "gradient", "parameter", "buffer", "optimizer state" or "other"
    group: str  # its row in a table: a parameter group, a model
    scale: str  # values of one kind and scale are measured against the largest of them
    value: torch.Tensor | None


@dataclass(eq=False)
class Record:
    """The values of one run, by name."""

    entries: dict[str, Entry] = field(default_factory=dict)
    stepped: dict[str, list[torch.Tensor | None]] = field(default_factory=dict)  # gradients given to optimizers
    drew: bool = False  # whether it drew random numbers
    eps: float = 0.0  # of the least exact dtype that it computed in, where that was watched

    def add(self, name: str, kind: str, group: str, scale: str, value: torch.Tensor | None) -> None:
        """Keep a copy in main memory; primes tell equal names apart."""
        while name in self.entries:  # a second backward(), a second optimizer.step()
            name += "'"
        self.entries[name] = Entry(kind, group, scale, None if value is None else value.detach().cpu().clone())


def record(call: Callable, fn: Callable, args: tuple, kwargs: Mapping[str, Any], watch: bool = False) -> Record:
    """Run `call(*args, **kwargs)`, a variant of the step `fn`, and collect every value that it left.

    `watch` also finds the least exact dtype, which only works on eager code.
    """
    run = Record()
    names = _Names(list(reach(fn, args, kwargs)))
    drawn = _random_states(names.items)
    with ExitStack() as stack:
        hook = register_optimizer_step_pre_hook(lambda opt, *_: _add_stepped(run, names, opt))
        stack.callback(hook.remove)
        precision = stack.enter_context(_Precision()) if watch else None
        result = differentiated.run(call, args, kwargs, lambda loss, i: _add_loss(run, loss, i))
    run.eps = precision.eps if precision else 0.0
    run.drew = any(not torch.equal(a, b) for a, b in zip(drawn, _random_states(names.items), strict=True))
    _add_outputs(run, result)
    _add_state(run, list(reach(fn, args, kwargs)))
    return run


class _Names:
    """What tensors are called, and which parameter group they are in."""

    def __init__(self, items: list[Reachable]) -> None:
        self.items = items
        self.by_id = {id(each.value): each for each in items}
        optimizers = [each for each in items if isinstance(each.value, torch.optim.Optimizer)]
        self.groups = {id(p): group for each in optimizers for p, group in _parameter_groups(each.path, each.value)}

    def group(self, item: Reachable) -> str:
        return self.groups.get(id(item.value)) or item.owner


def _parameter_groups(path: str, optimizer: torch.optim.Optimizer) -> Iterator[tuple[torch.Tensor, str]]:
    """Each parameter of an optimizer, and its group's name: the optimizer's own where it has only one."""
    several = len(optimizer.param_groups) > 1
    for i, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            yield parameter, f"{path}.param_groups[{i}]" if several else path


def _add_loss(run: Record, loss: torch.Tensor, number: int) -> None:
    name = "loss" if number == 1 else f"loss {number}"
    run.add(name, "loss", "", name, loss)


def _add_stepped(run: Record, names: _Names, optimizer: torch.optim.Optimizer) -> None:
    """Add the gradients that an optimizer is about to use."""
    for i, (parameter, group) in enumerate(_parameter_groups("optimizer", optimizer)):
        item = names.by_id.get(id(parameter)) or Reachable(f"{group}.params[{i}]", "parameter", "", parameter)
        run.add(f"{item.path}.grad", "gradient", names.group(item), item.owner, parameter.grad)
        copy = None if parameter.grad is None else parameter.grad.detach().cpu().clone()
        run.stepped.setdefault(item.path, []).append(copy)


def _add_outputs(run: Record, result: Any) -> None:
    """Add every tensor and number that the step returned."""
    leaves, _ = pytree.tree_flatten_with_path(result)
    for path, leaf in leaves:
        name = f"returned{pytree.keystr(path)}"
        if isinstance(leaf, torch.Tensor | int | float | complex):
            run.add(name, "output", "", name, torch.as_tensor(leaf))
        else:
            for each in walk([Reachable(name, "output", "", leaf)]):
                if isinstance(each.value, torch.Tensor):
                    run.add(each.path, "output", "", each.path, each.value)


def _add_state(run: Record, items: list[Reachable]) -> None:
    """Add every tensor that the step reaches, as it is now, and the gradients that are still there."""
    names = _Names(items)
    for each in items:
        tensor = each.value
        if not isinstance(tensor, torch.Tensor) or each.kind == "gradient":
            continue
        if each.kind == "optimizer state":
            key = each.path.rsplit(".", 1)[-1]
            run.add(each.path, each.kind, each.owner, f"{each.owner}.{key}", tensor)
            continue
        scale = each.owner if each.kind == "parameter" else f"{each.owner}.{each.path.rsplit('.', 1)[-1]}"
        run.add(each.path, each.kind, names.group(each), scale, tensor)
        if tensor.is_leaf and tensor.requires_grad:
            run.add(f"{each.path}.grad at the end", "gradient", names.group(each), each.owner, tensor.grad)


def _random_states(items: list[Reachable]) -> list[torch.Tensor]:
    """The states of torch's generators: they move when something is drawn."""
    own = [each.value.get_state() for each in items if isinstance(each.value, torch.Generator)]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *cuda, *own]


class _Precision(TorchDispatchMode):
    """Watches for the least exact dtype that whole tensors are computed in (0-dim tensors do not count)."""

    eps = 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.dtype.is_floating_point and leaf.dim():
                self.eps = max(self.eps, torch.finfo(leaf.dtype).eps)
        return out
