"""A decorated step: how it is called, what it captures anew, and what it leaves behind."""

import gc
import logging
import weakref

import pytest
import small
import torch
from capturing import frames
from torch.nn import functional as F

from accumcompile import accumulate

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def test_keyword_arguments_and_defaults():
    @accumulate(steps=4, lowering="eager")
    def step(model, *, scale=1.0, **batch):
        loss = F.cross_entropy(model(batch["x"]), batch["y"]) * scale
        loss.backward()
        return loss.detach()

    x, y = small.data(12)
    model = small.net()
    expected = 2 * F.cross_entropy(model(x), y)
    torch.testing.assert_close(step(model, x=x, y=y, scale=2.0), expected.detach())


class Trainer:
    def __init__(self):
        self.model = small.net()

    @accumulate(steps=4, lowering="eager")
    def step(self, x, y):
        return small.plain(self.model, x, y)


def test_methods():
    trainer, other = Trainer(), Trainer()
    x, y = small.data(12)
    expected = F.cross_entropy(trainer.model(x), y).detach()
    torch.testing.assert_close(trainer.step(x, y), expected)
    torch.testing.assert_close(other.step(x, y), expected)
    trainer.step.steps = 3
    assert small.runs(trainer.step, x, y) == [(12, 3)]
    trainer.step.micro_batch_size = 6
    assert small.runs(Trainer.step, trainer, x, y) == [(12, 2)]
    assert trainer.step == trainer.step != other.step


def test_steps_can_be_set_between_calls_and_capture_nothing():
    step, model = small.eager(small.plain), small.net()
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]
    captured = frames()
    for steps, expected in ((2, 2), (8, 6), (12, 12), (1, 1), (64, 12)):
        step.steps = steps
        assert small.runs(step, model, *small.data(12)) == [(12, expected)]
    assert frames() == captured


def test_one_capture_for_every_batch_size_even_after_a_batch_of_one():
    step, model = small.eager(small.plain), small.net()
    small.assert_equal(step, model, *small.data(1))
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]
    captured = frames()
    for batch in (7, 1, 12, 2):
        model.zero_grad()
        small.assert_equal(step, model, *small.data(batch))
    assert frames() == captured


def test_no_marks_are_left_on_the_users_tensors():
    step, model = small.eager(small.plain), small.net()
    x, y = small.data(12)
    torch._dynamo.mark_static(y, 0)
    before = {k: set(v) for k, v in vars(y).items() if isinstance(v, set)}
    torch._dynamo.maybe_mark_dynamic(x, 1)
    marks = {k: v.copy() for k, v in vars(x).items() if isinstance(v, set)}
    with pytest.raises(TypeError):
        step(model, x, None)
    del y._dynamo_static_indices
    step(model, x, y)
    assert {k: v for k, v in vars(x).items() if isinstance(v, set)} == marks
    assert before and not vars(y).keys() & {"_dynamo_weak_dynamic_indices", "_dynamo_dynamic_indices"}


def test_a_batch_is_let_go_when_its_call_returns():
    """At once, and not when Python next looks for circles of references."""
    step, model = small.eager(small.plain), small.net()
    step(model, *small.data(12))
    x, y = small.data(12)
    held = weakref.ref(x)
    gc.collect()
    gc.disable()
    try:
        step(model, x, y)
        del x, y
        assert held() is None
    finally:
        gc.enable()


def test_dynamos_settings_are_put_back():
    before = torch._dynamo.config.get_config_copy()
    small.eager(small.plain)(small.net(), *small.data(12))
    assert torch._dynamo.config.get_config_copy() == before


def test_frames_resumed_after_a_break_are_split():
    """The batch size arrives as an int of its own, the batch as an output of our first graph."""

    step, model = small.eager(small.broken), small.net()
    with pytest.warns(match="AC030"):
        small.assert_equal(step, model, *small.data(12))
    model.zero_grad()
    small.assert_equal(step, model, *small.data(9))
    assert {batch for batch, _ in small.runs(step, model, *small.data(9))} == {9}


def test_tensors_made_by_uncompiled_code_are_split():
    @torch._dynamo.disable
    def prepared(x):
        return torch.from_numpy(x.numpy() * 2)

    def step(model, x, y):
        return small.plain(model, prepared(x), y)

    step, model = small.eager(step), small.net()
    for batch in (12, 9):
        model.zero_grad()
        small.assert_equal(step, model, *small.data(batch))
    assert small.runs(step, model, *small.data(9)) == [(9, 3)]


def test_a_logger_that_says_something_once_does_not_split_the_graph(monkeypatch):
    monkeypatch.setattr(logging.Logger, "warning_once", logging.Logger.warning, raising=False)
    logger = logging.getLogger("model")

    def step(model, x, y):
        logits = model(x)
        logger.warning_once("said")
        loss = F.cross_entropy(logits, y)
        loss.backward()
        return loss.detach()

    step, model = small.eager(step), small.net()
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]


# What Dynamo is kept from


def test_the_users_own_compiled_functions_are_left_alone():
    model = small.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    graphs = []

    def backend(gm, inputs):
        graphs.append(gm)
        return gm.forward

    compiled = torch.compile(lambda: optimizer.step(), backend=backend)
    step = small.eager(small.plain)
    for _ in range(3):
        step(model, *small.data(12))
        compiled()
    assert graphs  # the optimizer is still captured there
    assert len(graphs) == len({id(g) for g in graphs}) <= 2


def test_sequence_lengths_cause_at_most_two_captures():
    def step(model, x, y):
        loss = (model(x).mean(1) - y).square().mean()
        loss.backward()
        return loss.detach()

    step, model = small.eager(step), small.net()
    with step.session.journal.recording() as recorded:
        for length in range(3, 13):
            step(model, torch.ones(12, length, 4, dtype=torch.float64), torch.ones(12, 3, dtype=torch.float64))
    assert len(recorded) == 10 and len({id(run.plan) for run in recorded}) <= 2


class Overriding(small.Net):
    """transformers' models ask in this way whether a method is overridden; Dynamo answers None, silently."""

    def forward(self, x):
        method, name = "extra_repr", "__func__"
        own = getattr(getattr(self, method), name, None) is torch.nn.Module.extra_repr
        bound = getattr(getattr(self, method), "__self__", None) is self
        return super().forward(x) * (2.0 if own else 3.0) * (5.0 if bound else 7.0)


def test_a_bound_method_has_its_function():
    torch.manual_seed(0)
    small.assert_equal(small.eager(small.plain), Overriding(), *small.data(12))
