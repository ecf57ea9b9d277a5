"""The options of a step, validated once. Each is a dataclass field that carries its own check."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..diagnostics import errors, where
from .lowerings import LOWERINGS


@dataclass(frozen=True, kw_only=True)
class OptionSpec:
    """The metadata of an option's field.

    accepts: whether a value is valid.
    wanted: the valid values, in words.
    is_later: whether a valid value is not available yet.
    instead: what to use until it is.
    compiled_in: whether captures depend on the value, so that a new value captures the step anew.
    """

    accepts: Callable[[Any], bool] = lambda value: True
    wanted: str | Callable[[], str] = ""
    is_later: Callable[[Any], bool] = lambda value: False
    instead: str = ""
    compiled_in: bool = False


def option(default: Any, **spec: Any) -> Any:
    """A field of ``Options``; the keywords are those of ``OptionSpec``."""
    return dataclasses.field(default=default, metadata={"spec": OptionSpec(**spec)})


def choice(default: str, names: Collection[str], **spec: Any) -> Any:
    """An option that is one of ``names``."""

    def wanted() -> str:
        return " or ".join(f'"{name}"' for name in names)

    return option(default, accepts=lambda value: value in tuple(names), wanted=wanted, **spec)


def is_given(value: object) -> bool:
    """Whether a value is given."""
    return value is not None


def is_positive(value: object) -> bool:
    """Whether ``value`` is an int above zero (True does not count)."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_folder(value: object) -> bool:
    """Whether ``value`` can name a folder."""
    return isinstance(value, (str, bytes)) or hasattr(value, "__fspath__")


@dataclass(frozen=True)
class Options:
    """How a step is split. Exactly one of ``steps`` and ``micro_batch_size`` is set.

    steps: the number of micro-batches; each has ceil(B / steps) samples, the last perhaps fewer. Loops over other rows
        (those that a mask selects) make as many, also of a batch of fewer samples.
    micro_batch_size: the number of samples in a micro-batch.
    batch_dims: which inputs are split and along which dim, like vmap's ``in_dims``: an int for all arguments, a
        tuple by position or a dict by argument name. An entry is an int, or None for an input that is not split,
        and may be nested like its argument. Arguments left out of a dict are inferred; so are all by default. Inputs
        of another size than the first are a batch of their own, which is split into as many micro-batches.
    accumulator_dtype: the dtype in which half-precision partial sums are accumulated over micro-batches, under
        either lowering; None means float32. The finished sum is rounded once, to its own dtype.
    strict: warnings, and gathers of whole activations, become errors.
    lowering: "inductor", or "eager" to run the program without a compiler.
    inductor: options passed through to Inductor.
    check: when compiled code is compared with the graph that it was compiled from: "first" (each once, on its
        first run), "never" or "always".
    dump: a folder in which to write the graph after every pass, the final program and the report.
    memory_budget, checkpoint, batch_norm, process_group: only the defaults are available so far.
    """

    steps: int | str | None = option(
        None,
        accepts=lambda v: v is None or v == "auto" or is_positive(v),
        wanted="a positive int",
        is_later=lambda v: v == "auto",
        instead="give a number of micro-batches, such as steps=8",
    )
    micro_batch_size: int | None = option(None, accepts=lambda v: v is None or is_positive(v), wanted="a positive int")
    batch_dims: Any = option(None, compiled_in=True)
    memory_budget: int | str | None = option(
        None,
        accepts=lambda v: v is None or is_positive(v) or isinstance(v, str),
        wanted='bytes, or a text such as "20GiB"',
        is_later=is_given,
        instead="choose steps or micro_batch_size by hand",
    )
    checkpoint: str = option(
        "none",
        accepts=lambda v: isinstance(v, str),
        wanted='"none"',
        is_later=lambda v: v != "none",
        instead="use torch.utils.checkpoint in the model; it is honoured",
    )
    accumulator_dtype: torch.dtype | None = option(
        None,
        accepts=lambda v: v in (None, torch.float32, torch.float64),
        wanted="None, torch.float32 or torch.float64",
        compiled_in=True,
    )
    batch_norm: str = choice(
        "exact",
        ("exact", "per_micro_batch"),
        is_later=lambda v: v == "per_micro_batch",
        instead='leave it at "exact"',
    )
    process_group: Any = option(None, is_later=is_given, instead="wrap the model in DDP or FSDP2 as usual")
    strict: bool = option(False, accepts=lambda v: isinstance(v, bool), wanted="True or False", compiled_in=True)
    lowering: str = choice("inductor", LOWERINGS, compiled_in=True)
    inductor: Mapping[str, Any] | None = option(
        None,
        accepts=lambda v: v is None or isinstance(v, Mapping),
        wanted="None or a dict of Inductor's options",
        compiled_in=True,
    )
    check: str = choice("first", ("first", "never", "always"))
    dump: str | None = option(
        None, accepts=lambda v: v is None or is_folder(v), wanted="None or a folder", compiled_in=True
    )

    def __post_init__(self) -> None:
        for name, spec in _specs().items():
            value = getattr(self, name)
            if not spec.accepts(value):
                wanted = spec.wanted() if callable(spec.wanted) else spec.wanted
                raise errors.error("AC001", where.users_line(), option=name, value=repr(value), wanted=wanted)
        for name, spec in _specs().items():
            value = getattr(self, name)
            if spec.is_later(value):
                raise errors.error("AC002", where.users_line(), option=name, value=repr(value), instead=spec.instead)
        if (self.steps is None) == (self.micro_batch_size is None):
            raise errors.error("AC004" if self.steps is not None else "AC005", where.users_line())

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Options from keywords; an unknown name is an error that lists the options."""
        for name in options:
            if name not in _specs():
                raise errors.error("AC006", where.users_line(), option=name, names=", ".join(_specs()))
        return cls(**options)

    @property
    def compiled_in(self) -> tuple[Any, ...]:
        """The values that captures depend on: when one changes, the step is captured anew."""
        return tuple([_held(getattr(self, name)) for name in _compiled_in()])  # runs at every call

    def rows(self, batch: int, granule: int = 1) -> int:
        """The number of samples in a micro-batch: a multiple of ``granule``, and at most the batch."""
        if self.micro_batch_size is not None:
            rows = self.micro_batch_size
        else:
            rows = -(-batch // int(self.steps or 1))
        return min(-(-rows // granule) * granule, batch)


@functools.cache
def _specs() -> dict[str, OptionSpec]:
    """Each option's ``OptionSpec``, by name."""
    return {field.name: field.metadata["spec"] for field in dataclasses.fields(Options)}


@functools.cache
def _compiled_in() -> list[str]:
    return [name for name, spec in _specs().items() if spec.compiled_in]


def _held(value: Any) -> Any:
    """A copy of a value that its owner may change in place."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {key: _held(item) for key, item in value.items()}
    return [_held(item) for item in value] if isinstance(value, (list, tuple)) else value
