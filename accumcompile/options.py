"""What a user may ask for, validated once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from . import errors, where

LOWERINGS = ("inductor", "eager")
CHECKED = ("first", "never", "always")
CHECKPOINTS = ("none",)
BATCH_NORMS = ("exact", "per_micro_batch")
ACCUMULATOR_DTYPES = (None, torch.float32, torch.float64)


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

    steps: int | str | None = None
    micro_batch_size: int | None = None
    batch_dims: Any = None
    memory_budget: int | str | None = None
    checkpoint: str = "none"
    accumulator_dtype: torch.dtype | None = None
    batch_norm: str = "exact"
    process_group: Any = None
    strict: bool = False
    lowering: str = "inductor"
    inductor: Mapping[str, Any] | None = None
    check: str = "first"
    dump: str | None = None

    def __post_init__(self) -> None:
        for name, accepts, wanted in CHECKS:
            value = getattr(self, name)
            if not accepts(value):
                raise errors.error("AC001", where.here(), option=name, value=repr(value), wanted=wanted)
        for name, is_later, instead in LATER:
            value = getattr(self, name)
            if is_later(value):
                raise errors.error("AC002", where.here(), option=name, value=repr(value), instead=instead)
        if (self.steps is None) == (self.micro_batch_size is None):
            raise errors.error("AC004" if self.steps is not None else "AC005", where.here())

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Options from keywords; a name that is none of ours is an error that lists ours."""
        names = [f.name for f in dataclasses.fields(cls)]
        for name in options:
            if name not in names:
                raise errors.error("AC006", where.here(), option=name, names=", ".join(names))
        return cls(**options)

    @property
    def compiled_in(self) -> tuple[Any, ...]:
        """What a captured step was compiled for: where that changes, it is captured anew."""
        return (
            self.lowering,
            dict(self.inductor or {}),
            self.batch_dims,
            self.accumulator_dtype,
            self.strict,
            self.dump,
        )

    def rows(self, batch: int, granule: int = 1) -> int:
        """The samples of a micro-batch: a multiple of ``granule``, and at most the batch."""
        if self.micro_batch_size is not None:
            rows = self.micro_batch_size
        else:
            rows = -(-batch // int(self.steps or 1))
        return min(-(-rows // granule) * granule, batch)


def is_positive(value: object) -> bool:
    """Whether ``value`` is an int above zero (True is no int here)."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _one_of(*values: object) -> Callable[[object], bool]:
    return lambda value: any(value is v or value == v for v in values)


# (option, what it accepts, the words for it), checked in this order.
CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("steps", lambda v: v is None or v == "auto" or is_positive(v), "a positive int"),
    ("micro_batch_size", lambda v: v is None or is_positive(v), "a positive int"),
    (
        "memory_budget",
        lambda v: v is None or is_positive(v) or isinstance(v, str),
        'bytes, or a text such as "20GiB"',
    ),
    ("checkpoint", lambda v: isinstance(v, str), '"none"'),
    ("accumulator_dtype", _one_of(*ACCUMULATOR_DTYPES), "None, torch.float32 or torch.float64"),
    ("batch_norm", _one_of(*BATCH_NORMS), " or ".join(f'"{b}"' for b in BATCH_NORMS)),
    ("strict", lambda v: isinstance(v, bool), "True or False"),
    ("lowering", _one_of(*LOWERINGS), " or ".join(f'"{x}"' for x in LOWERINGS)),
    ("check", _one_of(*CHECKED), " or ".join(f'"{x}"' for x in CHECKED)),
    ("inductor", lambda v: v is None or isinstance(v, Mapping), "None or a dict of Inductor's options"),
    (
        "dump",
        lambda v: v is None or isinstance(v, (str, bytes)) or hasattr(v, "__fspath__"),
        "None or a folder",
    ),
)

# (option, whether a value belongs to later work, what to write instead).
LATER: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("steps", lambda v: v == "auto", "give a number of micro-batches, such as steps=8"),
    ("memory_budget", lambda v: v is not None, "choose steps or micro_batch_size by hand"),
    ("checkpoint", lambda v: v not in CHECKPOINTS, "use torch.utils.checkpoint in the model; it is honoured"),
    ("batch_norm", lambda v: v == "per_micro_batch", 'leave it at "exact"'),
    ("process_group", lambda v: v is not None, "wrap the model in DDP or FSDP2 as usual"),
)
