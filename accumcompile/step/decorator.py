"""``@accumulate``: a training step is written for one batch and runs in micro-batches."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from types import MethodType
from typing import Any

from ..capture import safety
from ..capture.batch import arguments as batches
from ..capture.batch.candidates import ONE_SAMPLE, Candidates
from ..capture.dynamo import api as dynamo
from ..capture.dynamo import hooks as dynamo_hooks
from ..capture.dynamo import marks, optimizers, retrace
from ..capture.dynamo.thread_state import Call, during
from ..diagnostics import errors, where
from ..report import dump
from ..session.options import Options
from ..session.session import Session
from . import backend


class AccumulatedStep:
    """A training step that runs in micro-batches; ``steps`` may be set between calls."""

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.session = Session(options, name=where.named(getattr(fn, "__qualname__", type(fn).__name__)))
        self._signature = inspect.signature(fn)
        self._compiled_for = options.compiled_in
        self.session.frame = where.of_code(code) if (code := getattr(fn, "__code__", None)) else None

    @dynamo.untraced
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step on the whole batch, in micro-batches."""
        named = batches.arguments(self._signature, args, kwargs)
        batch = batches.find(named, self.session.options.batch_dims, self.session)
        if batch.size == 1:  # one sample cannot be split, and Dynamo would make its size a constant
            self.session.note(ONE_SAMPLE)
            self._remember_choice(batch)
            return self.fn(*args, **kwargs)
        mode = dynamo.dispatch_mode()
        if mode is not None:
            raise errors.error("AC022", where.users_line(), mode=mode)
        self._forget_other_options()
        return self._run(Call(self.session, batch, named, self._run_closure), args, kwargs)

    def _forget_other_options(self) -> None:
        """Capture anew if options or the batch have changed: Dynamo keys captures by backend, so a new one is made."""
        now, candidates = self.session.options.compiled_in, self.session.part(Candidates)
        if now != self._compiled_for or candidates.stale:
            self._compiled_for, candidates.stale = now, False
            for name in ("_backend", "_compiled", "_run_closure"):
                self.__dict__.pop(name, None)

    @cached_property
    def _backend(self) -> Callable[..., Any]:
        return backend.backend_of(self.session)

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        return dynamo.compiled(self.fn, self._backend)

    @cached_property
    def _run_closure(self) -> Callable[..., Any]:
        return dynamo.compiled(dynamo.call_closure, self._backend)

    def _run(self, call: Call, args: Any, kwargs: Any) -> Any:
        """Call the compiled step with marks, settings and hooks in place, and take them away again."""
        with ExitStack() as stack:
            stack.enter_context(during(call))
            stack.callback(retrace.end_left_retrace)
            stack.enter_context(dynamo.capture_settings())
            stack.enter_context(dump.reported(self.session))
            stack.enter_context(marks.marked(call.batch_of_call.split))
            stack.enter_context(call.marks)
            stack.enter_context(dynamo_hooks.in_place())
            net = safety.Net.of(call, self.fn)
            result = optimizers.call_compiled(self._compiled, args, kwargs)
            net.finish(result)
        self._remember_choice(call.batch_of_call)
        return result

    def _remember_choice(self, batch: batches.CallBatch) -> None:
        self.session.choice = batch.choice(self.session.part(Candidates))

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Bind a decorated method to its instance."""
        return self if instance is None else BoundStep(self, instance)

    def __reduce__(self) -> Any:
        """Pickle by name, as for functions, if the function's name refers to this step; captures are not pickled."""
        name = getattr(self.fn, "__qualname__", "")
        return name if _named(self.fn, name) is self else (AccumulatedStep, (self.fn, self.session.options))

    def __repr__(self) -> str:
        options = self.session.options
        how = f"steps={options.steps}" if options.steps is not None else f"micro_batch_size={options.micro_batch_size}"
        return f"<accumulated step {self.session.name}, {how}>"

    @property
    def steps(self) -> int | str | None:
        """The number of micro-batches asked for; setting it clears ``micro_batch_size``."""
        return self.session.options.steps

    @steps.setter
    def steps(self, value: int) -> None:
        self.session.change(steps=value, micro_batch_size=None)

    @property
    def micro_batch_size(self) -> int | None:
        """The number of samples in a micro-batch asked for; setting it clears ``steps``."""
        return self.session.options.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, value: int) -> None:
        self.session.change(micro_batch_size=value, steps=None)

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step once and report how it was split, as ``accumcompile.explain`` does; all state is restored."""
        from .explain import explain  # late: most steps never need it

        return explain(self, *args, **kwargs)

    def verify(self, *args: Any, **kwargs: Any) -> Any:
        """Compare with the full batch, as ``accumcompile.verify`` does; all state is restored."""
        from ..verify.verify import verify

        return verify(self, *args, **kwargs)


class BoundStep:
    """A decorated method bound to an instance; it shares all state with the step."""

    def __init__(self, step: AccumulatedStep, instance: object) -> None:
        object.__setattr__(self, "__func__", step)
        object.__setattr__(self, "__self__", instance)

    @property
    def fn(self) -> Callable[..., Any]:
        """The plain method."""
        return MethodType(self.__func__.fn, self.__self__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        """Report how one call on this instance is split; all state is restored."""
        return self.__func__.explain(self.__self__, *args, **kwargs)

    def verify(self, *args: Any, **kwargs: Any) -> Any:
        """Compare one call on this instance with the full batch; all state is restored."""
        return self.__func__.verify(self.__self__, *args, **kwargs)

    def __reduce__(self) -> Any:
        return BoundStep, (self.__func__, self.__self__)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__func__, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundStep) and (self.__func__, self.__self__) == (
            other.__func__,
            other.__self__,
        )

    def __hash__(self) -> int:
        return hash((self.__func__, id(self.__self__)))

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"


def _named(fn: Callable[..., Any], name: str) -> Any:
    """The object with this qualified name in the module of ``fn``, or None."""
    value: Any = sys.modules.get(getattr(fn, "__module__", ""))
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def accumulate(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Decorate a training step: ``@accumulate(steps=8)`` or ``@accumulate(micro_batch_size=4)``.

    The options are the fields of ``Options``.
    """
    checked = Options.of(options)
    return AccumulatedStep(fn, checked) if fn is not None else lambda step: AccumulatedStep(step, checked)
