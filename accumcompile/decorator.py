"""``@accumulate``: a training step written for one batch, called with the whole batch, run in micro-batches."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from . import backend
from .capture import batch as batches
from .capture import dynamo, frames
from .options import Options, Settings


class AccumulatedStep:
    """A training step that runs in micro-batches. Called like the step; ``steps`` may be set between calls."""

    def __init__(self, fn: Callable[..., Any], options: Options) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.settings = Settings(options, name=getattr(fn, "__qualname__", type(fn).__name__))
        self._signature = inspect.signature(fn)
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step on the whole batch, split."""
        batch = self._batch(args, kwargs)
        if batch.size == 1:
            return self.fn(*args, **kwargs)
        if self._compiled is None:
            self._compiled = dynamo.compiled(self.fn, backend.backend_of(self.settings))
        call = frames.Call(self.settings, batch.size, {id(leaf.tensor): leaf for leaf in batch.leaves})
        with ExitStack() as stack:
            stack.enter_context(frames.during(call))
            stack.callback(dynamo.end_retrace)
            stack.enter_context(dynamo.capture_settings())
            stack.enter_context(dynamo.marked((leaf.tensor, leaf.dim) for leaf in batch.split))
            return self._compiled(*args, **kwargs)

    def _batch(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> batches.Batch:
        named = batches.arguments(self._signature, args, kwargs)
        return batches.find(named, self.settings.options.batch_dims, self.settings.name)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Decorated methods: the step of an instance."""
        return self if instance is None else BoundStep(self, instance)

    def __repr__(self) -> str:
        options = self.settings.options
        how = f"steps={options.steps}" if options.steps is not None else f"micro_batch_size={options.micro_batch_size}"
        return f"<accumulated step {self.settings.name}, {how}>"

    @property
    def steps(self) -> int | str | None:
        """The number of micro-batches asked for; setting it clears ``micro_batch_size``."""
        return self.settings.options.steps

    @steps.setter
    def steps(self, value: int) -> None:
        self.settings.change(steps=value, micro_batch_size=None)

    @property
    def micro_batch_size(self) -> int | None:
        """The samples of a micro-batch asked for; setting it clears ``steps``."""
        return self.settings.options.micro_batch_size

    @micro_batch_size.setter
    def micro_batch_size(self, value: int) -> None:
        self.settings.change(micro_batch_size=value, steps=None)

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        """Run the step as ``accumcompile.explain`` does: a report, and nothing has changed afterwards."""
        import accumcompile

        return accumcompile.explain(self, *args, **kwargs)

    def verify(self, *args: Any, **kwargs: Any) -> Any:
        """Compare with the full batch, as ``accumcompile.verify`` does."""
        import accumcompile

        return accumcompile.verify(self, *args, **kwargs)


class BoundStep:
    """A decorated method of an instance: shares everything with the step but the first argument."""

    def __init__(self, step: AccumulatedStep, instance: object) -> None:
        object.__setattr__(self, "__func__", step)
        object.__setattr__(self, "__self__", instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def explain(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__.explain(self.__self__, *args, **kwargs)

    def verify(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__.verify(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__func__, name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundStep) and (self.__func__, self.__self__) == (other.__func__, other.__self__)

    def __hash__(self) -> int:
        return hash((self.__func__, id(self.__self__)))

    def __repr__(self) -> str:
        return f"<bound {self.__func__!r} of {self.__self__!r}>"


def accumulate(fn: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Decorate a training step: ``@accumulate(steps=8)`` or ``@accumulate(micro_batch_size=4)``.

    The options are the fields of ``Options``.
    """
    checked = Options.of(options)
    return AccumulatedStep(fn, checked) if fn is not None else lambda step: AccumulatedStep(step, checked)
