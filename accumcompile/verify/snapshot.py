"""A snapshot of everything a step can reach, and its restoration in place.

    with Snapshot.of(step, args, kwargs) as snapshot:
        step(*args, **kwargs)
        snapshot.restore()
        step(*args, **kwargs)  # from the same state; restored once more at the end of the block

The same tensor objects with the same storages get their old values back, `.grad` is the same tensor or None
again, and containers, attributes, globals and closures hold the same objects. Copies of plain tensors are kept
in main memory. Not undone: what a step did outside of Python and its tensors (files, sockets, the position of a
data loader), and the attributes of objects of installed packages that have no `state_dict`.
"""

from __future__ import annotations

import gc
import random
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from accumcompile.verify.reach import Name, Reachable, opens, reach, slots, walk

from ..ir.torch_api import is_traceable_wrapper_subclass

PutBack = Callable[[], None]


class Snapshot:
    """Made by `Snapshot.of`; a context manager that restores on exit, also if the block raises."""

    def __init__(self, items: Iterable[Reachable]) -> None:
        self.reachable: dict[int, Reachable] = {}
        self.undo: list[PutBack] = []
        self.gradients: list[PutBack] = []  # after the contents: a gradient must have its tensor's dtype
        self.random = _save_random()
        self.add(items)
        self.unreached = [_save_gradients(each) for each in _living_optimizers() if id(each) not in self.reachable]

    @classmethod
    def of(cls, fn: Callable, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Snapshot:
        """Copy what `fn(*args, **kwargs)` can reach."""
        return cls(reach(fn, args, kwargs))

    def add(self, items: Iterable[Reachable]) -> None:
        """Copy what was not copied yet."""
        for each in items:
            if id(each.value) not in self.reachable:
                self.reachable[id(each.value)] = each
                self.undo += _save(each.value)
                if isinstance(each.value, torch.Tensor) and each.value.is_leaf:
                    self.gradients.append(_save_gradient(each.value))

    def restore(self) -> None:
        """Put everything back; may be called any number of times."""
        with torch.no_grad():
            for undo in [*self.undo, *self.gradients, *self.unreached]:
                undo()
        self.random()

    def tensors(self) -> list[Reachable]:
        """The reached tensors."""
        return [each for each in self.reachable.values() if isinstance(each.value, torch.Tensor)]

    def __enter__(self) -> Snapshot:
        self.hook = register_optimizer_step_pre_hook(self.before_step)
        return self

    def __exit__(self, *error: object) -> None:
        self.hook.remove()
        self.restore()

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """Save an optimizer that the walk did not reach, before it steps."""
        if id(optimizer) not in self.reachable:
            self.add(walk([Reachable("optimizer", "other", "", optimizer)]))


def _save(value: Any) -> list[PutBack]:
    """Functions that undo changes of `value` itself; the objects it holds are saved separately."""
    undo = [saver(value) for types_, saver in SAVERS if isinstance(value, types_)]
    undo += [saver(value) for name, saver in NUMPY_SAVERS.items() if isinstance(value, _numpy_type(name))]
    if any(slots(type(value))):
        undo.append(_save_slots(value))
    if isinstance(getattr(value, "__dict__", None), dict) and _keeps_attributes(value):
        undo.append(_save_dict(value.__dict__))
    return undo


def _keeps_attributes(value: Any) -> bool:
    held = (torch.Tensor, torch.nn.Module, torch.optim.Optimizer, Mapping, types.FunctionType)
    return isinstance(value, held) or opens(value)


def _save_tensor(tensor: torch.Tensor) -> PutBack:
    """The storage and its contents, and whether it is a leaf that needs a gradient."""
    alias = tensor.data  # the same storage, with a version counter of its own
    plain = not is_traceable_wrapper_subclass(tensor)
    copy = _unexpanded(alias).to("cpu", copy=True) if plain else alias.clone()
    leaf, needs_grad = tensor.is_leaf, tensor.requires_grad

    def undo() -> None:
        if leaf and not tensor.is_leaf:
            tensor.detach_()
        if not _same_memory(tensor, alias):
            tensor.data = alias
        if not alias.is_meta:
            _unexpanded(alias).copy_(copy)
        if leaf:
            tensor.requires_grad_(needs_grad)

    return undo


def _save_gradient(tensor: torch.Tensor) -> PutBack:
    """Which tensor is the gradient; its contents are saved like any other tensor's."""
    grad = tensor.grad

    def undo() -> None:
        if tensor.is_leaf and tensor.grad is not grad:
            tensor.grad = grad

    return undo


def _same_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    if is_traceable_wrapper_subclass(a) or a.layout is not torch.strided:
        return True
    facts = [(x.data_ptr(), x.dtype, x.shape, x.stride()) for x in (a, b)]
    return facts[0] == facts[1]


def _unexpanded(tensor: torch.Tensor) -> torch.Tensor:
    """A view that has each element once where `expand` repeated it."""
    if tensor.layout is not torch.strided:
        return tensor
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _save_dict(values: dict) -> PutBack:
    saved = dict(values)

    def undo() -> None:
        if not _same_items(values, saved):
            values.clear()
            values.update(saved)

    return undo


def _same_items(now: dict, saved: dict) -> bool:
    return list(now) == list(saved) and all(now[key] is saved[key] for key in saved)


def _save_list(values: list) -> PutBack:
    saved = list(values)
    return lambda: values.__setitem__(slice(None), saved)


def _save_collection(values: Any) -> PutBack:
    """A set or a deque."""
    saved = list(values)
    refill = values.update if isinstance(values, set) else values.extend

    def undo() -> None:
        values.clear()
        refill(saved)

    return undo


def _save_cell(cell: types.CellType) -> PutBack:
    try:
        saved = cell.cell_contents
    except ValueError:  # not bound yet
        return lambda: cell.__delattr__("cell_contents")
    return lambda: setattr(cell, "cell_contents", saved)


def _save_name(name: Name) -> PutBack:
    saved = name.read()

    def undo() -> None:
        if name.read() is not saved:
            name.bind(saved)

    return undo


def _save_slots(value: Any) -> PutBack:
    saved = {name: getattr(value, name) for name in slots(type(value)) if hasattr(value, name)}

    def undo() -> None:
        for name, each in saved.items():
            object.__setattr__(value, name, each)

    return undo


def _save_generator(generator: torch.Generator) -> PutBack:
    state = generator.get_state()
    return lambda: generator.set_state(state)  # type: ignore[return-value]


def _save_python_random(generator: random.Random) -> PutBack:
    state = generator.getstate()
    return lambda: generator.setstate(state)


def _save_gradients(optimizer: torch.optim.Optimizer) -> PutBack:
    """Save the gradients of an optimizer that the walk did not reach: by the time it steps, they have changed."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    saved = [(p, p.grad, None if p.grad is None else p.grad.clone()) for p in parameters]

    def undo() -> None:
        for parameter, grad, copy in saved:
            parameter.grad = grad
            if grad is not None:
                grad.data.copy_(copy)

    return undo


def _living_optimizers() -> list[torch.optim.Optimizer]:
    # isinstance() could run arbitrary code of a proxy object.
    return [each for each in gc.get_objects() if issubclass(type(each), torch.optim.Optimizer)]


def _save_random() -> PutBack:
    """The global generators: torch's on each device, numpy's and Python's."""
    states: list[tuple[Callable, Any]] = [
        (torch.set_rng_state, torch.get_rng_state()),
        (random.setstate, random.getstate()),
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append((torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if "numpy" in sys.modules:
        numpy_random = sys.modules["numpy"].random
        states.append((numpy_random.set_state, numpy_random.get_state()))

    def undo() -> None:
        for restore, state in states:
            restore(state)

    return undo


def _save_array(array: Any) -> PutBack:
    copy = array.copy()

    def undo() -> None:
        if array.flags.writeable:
            array[...] = copy

    return undo


def _save_numpy_generator(generator: Any) -> PutBack:
    state = generator.bit_generator.state
    return lambda: setattr(generator.bit_generator, "state", state)


def _numpy_type(name: str) -> Any:
    """A type of numpy's, or an empty tuple if numpy is not loaded."""
    value: Any = sys.modules.get("numpy")
    for part in name.split("."):
        value = getattr(value, part, None)
    return value or ()


SAVERS: tuple[tuple[Any, Callable[[Any], PutBack]], ...] = (
    (torch.Tensor, _save_tensor),
    (dict, _save_dict),
    (list, _save_list),
    ((set, deque), _save_collection),
    (types.CellType, _save_cell),
    (Name, _save_name),
    (torch.Generator, _save_generator),
    (random.Random, _save_python_random),
)
NUMPY_SAVERS: dict[str, Callable[[Any], PutBack]] = {
    "ndarray": _save_array,
    "random.Generator": _save_numpy_generator,
}
