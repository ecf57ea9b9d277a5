"""Everything a step can reach: its arguments, its closure, the globals its code names, and what they hold.

A walk over Python objects, as a table of "what does this kind of object hold". Modules, optimizers,
containers, dataclasses, objects of the user's own classes and objects with a `state_dict` are opened;
functions of the user's own code are followed into their closures and globals. Objects of installed packages
are opened only where they are arguments, containers or hold a state. Datasets and loaders stay closed: they
may be gigabytes, and a step does not change them.
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
class Found:
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


def reach(fn: Callable, args: tuple = (), kwargs: Mapping[str, Any] | None = None) -> Iterator[Found]:
    """Yield all that `fn(*args, **kwargs)` can reach, each object once, optimizers last."""
    arguments = [Found(name, "other", "", value) for name, value in _named_arguments(fn, args, kwargs or {})]
    yield from walk([*arguments, Found(getattr(fn, "__name__", "step"), "other", "", fn)])


def walk(roots: Iterable[Found]) -> Iterator[Found]:
    """Breadth first from `roots`, so that an object gets its shortest name."""
    roots = list(roots)
    now, later = deque(roots), deque[Found]()
    direct = {id(root.value) for root in roots}
    seen: dict[Any, Found] = {}
    while now or later:
        found = now.popleft() if now else later.popleft()
        value = found.value
        key = (id(value.namespace), value.name) if isinstance(value, Name) else id(value)
        if key in seen or isinstance(value, CLOSED):
            continue
        if now and isinstance(value, torch.optim.Optimizer):
            later.append(found)
            continue
        seen[key] = found
        yield found
        now.extend(children(found, seen, open_anyway=id(value) in direct))


def _named_arguments(fn: Callable, args: tuple, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each argument under its parameter's name; under its position where `fn` does not take them."""
    try:
        bound = inspect.signature(fn).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        yield from ((f"args[{i}]", value) for i, value in enumerate(args))
        yield from kwargs.items()
        return
    yield from bound.items()


def children(found: Found, seen: Mapping[Any, Found], open_anyway: bool = False) -> Iterator[Found]:
    """What `found` holds."""
    value = found.value
    for types_, list_children in HOLDS:
        if isinstance(value, types_):
            yield from list_children(found, seen)
            return
    if _is_step(value):
        yield Found(found.path, "other", "", value.fn)
    elif open_anyway or opens(value):
        yield from _of_object(found, seen)


def _is_step(value: Any) -> bool:
    """Whether `value` is a decorated step: the user's function is of interest, our own state is not."""
    return type(value).__module__.split(".")[0] == "accumcompile" and hasattr(value, "fn")


def opens(value: Any) -> bool:
    """Whether to look into an object that is no container, module or function."""
    cls: Any = type(value)
    if cls.__module__.startswith(CLOSED_PACKAGES):
        return False
    return is_dataclass(value) or _has_state(value) or _is_users_class(cls) or cls is types.SimpleNamespace


def _has_state(value: Any) -> bool:
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict")


def _of_tensor(found: Found, seen) -> Iterator[Found]:
    tensor = found.value
    if tensor.is_leaf and tensor.grad is not None:
        yield Found(found.path, "gradient", found.owner, tensor.grad)
    yield from _of_object(found, seen)


def _of_module(found: Found, seen) -> Iterator[Found]:
    """Parameters, buffers and submodules under their own names, then what else there is."""
    module, owner = found.value, found.owner or found.path
    inner = {"_parameters": "parameter", "_buffers": "buffer", "_modules": "other"}
    for attribute, kind in inner.items():
        for name, value in vars(module).get(attribute, {}).items():
            yield Found(f"{found.path}.{name}", kind, owner, value)
    yield from _of_object(Found(found.path, "other", owner, module), seen)


def _of_optimizer(found: Found, seen) -> Iterator[Found]:
    """A state is named after the parameter it belongs to."""
    optimizer, path = found.value, found.path
    names = {}
    for i, group in enumerate(optimizer.param_groups):
        for j, parameter in enumerate(group["params"]):
            known = seen.get(id(parameter))
            names[parameter] = known.path if known else f"{path}.param_groups[{i}].params[{j}]"
            owner = known.owner if known else path
            yield Found(names[parameter], "parameter", owner, parameter)
    for parameter, state in optimizer.state.items():
        for key, value in state.items() if isinstance(state, dict) else ():
            yield Found(f"{path}.state[{names.get(parameter, '?')}].{key}", "optimizer state", path, value)
    yield from _of_object(found, seen)


