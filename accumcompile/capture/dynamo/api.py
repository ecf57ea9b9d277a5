"""What the rest of the compiler needs of Dynamo's private names. Checked in torch 2.11, 2.13 and 2.15.

Capture settings and marks are undone after every call, so the user's own compiled functions never see them.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import sympy
import torch
from torch import fx
from torch._dynamo import config, eval_frame
from torch._guards import TracingContext
from torch.utils import _python_dispatch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...diagnostics import where
from ...ir.operands import outputs

# Dynamo's settings while we capture. (capture_settings also adds to ignore_logging_functions.)
CAPTURE: dict[str, Any] = {
    "allow_rnn": True,
    "allow_unspec_int_on_nn_module": True,
    "capture_dynamic_output_shape_ops": True,
    "optimize_ddp": False,
}

# Suffixes of methods that libraries add to logging.Logger, to log something once. They would break the graph.
_SAID_ONCE = ("_once", "_advice")


def patcher(changes: Mapping[str, Any]) -> Callable[[], Callable[[], None]]:
    """A function that makes those of ``changes`` that this torch knows, and returns one that undoes them."""
    return config._make_closure_patcher(**{name: value for name, value in changes.items() if hasattr(config, name)})


@functools.lru_cache(8)
def _capture_patcher(ignored: frozenset[Callable[..., Any]]) -> Callable[[], Callable[[], None]]:
    return patcher(CAPTURE | {"ignore_logging_functions": set(ignored)})


def _said_once() -> set[Callable[..., Any]]:
    """The methods of Logger that log something once."""
    return {v for k, v in vars(logging.Logger).items() if k.endswith(_SAID_ONCE) and callable(v)}


@contextmanager
def capture_settings() -> Iterator[None]:
    """Dynamo's settings for the capture of a step."""
    ignored = _said_once() | config.ignore_logging_functions
    put_back = _capture_patcher(frozenset(ignored))()
    try:
        yield
    finally:
        put_back()


def ours(backend: Callable[..., Any]) -> Callable[..., Any]:
    """``backend``, marked as ours."""
    backend._is_accumcompile = True  # type: ignore[attr-defined]
    return backend


def is_ours(backend: Any) -> bool:
    """Whether a backend, or the backend inside a Dynamo callback, is ours."""
    while inner := getattr(backend, "_torchdynamo_orig_backend", getattr(backend, "compiler_fn", None)):
        backend = inner
    return getattr(backend, "_is_accumcompile", False)


