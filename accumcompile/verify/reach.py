"""Everything a step can reach: its arguments, its closure, the globals its code names, and what they hold.

A walk over Python objects, driven by a table of what each kind of object holds. Modules, optimizers,
containers, dataclasses, objects of the user's own classes and objects with a `state_dict` are opened;
functions of the user's own code are followed into their closures and globals. Objects of installed packages
are opened only if they are arguments, containers or have a `state_dict`. Datasets and loaders are not opened:
they may be gigabytes, and a step does not change them.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections import UserDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from accumcompile.diagnostics.where import is_users

CLOSED = (types.ModuleType, type, str, bytes, int, float, complex, type(None), Dataset, DataLoader, Sampler)
CLOSED_PACKAGES = (
    "accumcompile",
    "logging",
    "threading",
    "torch._dynamo",
    "torch._inductor",
    "torch._functorch",
    "torch.fx",
)


@dataclass(frozen=True, eq=False)
class Reachable:
    """One reached object. `kind` is "parameter", "buffer", "gradient", "optimizer state" or "other"."""

    path: str  # as a person would write it: "model.layers.0.weight"
    kind: str
    owner: str  # the path of the outermost module that holds it, or ""
    value: Any


@dataclass(frozen=True, eq=False)
class Name:
    """A name bound in a namespace: a global, or an attribute of a class."""

    namespace: Any
    name: str

    def read(self) -> Any:
        """What the name is bound to."""
        return self.namespace[self.name] if isinstance(self.namespace, dict) else getattr(self.namespace, self.name)

    def bind(self, value: Any) -> None:
        """Bind the name to `value`."""
        if isinstance(self.namespace, dict):
            self.namespace[self.name] = value
        else:
            setattr(self.namespace, self.name, value)


def reach(fn: Callable, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Iterator[Reachable]:
    """Yield all that `fn(*args, **kwargs)` can reach, each object once, optimizers last."""
    arguments = [Reachable(name, "other", "", value) for name, value in _named_arguments(fn, args, kwargs or {})]
    yield from walk([*arguments, Reachable(getattr(fn, "__name__", "step"), "other", "", fn)])


def walk(roots: Iterable[Reachable]) -> Iterator[Reachable]:
    """Breadth first from `roots`, so that an object gets its shortest name."""
    roots = list(roots)
    now, later = deque(roots), deque[Reachable]()
    direct = {id(root.value) for root in roots}
    seen: dict[Any, Reachable] = {}
    while now or later:
        item = now.popleft() if now else later.popleft()
        value = item.value
        key = (id(value.namespace), value.name) if isinstance(value, Name) else id(value)
        if key in seen or isinstance(value, CLOSED):
            continue
        if now and isinstance(value, torch.optim.Optimizer):
            later.append(item)
            continue
        seen[key] = item
        yield item
        now.extend(children(item, seen, open_anyway=id(value) in direct))


def _named_arguments(fn: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each argument by its parameter's name; by its position if they do not fit `fn`."""
    try:
        bound = inspect.signature(fn).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        yield from ((f"args[{i}]", value) for i, value in enumerate(args))
        yield from kwargs.items()
        return
    yield from bound.items()


def children(item: Reachable, seen: Mapping[Any, Reachable], open_anyway: bool = False) -> Iterator[Reachable]:
    """What `item` holds."""
    value = item.value
    for types_, list_children in HOLDS:
        if isinstance(value, types_):
            yield from list_children(item, seen)
            return
    if _is_step(value):
        yield Reachable(item.path, "other", "", value.fn)
    elif open_anyway or opens(value):
        yield from _of_object(item, seen)


def _is_step(value: Any) -> bool:
    """Whether `value` is a decorated step: the walk goes into the user's function, not into our own state."""
    return type(value).__module__.split(".")[0] == "accumcompile" and hasattr(value, "fn")


def opens(value: Any) -> bool:
    """Whether to open an object that is not a container, module or function."""
    cls: Any = type(value)
    if cls.__module__.startswith(CLOSED_PACKAGES):
        return False
    return is_dataclass(value) or _has_state(value) or _is_users_class(cls) or cls is types.SimpleNamespace