def _of_mapping(found: Found, seen) -> Iterator[Found]:
    for key, value in list(found.value.items()):
        yield Found(
            f"{found.path}[{key!r}]" if isinstance(key, str | int) else found.path,
            found.kind,
            found.owner,
            value,
        )
    if not isinstance(found.value, dict):
        yield from _of_object(found, seen)


def _of_sequence(found: Found, seen) -> Iterator[Found]:
    names = getattr(type(found.value), "_fields", None)
    for i, value in enumerate(list(found.value)):
        yield Found(f"{found.path}.{names[i]}" if names else f"{found.path}[{i}]", found.kind, found.owner, value)


def _of_cell(found: Found, seen) -> Iterator[Found]:
    try:
        yield Found(found.path, "other", "", found.value.cell_contents)
    except ValueError:  # an empty cell: the name is not bound yet
        return


def _of_name(found: Found, seen) -> Iterator[Found]:
    yield Found(found.path, "other", "", found.value.read())


def _of_function(found: Found, seen) -> Iterator[Found]:
    """The closure, defaults and named globals of the user's own function; what an installed one wraps."""
    fn = found.value
    if not is_users(fn.__code__.co_filename):
        for wrapped in ("_torchdynamo_orig_callable", "__wrapped__"):
            yield Found(found.path, "other", "", vars(fn).get(wrapped))
        return
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        yield Found(name, "other", "", cell)
    yield Found(f"{found.path} default", "other", "", fn.__defaults__)
    yield Found(f"{found.path} default", "other", "", fn.__kwdefaults__)
    for name in sorted(_named_in(fn.__code__)):
        yield from _of_named(name, fn.__globals__, fn.__code__)


def _of_named(name: str, namespace: dict, code: types.CodeType) -> Iterator[Found]:
    """The global `name`; if it is a module of the user's own, the attributes of it that the code names."""
    if name not in namespace:
        return
    value = namespace[name]
    yield Found(name, "other", "", Name(namespace, name))
    if isinstance(value, types.ModuleType) and is_users(getattr(value, "__file__", None) or "<built-in>"):
        for attribute in sorted(_named_in(code) & vars(value).keys()):
            yield Found(f"{name}.{attribute}", "other", "", Name(vars(value), attribute))
    if isinstance(value, type) and _is_users_class(value):
        yield from _of_class(Found(name, "other", "", value))


def _named_in(code: types.CodeType) -> set[str]:
    """The names that `code` and the functions defined in it use."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*(_named_in(each) for each in inner))


def _of_bound(found: Found, seen) -> Iterator[Found]:
    yield Found(f"{found.path}.__self__", "other", "", found.value.__self__)
    yield Found(found.path, "other", "", found.value.__func__)


def _of_partial(found: Found, seen) -> Iterator[Found]:
    for part in (found.value.func, found.value.args, found.value.keywords):
        yield Found(found.path, "other", "", part)


def _of_object(found: Found, seen) -> Iterator[Found]:
    """Attributes, slots, and what the methods of its class name."""
    value, dot = found.value, f"{found.path}."
    for name, attribute in list(getattr(value, "__dict__", {}).items()):
        yield Found(dot + name, "other", found.owner, attribute)
    for name in slots(type(value)):
        yield Found(dot + name, "other", found.owner, getattr(value, name, None))
    for cls in type(value).__mro__:
        if _is_users_class(cls):
            yield from _of_class(Found(cls.__name__, "other", "", cls))


def _of_class(found: Found) -> Iterator[Found]:
    """What the methods of a class of the user's own name, and its attributes."""
    for name, value in list(vars(found.value).items()):
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        if isinstance(value, types.FunctionType):
            yield Found(f"{found.path}.{name}", "other", "", value)
        elif not name.startswith("__") and not hasattr(type(value), "__get__"):
            yield Found(f"{found.path}.{name}", "other", "", Name(found.value, name))


def slots(cls: type) -> Iterator[str]:
    """The names of `__slots__` of the user's own classes among the bases of `cls`."""
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
    """A module's file; an interactive session has none, and neither have modules written in C."""
    return getattr(module, "__file__", None) or ("<stdin>" if module.__name__ == "__main__" else "")
