"""Python lists from outside a step: appended to, or made into a tensor, without tracing their items.

Dynamo traces a list item by item, guards on its length and on the items that are read, and writes all of it back: a
step that keeps a history, or is called with a list of labels, would be captured again at each call.

``self.history.append(loss)``: the list is not traced, and the append is called after the graph has run, by the
mechanism with which Dynamo calls ``tensor.register_hook`` then. If a frame reads the list after all, it is traced again
in Dynamo's own way. ``torch.tensor(labels)``: the graph breaks there, and the tensor is an input of the next one. So do
``torch.stack(samples)`` and its kind, where the batch is a list of one tensor for each sample.

Checked in torch 2.13.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import BuiltinMethodType
from typing import Any, ClassVar

import torch
from torch._dynamo.exc import unimplemented
from torch._dynamo.guards import GuardBuilder
from torch._dynamo.output_graph import OutputGraph
from torch._dynamo.source import AttrSource
from torch._dynamo.symbolic_convert import InstructionTranslatorBase
from torch._dynamo.variables import ConstantVariable
from torch._dynamo.variables.base import ValueMutationNew, VariableTracker
from torch._dynamo.variables.builder import VariableBuilder
from torch._dynamo.variables.lazy import LazyVariableTracker
from torch._dynamo.variables.misc import GetAttrVariable
from torch._dynamo.variables.user_defined import RemovableHandleVariable

from . import replacements, retrace, thread_state
from .break_reasons import LIST
from .thread_state import Call, here

LISTS = (list, deque)
PLAIN = (int, float, bool, str)
JOINERS = (torch.stack, torch.cat, torch.concat, torch.vstack, torch.nn.utils.rnn.pad_sequence)
CONSTRUCTORS = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor, torch.LongTensor, torch.FloatTensor)


class _Append(GetAttrVariable):
    """``values.append``, of a list whose items Dynamo has not traced."""

    # With the list among them, a graph break does not visit it, and so does not trace its items.
    _nonvar_fields: ClassVar = {"obj", *GetAttrVariable._nonvar_fields}  # type: ignore[misc]

    def call_function(self, tx: Any, args: list, kwargs: dict) -> Any:
        if len(args) != 1 or kwargs:
            return self.obj.realize().call_method(tx, self.name, args, kwargs)
        effects = tx.output.side_effects
        handle = RemovableHandleVariable(mutation_type=ValueMutationNew())
        handle.idx = max(effects.tensor_hooks, default=0) + 1
        effects.tensor_hooks[handle.idx] = self.obj, args[0], handle, self.name
        return ConstantVariable.create(None)


@replacements.replaces(InstructionTranslatorBase, "_load_attr")
def _load_attr(load: Callable[[Any, str], None], tx: Any, name: str) -> None:
    """The instruction that loads an attribute of the value on the stack."""
    values = tx.stack[-1]
    if (
        name == "append"
        and thread_state.is_tracing_for_us()
        and _is_unseen(tx, values, LISTS)
        and not retrace.reads_lists()
    ):
        tx.pop()
        tx.push(_Append(values, name, source=AttrSource(values.source, name)))
    else:
        load(tx, name)


def _is_unseen(tx: Any, value: Any, types: tuple[type, ...]) -> bool:
    """Whether a value is a list from outside the frame whose items have not been traced."""
    if type(value) is not LazyVariableTracker or value.is_realized() or value.peek_type() not in types:
        return False
    outermost = tx.output.current_tracer is tx.output.root_tracer
    return outermost and value.source is not None and value.peek_value() not in tx.output.side_effects


@replacements.replaces(InstructionTranslatorBase, "call_function")
def _call_function(call: Callable[..., None], tx: Any, fn: Any, args: list, kwargs: dict[str, Any]) -> None:
    """Break the graph where a list of one value, or one tensor, per sample becomes a tensor."""
    ours = here.call
    if ours is not None and thread_state.is_tracing_for_us() and _becomes_tensor(tx, fn, args, ours):
        unimplemented(gb_type=LIST, context="", explanation=LIST, hints=[])
    call(tx, fn, args, kwargs)


@replacements.replaces(VariableBuilder, "_wrap")
def _wrap(wrap: Callable[[Any, Any], Any], builder: Any, value: Any) -> Any:
    """Keep Dynamo from tracing the items of some lists; retrace if a list that is appended to is read."""
    if not thread_state.is_tracing_for_us():
        return wrap(builder, value)
    if variable := _restored(builder, value) or _of_method(builder, value):
        return variable
    if _is_appended_to(builder.tx, value):
        retrace.read_lists()
    return wrap(builder, value)


def _of_method(builder: Any, value: Any) -> Any:
    """``values.append`` that enters a frame as a bound method, from before a graph break; None for anything else."""
    if type(value) is not BuiltinMethodType or value.__name__ != "append" or type(value.__self__) not in LISTS:
        return None
    if value.__self__ in builder.tx.output.side_effects or retrace.reads_lists():
        return None
    builder.install_guards(GuardBuilder.TYPE_MATCH)
    values = LazyVariableTracker.create(value.__self__, AttrSource(builder.source, "__self__"), tx=builder.tx)
    return _Append(values, "append", source=builder.source)


class _Restored(VariableTracker):
    """A list that crosses a graph break: loaded from its source again, without tracing its items."""

    def reconstruct(self, codegen: Any) -> None:
        codegen(self.source)


def _restored(builder: Any, value: Any) -> Any:
    """A list at a graph break, of plain values or appended to; None for anything else."""
    plain = type(value) in (list, tuple) and all(type(v) in PLAIN for v in value)
    if (plain or _is_appended_to(builder.tx, value)) and _is_at_break():
        return _Restored(source=builder.source)
    return None


def _is_at_break() -> bool:
    """Whether Dynamo wraps a value only to restore it after a graph break."""
    caller: Any = sys._getframe(2)
    while caller is not None and caller.f_code is not OutputGraph.compile_subgraph.__code__:
        if caller.f_code is InstructionTranslatorBase.step.__code__:
            return False
        caller = caller.f_back
    return caller is not None


def _makes_tensor(tx: Any, fn: Any, args: list, rows: int) -> bool:
    """Whether a call makes a tensor from an untraced list of ``rows`` values: one per sample."""
    if getattr(fn, "value", None) not in CONSTRUCTORS or not args or not _is_unseen(tx, args[0], (list, tuple)):
        return False
    values = args[0].peek_value()
    return len(values) == rows and type(values[0]) in (int, float, bool, list, tuple)


def _becomes_tensor(tx: Any, fn: Any, args: list, call: Call) -> bool:
    """Whether a call makes one tensor of a list that has an item for each sample."""
    if _makes_tensor(tx, fn, args, call.batch):
        return True
    return call.batch_of_call.is_listed and _joins(fn, args, call.batch)


def _joins(fn: Any, args: list, rows: int) -> bool:
    """Whether a call joins ``rows`` tensors of data: one per sample."""
    if getattr(fn, "value", getattr(fn, "fn", None)) not in JOINERS or not args:
        return False
    if type(args[0]) is LazyVariableTracker and not args[0].is_realized():
        values = args[0].peek_value()
        return type(values) in (list, tuple) and len(values) == rows and not any(map(_requires_grad, values))
    items = getattr(args[0], "items", None)
    return isinstance(items, list) and len(items) == rows and not any(map(_requires_grad, items))


def _requires_grad(value: Any) -> bool:
    return bool(getattr(value, "requires_grad", False))


def _is_appended_to(tx: Any, value: Any) -> bool:
    hooks = tx.output.side_effects.tensor_hooks.values() if type(value) in LISTS else ()
    return any(name == "append" and appended.peek_value() is value for appended, *_, name in hooks)
