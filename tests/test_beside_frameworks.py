"""What a framework does beside the step, on stand-ins for its classes: the real ones are in tests/frameworks."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import small
import torch
from expecttest import assert_expected_inline
from small import refused
from torch.nn import functional as F

from accumcompile import AccumulateWarning
from accumcompile.capture import frameworks

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def of_framework(monkeypatch, module, name, bases=(object,), **attributes):
    """A class of this name, in a module that looks imported."""
    kind = type(name, bases, attributes)
    fake = ModuleType(module)
    setattr(fake, name, kind)
    monkeypatch.setitem(sys.modules, module, fake)
    return kind


def test_nothing_is_found_where_no_framework_is_imported(monkeypatch):
    for setting in frameworks.SETTINGS:
        monkeypatch.delitem(sys.modules, setting.module, raising=False)
    anything = SimpleNamespace(gradient_accumulation_steps=8, accumulate_grad_batches=8)
    assert frameworks.accumulating([anything]) is None
    assert not frameworks.zeroes_afterwards([SimpleNamespace(automatic_optimization=True)])


@pytest.mark.parametrize("setting", frameworks.SETTINGS, ids=lambda s: f"{s.module}.{s.kind}")
def test_a_setting_above_one(monkeypatch, setting):
    kind = of_framework(monkeypatch, setting.module, setting.kind)

    def holding(count):
        value = count
        *outer, last = setting.path.split(".")
        inner = kind() if not outer else SimpleNamespace()
        setattr(inner, last, value)
        if outer:
            holder = kind()
            setattr(holder, outer[0], inner)
            return holder
        return inner

    assert frameworks.accumulating([object(), holding(4)]) == (setting, 4)
    assert frameworks.accumulating([holding(1), kind()]) is None


def accelerator(monkeypatch, count):
    kind = of_framework(monkeypatch, "accelerate", "Accelerator", backward=lambda self, loss: loss.backward())
    made = kind()
    made.gradient_accumulation_steps = count
    return made


def test_an_accelerator_that_accumulates_too_is_told_once(monkeypatch):
    ours = accelerator(monkeypatch, 4)

    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        ours.backward(loss)
        return loss.detach()

    decorated, model = small.eager(step), small.net()
    with pytest.warns(AccumulateWarning) as caught:
        decorated(model, *small.data(12))
        decorated(model, *small.data(12))
    assert [m.code for m in small.ours(caught)] == ["AC042"]
    assert_expected_inline(
        small.text(small.ours(caught)[0]),
        """\
accumcompile AC042: the step is split in micro-batches, and Accelerator.gradient_accumulation_steps is 4
  test_beside_frameworks.py:N in step
  why   4 batches of step are accumulated to one update, weighted as that framework weights them
  fix   set it to 1 and make the batch 4 times as large""",
    )
    strict = small.eager(step, strict=True)
    assert "AC042" in refused(strict, model, *small.data(12))
    ours.gradient_accumulation_steps = 1
    assert small.runs(strict, model, *small.data(12)) == [(12, 4)]


class Module(torch.nn.Module):
    """What this project asks of a LightningModule."""

    automatic_optimization = True

    def __init__(self):
        super().__init__()
        self.net = small.net()
        self.trainer = SimpleNamespace(training=True, accumulate_grad_batches=1)

    def forward(self, x, y):
        return F.cross_entropy(self.net(x), y)


@pytest.fixture
def module(monkeypatch):
    return of_framework(monkeypatch, "lightning.pytorch", "LightningModule", (Module,))()


def calls_backward(self, x, y):
    loss = self(x, y)
    loss.backward()
    return loss


def calls_another(self, x, y):
    """A backward of its own, to look at gradients, before the one that it leaves to Lightning."""
    self(x, y).backward()
    return self(x, y)


@pytest.mark.parametrize("returned", [lambda loss: loss, lambda loss: loss.detach(), lambda loss: None])
def test_a_backward_whose_gradients_lightning_zeroes_is_refused(module, returned):
    decorated = small.eager(lambda self, x, y: returned(calls_backward(self, x, y)))
    assert "AC025" in refused(decorated, module, *small.data(12))
    module.automatic_optimization = False
    assert small.runs(decorated, module, *small.data(12)) == [(12, 4)]


def test_the_text_for_gradients_that_lightning_zeroes(module):
    assert_expected_inline(
        refused(small.eager(calls_backward), module, *small.data(12)),
        """\
accumcompile AC025: Lightning zeroes the gradients that calls_backward has made
  test_beside_frameworks.py:N in calls_backward
  why   under automatic optimization it calls zero_grad() when training_step has returned, and then backward() itself
  fix   return the loss, and leave backward() to Lightning; or set automatic_optimization = False, and update there""",
    )


@pytest.mark.filterwarnings("ignore::accumcompile.AccumulateWarning")
def test_a_backward_before_the_loss_that_is_returned_is_none_of_lightnings(module):
    decorated = small.eager(calls_another)
    decorated(module, *small.data(12)).backward()