def compiled(fn: Callable[..., Any], backend: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile(fn, backend=backend)``, its recompilations counted separately from others of ``fn``."""
    if "isolate_recompiles" not in inspect.signature(torch.compile).parameters:
        return torch.compile(_with_own_code(fn), backend=backend)
    extra: dict[str, Any] = {"isolate_recompiles": True}
    return torch.compile(fn, backend=backend, **extra)


def _with_own_code(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function that does the same: Dynamo counts by the code object, which a factory's functions share."""
    if not isinstance(fn, FunctionType) or fn is call_closure:  # whose code is skipped
        return fn
    copy = FunctionType(fn.__code__.replace(), fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    copy.__kwdefaults__ = fn.__kwdefaults__
    return functools.update_wrapper(copy, fn)


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether the user compiled a module: ``torch.compile(module)`` or ``module.compile()``."""
    return isinstance(module, eval_frame.OptimizedModule) or module._compiled_call_impl is not None


def is_tracing() -> bool:
    """Whether a graph is being traced now, during which AOTAutograd also runs backwards."""
    return TracingContext.try_get() is not None


def dispatch_mode() -> str | None:
    """The name of an active TorchDispatchMode under which Dynamo captures nothing."""
    for mode in reversed(_python_dispatch._get_current_dispatch_mode_stack()):
        if not mode.is_infra_mode() and not mode.ignore_compile_internals():
            return type(mode).__name__
    return None


def untraced(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``fn``, which Dynamo never traces, for any backend."""
    return torch._dynamo.disable(fn, reason="accumcompile captures the step itself")


def call_closure(closure: Callable[[], Any]) -> Any:
    """Call a closure. Dynamo skips this frame, so that it captures the closure as a frame of its own."""
    return closure()


CLOSURE_CODE = call_closure.__code__
eval_frame.skip_code(CLOSURE_CODE)


# A graph's inputs


@dataclass(frozen=True, eq=False)
class Input:
    """One input of a graph: its source, its real value at capture, and Dynamo's fake of it."""

    node: fx.Node
    source: Any
    value: Any
    fake: Any

    @property
    def name(self) -> str:
        """The input as Dynamo writes it: ``L['batch']['input_ids']``."""
        return source_name(self.source)

    def size(self, dim: int) -> int | torch.SymInt:
        """The size of a dim in the graph: a SymInt where it may vary."""
        return self.fake.shape[dim]


def source_name(source: Any) -> str:
    """A source's expression. (A property since torch 2.10, a method before.)"""
    name = getattr(source, "name", "")
    return name() if callable(name) else str(name)


def inputs(gm: fx.GraphModule) -> list[Input]:
    """The inputs of a graph from Dynamo, in order."""
    given = []
    for node in gm.graph.find_nodes(op="placeholder"):
        graph_arg = node.meta.get("grapharg")
        if graph_arg is not None:
            given.append(Input(node, graph_arg.source, graph_arg.example, node.meta.get("example_value")))
    return given


def makes_tensors(gm: fx.GraphModule) -> bool:
    """Whether anything is computed but numbers, such as the size that is passed on to ``torch.manual_seed``."""
    return any(True for node in gm.graph.nodes for _ in tensors_made(node))


def tensors_made(node: fx.Node) -> Iterator[torch.Tensor]:
    """The tensors that a node makes."""
    if node.op in ("call_function", "call_method", "call_module"):
        values = pytree.tree_leaves(node.meta.get("example_value"))
        yield from (value for value in values if isinstance(value, torch.Tensor))


def differentiable_outputs(gm: fx.GraphModule) -> list[fx.Node]:
    """The outputs that a backward may start from."""
    return [o for o in dict.fromkeys(outputs(gm)) if isinstance(o, fx.Node) and _requires_grad(o)]


def _requires_grad(node: fx.Node) -> bool:
    value = node.meta.get("example_value")
    return isinstance(value, torch.Tensor) and value.requires_grad and node.op != "placeholder"


def _chain(source: Any) -> Iterator[Any]:
    while source is not None:
        yield source
        source = getattr(source, "base", None)


# Names of source classes: what a module, an optimizer or a gradient owns is never the batch.
_OWNED = {
    "GradSource",
    "GlobalWeakRefSource",
    "OptimizerSource",
    "ParamBufferSource",
    "UnspecializedParamBufferSource",
    "NNModuleSource",
    "UnspecializedNNModuleSource",
    "UnspecializedBuiltinNNModuleSource",
    "FSDPNNModuleSource",
}
_OWNED_MEMBERS = {"_parameters", "_buffers", "_modules", "param_groups", "state", "grad"}


def is_owned(source: Any) -> bool:
    """Whether the source belongs to a module or an optimizer, or is a gradient: it cannot be the batch."""
    return any(type(s).__name__ in _OWNED or getattr(s, "member", None) in _OWNED_MEMBERS for s in _chain(source))


def differentiates(graph: fx.Graph) -> bool:
    """Whether the graph computes a derivative itself: by a reverse-mode transform, or by ``autograd.grad``.

    Dynamo traces the latter, and backward() as the latter, if the user sets its ``trace_autograd_ops``.
    """
    return any(
        node.target is torch.autograd.grad or "grad_increment_nesting" in getattr(node.target, "__name__", "")
        for node in graph.nodes
    )


def lines_of_transforms(gm: fx.GraphModule) -> list[where.Frame]:
    """The user's lines that call torch.func's vmap, jvp and the like."""
    begins = (n for n in gm.graph.nodes if getattr(n.target, "__name__", "").endswith("_increment_nesting"))
    frames = (where.user_frame(n.meta.get("stack_trace")) for n in begins)
    return list(dict.fromkeys(frame for frame in frames if frame is not None))


def subclass_in(gm: fx.GraphModule) -> tuple[str, where.Frame | None] | None:
    """The first value of a wrapper subclass, such as a DTensor: its class, and the line that uses it."""
    for node in gm.graph.nodes:
        value = node.meta.get("example_value")
        if is_traceable_wrapper_subclass(value):
            traces = [n.meta.get("stack_trace") for n in (node, *node.users)]
            return type(value).__name__, next(filter(None, map(where.user_frame, traces)), None)
    return None


def taking_plain(run: Callable[..., Any], gm: fx.GraphModule) -> Callable[..., Any]:
    """``run``, with inputs of a tensor subclass (an image, a mask) passed as the plain tensors that were traced."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    named = {given.node for given in inputs(gm) if isinstance(given.value, torch.Tensor) and not _is_plain(given.value)}
    positions = [i for i, node in enumerate(placeholders) if node in named]
    if not positions:
        return run

    def runs(*args: Any) -> Any:
        plain = list(args)
        for i in positions:
            plain[i] = plain[i].as_subclass(torch.Tensor)
        return run(*plain)

    return runs


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


def is_argument(source: Any) -> bool:
    """Whether the source is, or is held by, an argument of the function that Dynamo captures."""
    *_, root = _chain(source)
    return getattr(root, "is_input", False)


def line_that_fixed(gm: fx.GraphModule, given: Input, dim: int) -> where.Frame | None:
    """The user's line that made the size of ``dim`` a constant, from the guards of the capture.

    A size found equal to another becomes a constant when the other does. After that no guard names either: the last
    guard that does is the cause, and those before it are harmless comparisons.
    """
    env = given.fake.fake_mode.shape_env
    name = f"{given.name}.size()[{dim}]"
    symbols = {s for s, sources in env.var_to_sources.items() if any(source_name(x) == name for x in sources)}
    last = None
    for guard in env.guards:
        if symbols & guard.expr.free_symbols:
            last = guard
            symbols |= guard.expr.free_symbols if isinstance(guard.expr, sympy.Eq) else set()
    return where.of_comment(str(last.sloc.maybe_user_loc or "")) if last is not None else None
