"""The backend that torch.compile finds by name: what it does without a decorator's help."""

import subprocess
import sys

import pytest
import small
import torch
from expecttest import assert_expected_inline
from torch import nn
from torch.nn import functional as F

from accumcompile import AccumulateError
from accumcompile import backend as backends


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def train(model, optimizer, x, y):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def compiled(step, **options):
    """The compiled step, and how its graphs were split in a call."""
    given = {"steps": 4, "lowering": "eager"} | options
    run = torch.compile(step, backend="accumcompile", options=given)
    settings = backends.settings_of(given)

    def splits(*args):
        with settings.journal.recording() as recorded:
            run(*args)
        return [(r.split.batch, len(r.split)) for r in recorded]

    return run, splits


def test_found_by_name_without_an_import():
    program = "import torch._dynamo; assert 'accumcompile' in torch._dynamo.list_backends()"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_equals_the_full_batch_and_is_captured_once():
    run, splits = compiled(train)
    ours, plain = small.net(), small.net()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, plain)]
    for batch in (12, 7, 12):
        x, y = small.data(batch)
        assert_close = torch.testing.assert_close
        assert_close(
            run(ours, optimizers[0], x, y), train(plain, optimizers[1], x, y), rtol=1e-10, atol=1e-10
        )
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert splits(ours, optimizers[0], *small.data(9)) == [(9, 3)]


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
    assert not hasattr(x, "_dynamo_weak_dynamic_indices")


def test_frames_resumed_after_a_break_are_split():
    def step(model, x, y):
        rows = x.shape[0]
        hidden = model.first(x)
        torch._dynamo.graph_break()
        loss = F.cross_entropy(model.second(torch.relu(hidden).view(rows, -1)), y)
        loss.backward()
        return loss.detach()

    run, splits = compiled(step)
    model, reference = small.net(), small.net()
    for batch in (12, 9):
        torch.testing.assert_close(run(model, *small.data(batch)), step(reference, *small.data(batch)))
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
