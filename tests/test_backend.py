"""The backend that torch.compile finds by name: what it does without a decorator's help."""

import subprocess
import sys

import pytest
import small
import torch
from capturing import by_name, same, sgd
from expecttest import assert_expected_inline

from accumcompile import AccumulateError

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def compiled(step, **options):
    """The compiled step, and how its graphs are split in a call."""
    run, session = by_name(step, **{"steps": 4} | options)
    return run, lambda *args: small.runs(run, *args, session=session)


def test_found_by_name_without_an_import():
    program = "import torch._dynamo; assert 'accumcompile' in torch._dynamo.list_backends()"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_equals_the_full_batch_and_is_captured_once():
    model = small.net()
    ran = same(small.update, model, sgd(model), sizes=(12, 7, 12), by=by_name)
    assert ran.plans == 1
    assert [(run.split.batch, len(run.split)) for run in ran.runs] == [(12, 3), (7, 3), (12, 3)]


def test_a_batch_of_one_runs_whole_and_a_later_one_is_split():
    _, splits = compiled(small.plain)
    model = small.net()
    assert splits(model, *small.data(1)) == []
    assert splits(model, *small.data(12)) == [(12, 4)]


def test_dynamos_settings_are_put_back():
    before = torch._dynamo.config.get_config_copy()
    run, _ = compiled(small.plain)
    x, y = small.data(12)
    run(small.net(), x, y)
    assert torch._dynamo.config.get_config_copy() == before
    if torch.__version__ >= "2.13":  # before, AOTAutograd marked what a backward keeps, as we do
        assert not hasattr(x, "_dynamo_weak_dynamic_indices")


def test_frames_resumed_after_a_break_are_split():
    run, splits = compiled(small.broken)
    model, reference = small.net(), small.net()
    for batch in (12, 9):
        torch.testing.assert_close(run(model, *small.data(batch)), small.broken(reference, *small.data(batch)))
    assert {b for b, _ in splits(model, *small.data(12))} == {12}


def test_two_steps_keep_their_options_apart():
    _, two = compiled(small.plain, steps=2)
    _, six = compiled(small.plain, steps=6)
    model = small.net()
    for _ in range(2):
        assert two(model, *small.data(12)) == [(12, 2)]
        assert six(model, *small.data(12)) == [(12, 6)]


def test_options_are_checked():
    def said(**options):
        torch._dynamo.reset()
        with pytest.raises(AccumulateError) as caught:
            torch.compile(small.plain, backend="accumcompile", options=options)(small.net(), *small.data(12))
        return small.text(caught.value).splitlines()[0]

    assert_expected_inline(said(), """accumcompile AC005: neither steps nor micro_batch_size is given""")
    assert_expected_inline(said(steps=0), """accumcompile AC001: steps=0 is not a positive int""")
    assert_expected_inline(said(step=8), """accumcompile AC006: there is no option step""")
