"""Options: what is accepted, and what a rejection says."""

import re

import pytest
import small
import torch
from expecttest import assert_expected_inline

from accumcompile import AccumulateError, Options, accumulate


def said(**options) -> str:
    with pytest.raises(AccumulateError) as caught:
        accumulate(**options)
    return small.text(caught.value)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True, "8", [2]])
def test_steps_must_be_a_positive_int(steps):
    assert said(steps=steps).startswith(f"accumcompile AC001: steps={steps!r} is not a positive int")


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"micro_batch_size": 0}, "AC001"),
        ({"steps": 2, "lowering": "triton"}, "AC001"),
        ({"steps": 2, "strict": 1}, "AC001"),
        ({"steps": 2, "accumulator_dtype": torch.bfloat16}, "AC001"),
        ({"steps": 2, "inductor": 3}, "AC001"),
        ({"steps": 2, "dump": 3}, "AC001"),
        ({"steps": 2, "micro_batch_size": 2}, "AC004"),
        ({}, "AC005"),
        ({"strict": True}, "AC005"),
        ({"steps": 2, "micro_batches": 2}, "AC006"),
    ],
)
def test_rejected(options, code):
    with pytest.raises(AccumulateError) as caught:
        Options.of(options)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "options",
    [
        {"steps": "auto"},
        {"steps": 2, "memory_budget": "20GiB"},
        {"steps": 2, "checkpoint": "full"},
        {"steps": 2, "batch_norm": "per_micro_batch"},
        {"steps": 2, "process_group": object()},
    ],
)
def test_later_work_says_so(options):
    with pytest.raises(AccumulateError, match="is not available yet") as caught:
        Options.of(options)
    assert caught.value.code == "AC002"


def test_every_option_is_explained():
    for name in Options.__dataclass_fields__:
        assert re.search(rf"^    (.*, )?{name}[,:]", Options.__doc__, re.MULTILINE), name


def test_accepted():
    options = Options.of(
        {
            "micro_batch_size": 4,
            "batch_dims": {"x": 1},
            "checkpoint": "none",
            "accumulator_dtype": torch.float64,
            "batch_norm": "exact",
            "strict": True,
            "lowering": "eager",
            "inductor": {"max_autotune": False},
            "dump": "folder",
        }
    )
    assert options.rows(12) == 4


@pytest.mark.parametrize(
    ("steps", "batch", "granule", "rows"),
    [
        (8, 9, 1, 2),
        (8, 64, 1, 8),
        (8, 3, 1, 1),
        (1, 7, 1, 7),
        (3, 12, 4, 4),
        (4, 12, 4, 4),
        (5, 12, 8, 8),
        (9, 6, 4, 4),
    ],
)
def test_rows(steps, batch, granule, rows):
    assert Options(steps=steps).rows(batch, granule) == rows


def test_micro_batch_size_is_at_most_the_batch():
    assert Options(micro_batch_size=16).rows(12) == 12


def test_setting_one_clears_the_other():
    step = accumulate(steps=8)(lambda x: x)
    assert (step.steps, step.micro_batch_size) == (8, None)
    step.micro_batch_size = 4
    assert (step.steps, step.micro_batch_size) == (None, 4)
    step.steps = 2
    assert (step.steps, step.micro_batch_size) == (2, None)
    with pytest.raises(AccumulateError, match="AC001"):
        step.steps = 0
    assert step.steps == 2


def test_texts():
    assert_expected_inline(
        said(steps=0),
        """\
accumcompile AC001: steps=0 is not a positive int
  test_options.py:N in said
      accumulate(**options)
  fix   give a positive int""",
    )
    assert_expected_inline(
        said(steps=2, micro_batch_size=2),
        """\
accumcompile AC004: steps and micro_batch_size are both given
  test_options.py:N in said
      accumulate(**options)
  why   each of them decides the size of a micro-batch
  fix   give one of them""",
    )
    assert_expected_inline(
        said(),
        """\
accumcompile AC005: neither steps nor micro_batch_size is given
  test_options.py:N in said
      accumulate(**options)
  fix   give one of them, such as steps=8""",
    )
    assert_expected_inline(
        said(steps="auto"),
        """\
accumcompile AC002: steps='auto' is not available yet
  test_options.py:N in said
      accumulate(**options)
  fix   give a number of micro-batches, such as steps=8""",
    )
    assert_expected_inline(
        said(step=2).partition(" are ")[0],
        """\
accumcompile AC006: there is no option step
  test_options.py:N in said
      accumulate(**options)
  why   the options""",
    )
