"""A message names the line that is the cause, and advises on what is there."""

import logging
import warnings

import capturing
import pytest
import small
import torch
from expecttest import assert_expected_inline
from torch import nn
from torch.nn import functional as F

from accumcompile import AccumulateWarning

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
WIDTH = 512


def wide(rows=4096):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 3)).double()
    return model, torch.randn(rows, 256, dtype=torch.float64), torch.randint(0, 3, (rows,))


def sorted_first(model, x, y):
    ordered = x.sort(0)[0]
    out = model(ordered)
    return F.cross_entropy(out, y)


CAUSES = {
    sorted_first: "ordered = x.sort(0)[0]",
}


@pytest.mark.parametrize("loss_of", CAUSES, ids=lambda f: f.__name__)
def test_the_line_that_takes_the_batch_whole(loss_of):
    def step(model, x, y):
        loss = loss_of(model, x, y)
        loss.backward()
        return loss.detach()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small.eager(step, steps=8)(*wide())
    (text,) = [w.message for w in caught if getattr(w.message, "code", "") == "AC035"]
    assert text.frame.code == CAUSES[loss_of]
    assert "loop" not in str(text)


class Guarded(nn.Module):
    """A break within a ``try``: Dynamo cannot resume there."""

    def __init__(self):
        super().__init__()
        self.net, self.last = small.net(), nn.Linear(3, 3, dtype=torch.float64)

    def forward(self, x):
        return self.last(self.guarded(x))

    def guarded(self, x):
        try:
            torch._dynamo.graph_break()
            return self.net.first(x)[:, :3]
        except ValueError:
            return x


def test_a_function_that_is_one_already_is_not_asked_for():
    def loss_of(model, x, y):
        return F.cross_entropy(model(x), y)

    def step(model, x, y):
        loss = loss_of(model, x, y)
        loss.backward()
        return loss.detach()

    text, *_ = small.warned(small.eager(step), Guarded(), *small.data(12))
    assert_expected_inline(
        text,
        """\
accumcompile AC021: a part of the step ran on the full batch: model.net.first.bias, model.net.first.weight
  test_messages.py:N in step
      loss.backward()
  why   Dynamo dropped guarded, because it cannot resume after a graph break at test_messages.py:N:
        Call to `torch._dynamo.graph_break()`
        User-inserted graph break. Message: None
  cost  that part kept the activations of all 12 samples
  fix   move that line out of the try, loop or with around it, or out of guarded""",
    )


@pytest.mark.parametrize("read", (lambda v: v.item(), float, lambda v: print(v)), ids=("item", "float", "print"))
@pytest.mark.filterwarnings("ignore:Converting a tensor")
def test_a_number_of_a_tensor_is_no_page_of_advice(read, caplog, capsys):
    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        read(loss)
        return loss.detach()

    torch._dynamo.variables.tensor.TensorVariable._warn_capture_scalar_outputs.cache_clear()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error", AccumulateWarning)
        ran = capturing.same(step, small.net())
    assert ran.roads == ["fused"] * 2
    assert not [r for r in caplog.records if "item()" in r.getMessage()]


def test_what_fails_is_no_page_of_internals(caplog):
    def step(model, x, y):
        F.cross_entropy(model(x), y.double()).backward()

    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match=r"expected .* but .* Double"):
        small.eager(step)(small.net(), *small.data(12))
    assert not caplog.records
