"""What a user may ask for, validated once. An option is a field, which carries its own check."""

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
    """What an option's field carries.

    accepts: whether a value is one that the option can have.
    wanted: such values in words.
    is_later: whether a value belongs to later work.
    instead: what to write until then.
    compiled_in: whether a captured step is made for the value, and captured anew where that changes.
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
    """Whether there is a value at all."""
    return value is not None


def is_positive(value: object) -> bool:
    """Whether ``value`` is an int above zero (True is no int here)."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def is_folder(value: object) -> bool:
    """Whether ``value`` names a folder."""
    return isinstance(value, (str, bytes)) or hasattr(value, "__fspath__")


@dataclass(frozen=True)
class Options:
    """How a step is split. Exactly one of ``steps`` and ``micro_batch_size`` is set.

    steps: how many micro-batches; each has ceil(B / steps) samples.
    micro_batch_size: how many samples in a micro-batch.
    batch_dims: which inputs are split and along which dim, like vmap's ``in_dims``: an int or None, a tuple
        of them by position or a dict of them by argument name, each of which may be nested like its argument.
        Arguments left out of a dict are inferred; so are all if nothing is given.
    accumulator_dtype: the dtype in which the micro-batches' parts of half-precision sums are added, under either
        lowering; None means float32. The finished sum is rounded to its own dtype once.
    strict: warnings, and gathers of whole activations, become errors.
    lowering: "inductor", or "eager" for the program as it stands, without a compiler.
    inductor: Inductor's own options, passed through.
    check: when compiled code is compared with the graph that it was made of: "first" (each once, when it first
        runs), "never" or "always".
    dump: a folder for the graph after every pass, the final program and the report.
    memory_budget, checkpoint, batch_norm, process_group: not available yet beyond their defaults.
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
        """Options from keywords; a name that is none of ours is an error that lists ours."""
        for name in options:
            if name not in _specs():
                raise errors.error("AC006", where.users_line(), option=name, names=", ".join(_specs()))
        return cls(**options)

    @property
    def compiled_in(self) -> tuple[Any, ...]:
        """What a captured step was compiled for: where that changes, it is captured anew."""
        return tuple([_held(getattr(self, name)) for name in _compiled_in()])  # at every call

    def rows(self, batch: int, granule: int = 1) -> int:
        """The samples of a micro-batch: a multiple of ``granule``, and at most the batch."""
        if self.micro_batch_size is not None:
            rows = self.micro_batch_size
        else:
            rows = -(-batch // int(self.steps or 1))
        return min(-(-rows // granule) * granule, batch)


@functools.cache
def _specs() -> dict[str, OptionSpec]:
    """What each option's field carries, by the option's name."""
    return {field.name: field.metadata["spec"] for field in dataclasses.fields(Options)}


@functools.cache
def _compiled_in() -> list[str]:
    return [name for name, spec in _specs().items() if spec.compiled_in]


def _held(value: Any) -> Any:
    """A value whose owner may change it in place, as it is now."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {key: _held(item) for key, item in value.items()}
    return [_held(item) for item in value] if isinstance(value, (list, tuple)) else value