def _has_state(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _of_tensor(item: Reachable, seen) -> Iterator[Reachable]:
    tensor = item.value
    if tensor.is_leaf and tensor.grad is not None:
        yield Reachable(item.path, "gradient", item.owner, tensor.grad)
    yield from _of_object(item, seen)


def _of_module(item: Reachable, seen) -> Iterator[Reachable]:
    """Parameters, buffers and submodules under their own names, then all other attributes."""
    module, owner = item.value, item.owner or item.path
    inner = {"_parameters": "parameter", "_buffers": "buffer", "_modules": "other"}
    for attribute, kind in inner.items():
        for name, value in vars(module).get(attribute, {}).items():
            yield Reachable(f"{item.path}.{name}", kind, owner, value)
    yield from _of_object(Reachable(item.path, "other", owner, module), seen)


def _of_optimizer(item: Reachable, seen) -> Iterator[Reachable]:
    """The parameters, the state named after its parameters, then all other attributes."""
    optimizer, path = item.value, item.path
    names = {}
    for i, group in enumerate(optimizer.param_groups):
        for j, parameter in enumerate(group["params"]):
            earlier = seen.get(id(parameter))
            names[parameter] = earlier.path if earlier else f"{path}.param_groups[{i}].params[{j}]"
            owner = earlier.owner if earlier else path
            yield Reachable(names[parameter], "parameter", owner, parameter)
    for parameter, state in optimizer.state.items():
        for key, value in state.items() if isinstance(state, dict) else ():
            yield Reachable(f"{path}.state[{names.get(parameter, '?')}].{key}", "optimizer state", path, value)
    yield from _of_object(item, seen)


def _of_mapping(item: Reachable, seen) -> Iterator[Reachable]:
    for key, value in list(item.value.items()):
        yield Reachable(
            f"{item.path}[{key!r}]" if isinstance(key, str | int) else item.path,
            item.kind,
            item.owner,
            value,
        )
    if not isinstance(item.value, dict):
        yield from _of_object(item, seen)


def _of_sequence(item: Reachable, seen) -> Iterator[Reachable]:
    names = getattr(type(item.value), "_fields", None)
    for i, value in enumerate(list(item.value)):
        yield Reachable(f"{item.path}.{names[i]}" if names else f"{item.path}[{i}]", item.kind, item.owner, value)


def _of_cell(item: Reachable, seen) -> Iterator[Reachable]:
    try:
        yield Reachable(item.path, "other", "", item.value.cell_contents)
    except ValueError:  # an empty cell: the name is not bound yet
        return


def _of_name(item: Reachable, seen) -> Iterator[Reachable]:
    yield Reachable(item.path, "other", "", item.value.read())


def _of_function(item: Reachable, seen) -> Iterator[Reachable]:
    """The closure, defaults and named globals of the user's own function; what an installed one wraps."""
    fn = item.value
    if not is_users(fn.__code__.co_filename):
        for wrapped in ("_torchdynamo_orig_callable", "__wrapped__"):
            yield Reachable(item.path, "other", "", vars(fn).get(wrapped))
        return
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        yield Reachable(name, "other", "", cell)
    yield Reachable(f"{item.path} default", "other", "", fn.__defaults__)
    yield Reachable(f"{item.path} default", "other", "", fn.__kwdefaults__)
    for name in sorted(_named_in(fn.__code__)):
        yield from _of_named(name, fn.__globals__, fn.__code__)


def _of_named(name: str, namespace: dict, code: types.CodeType) -> Iterator[Reachable]:
    """The global `name`; if it is one of the user's modules, also those of its attributes that the code names."""
    if name not in namespace:
        return
    value = namespace[name]
    yield Reachable(name, "other", "", Name(namespace, name))
    if isinstance(value, types.ModuleType) and is_users(getattr(value, "__file__", None) or "<built-in>"):
        for attribute in sorted(_named_in(code) & vars(value).keys()):
            yield Reachable(f"{name}.{attribute}", "other", "", Name(vars(value), attribute))
    if isinstance(value, type) and _is_users_class(value):
        yield from _of_class(Reachable(name, "other", "", value))


def _named_in(code: types.CodeType) -> set[str]:
    """The names that `code` and the functions defined in it use."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_named_in(each) for each in inner))


def _of_bound(item: Reachable, seen) -> Iterator[Reachable]:
    yield Reachable(f"{item.path}.__self__", "other", "", item.value.__self__)
    yield Reachable(item.path, "other", "", item.value.__func__)


def _of_partial(item: Reachable, seen) -> Iterator[Reachable]:
    for part in (item.value.func, item.value.args, item.value.keywords):
        yield Reachable(item.path, "other", "", part)


def _of_object(item: Reachable, seen) -> Iterator[Reachable]:
    """Attributes, slots, and what its class holds."""
    value, dot = item.value, f"{item.path}."
    for name, attribute in list(getattr(value, "__dict__", {}).items()):
        yield Reachable(dot + name, "other", item.owner, attribute)
    for name in slots(type(value)):
        yield Reachable(dot + name, "other", item.owner, getattr(value, name, None))
    for cls in type(value).__mro__:
        if _is_users_class(cls):
            yield from _of_class(Reachable(cls.__name__, "other", "", cls))


def _of_class(item: Reachable) -> Iterator[Reachable]:
    """The methods and attributes of one of the user's classes."""
    for name, value in list(vars(item.value).items()):
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, types.FunctionType):
            yield Reachable(f"{item.path}.{name}", "other", "", value)
        elif not name.startswith("__") and not hasattr(type(value), "__get__"):
            yield Reachable(f"{item.path}.{name}", "other", "", Name(item.value, name))


def slots(cls: type) -> Iterator[str]:
    """The `__slots__` names of `cls` and its bases, as far as they are the user's own classes."""
    for base in cls.__mro__:
        if _is_users_class(base):
            names = vars(base).get("__slots__", ())
            yield from (names,) if isinstance(names, str) else names


HOLDS: tuple[tuple[Any, Callable], ...] = (
    (torch.Tensor, _of_tensor),
    (torch.nn.Module, _of_module),
    (torch.optim.Optimizer, _of_optimizer),
    ((dict, UserDict, Mapping), _of_mapping),
    ((list, tuple, set, frozenset, deque), _of_sequence),
    (types.FunctionType, _of_function),
    (types.MethodType, _of_bound),
    (functools.partial, _of_partial),
    (types.CellType, _of_cell),
    (Name, _of_name),
)


@functools.cache
def _is_users_class(cls: type) -> bool:
    module = sys.modules.get(cls.__module__)
    return module is not None and is_users(_file_of(module))


def _file_of(module: types.ModuleType) -> str:
    """A module's file; an interactive session and modules written in C have none."""
    return getattr(module, "__file__", None) or ("<stdin>" if module.__name__ == "__main__" else "")
