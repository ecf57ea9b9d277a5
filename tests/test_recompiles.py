"""What changes from call to call around a step, such as its optimizer, labels or history, is no new capture."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import small
import torch
from capturing import assert_same, decorated, frames, sgd
from torch import nn
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
CALLS = 11  # more than Dynamo's limit


def captures(step: Callable[..., Any], make: Callable[[nn.Module, int], tuple], fresh_model: bool = False) -> list[int]:
    """How many frames were captured after each call; every call gives the plain step's result.

    ``make(model, i)`` gives the arguments of call ``i`` behind the model.
    """
    ours, _ = decorated(step)
    model, seen, start = small.net(), [], frames()
    reference = copy.deepcopy(model)
    for i in range(CALLS):
        if fresh_model:
            model = small.net()
            reference = copy.deepcopy(model)
        assert_same((step(reference, *make(reference, i)), reference), (ours(model, *make(model, i)), model))
        seen.append(frames() - start)
    return seen


def data(i: int) -> tuple[torch.Tensor, torch.Tensor]:
    return small.data(12 + i % 2, i)


# Optimizers

KINDS = {
    "sgd": sgd,
    "adamw": lambda model: torch.optim.AdamW(model.parameters()),
    "foreach": lambda model: torch.optim.AdamW(model.parameters(), foreach=True),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("fresh_model", [False, True], ids=["a sweep", "folds"])
def test_a_new_optimizer_in_each_call(make, fresh_model):
    seen = captures(small.update, lambda model, i: (make(model), *data(i)), fresh_model)
    assert seen == seen[:1] * CALLS


class Wrapped(torch.optim.Optimizer):
    """A wrapper as accelerate has one."""

    def __init__(self, optimizer):
        self.optimizer, self.taken = optimizer, 0

    param_groups = property(lambda self: self.optimizer.param_groups)

    def zero_grad(self, set_to_none=None):
        self.optimizer.zero_grad()

    def step(self, closure=None):
        self.taken += 1
        self.optimizer.step(closure)


class Warmup:
    """A wrapper that is no optimizer, and sets a rate of its own."""

    def __init__(self, optimizer):
        self.optimizer, self.taken = optimizer, 0

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self):
        self.taken += 1
        for group in self.optimizer.param_groups:
            group["lr"] = 0.1 * min(self.taken**-0.5, self.taken / 8)
        self.optimizer.step()


@pytest.mark.parametrize("wrap", [Wrapped, Warmup])
@pytest.mark.parametrize("fresh", [True, False], ids=["new", "the same"])
def test_wrapped_optimizers(wrap, fresh):
    known: dict[int, Any] = {}

    def make(model, i):
        optimizer = wrap(sgd(model)) if fresh else known.setdefault(id(model), wrap(sgd(model)))
        return optimizer, *data(i)

    seen = captures(small.update, make)
    assert seen == seen[:1] * CALLS


class Sharp(torch.optim.SGD):
    """SAM: up to the worst point nearby, and back for the step."""

    @torch.no_grad()
    def up(self):
        norm = torch.stack([p.grad.norm() for p in self.param_groups[0]["params"]]).norm()
        for p in self.param_groups[0]["params"]:
            self.state[p]["old"] = p.data.clone()
            p.add_(p.grad * 0.05 / norm)
        self.zero_grad()

    @torch.no_grad()
    def down(self):
        for p in self.param_groups[0]["params"]:
            p.data = self.state[p]["old"]
        self.step()


def test_an_optimizer_with_methods_of_its_own():
    """They run as they are, whichever optimizer it is."""

    def step(model, optimizer, x, y):
        optimizer.zero_grad()
        small.plain(model, x, y)
        optimizer.up()
        loss = small.plain(model, 0.9 * x, y)
        optimizer.down()
        return loss

    seen = captures(step, lambda model, i: (Sharp(model.parameters(), lr=0.1), *data(i)))
    assert seen == seen[:1] * CALLS


def test_a_scaler_and_a_scheduler_in_each_call():
    def step(model, optimizer, scaler, scheduler, x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        return loss.detach(), scheduler.get_last_lr()[0]

    def make(model, i):
        optimizer = sgd(model)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return optimizer, torch.amp.GradScaler("cpu", init_scale=64.0), scheduler, *data(i)

    seen = captures(step, make)
    assert seen == seen[:1] * CALLS


@pytest.mark.parametrize("bound", [True, False], ids=["optimizer.step", "a function"])
def test_a_compiled_optimizer_step_is_compiled(bound):
    """By its own backend, once; and its result is the plain optimizer's."""
    compiled = []

    def backend(gm, inputs):
        compiled.append(gm)
        return gm.forward

    def run(model, call, optimizer, seed):
        optimizer.zero_grad()
        loss = small.plain(model, *data(seed))
        call()
        return loss

    plain, model = small.net(), small.net()
    made = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (plain, model)]
    if bound:
        made[1].step = torch.compile(made[1].step, backend=backend)
        call = made[1].step
    else:
        call = torch.compile(lambda: made[1].step(), backend=backend)
    ours, _ = decorated(lambda model, x, y: (made[1].zero_grad(), small.plain(model, x, y), call()))
    for seed in range(3):
        run(plain, made[0].step, made[0], seed)
        ours(model, *data(seed))
        assert_same(plain, model)
    assert len(compiled) == 1


# Labels


@pytest.mark.parametrize("make", [torch.tensor, torch.as_tensor, torch.LongTensor], ids=lambda f: f.__name__)
def test_a_list_of_labels(make):
    """It only becomes a tensor: that is the next graph's input, in the fused road."""

    def step(model, x, labels):
        return small.plain(model, x, make(labels))

    def arguments(model, i):
        x, y = data(i)
        return x, y.tolist()

    seen = captures(step, arguments)
    assert len(set(seen[1:])) == 1
    ours, _ = decorated(step)
    assert small.runs(ours, small.net(), *arguments(None, 0)) == [(12, 3)]


def test_flags_within_a_dict():
    def step(model, batch):
        weight = torch.tensor(batch["keep"], dtype=torch.float64)
        loss = (F.cross_entropy(model(batch["x"]), batch["y"], reduction="none") * weight).mean()
        loss.backward()
        return loss.detach(), batch["ids"][0]

    def arguments(model, i):
        x, y = data(i)
        keep = [bool(v) for v in y % 2]
        return ({"x": x, "y": y, "keep": keep, "ids": [f"{i}-{j}" for j in range(len(x))]},)

    seen = captures(step, arguments)
    assert seen == seen[:1] + seen[1:2] * (CALLS - 1)


def test_a_list_that_is_read_names_itself():
    """Names looked up one by one are constants: the message names the list, and what to do."""
    numbers = {"cat": 0, "dog": 1, "cow": 2}

    def step(model, x, names):
        y = torch.tensor([numbers[name] for name in names])
        F.cross_entropy(model(x), y).backward()

    x, y = data(0)
    text = small.refused(decorated(step)[0], small.net(), x, [list(numbers)[i] for i in y])
    assert "AC040" in text
    assert "names is a Python list of 12 values" in text
    assert "make it a tensor before the step" in text


# What a step keeps


class Trainer:
    """Everything that a class around a step may keep."""

    def __init__(self, model):
        self.model, self.optimizer = model, sgd(model)
        self.history, self.window, self.outputs = [], deque(maxlen=4), []
        self.log, self.taken = {"loss": [], "seen": 0, "best": 1e9}, 0

    def appends(self, x, y):
        loss = small.update(self.model, self.optimizer, x, y)
        self.history.append(loss.item())
        return loss

    def appends_tensors(self, x, y):
        self.optimizer.zero_grad()
        out = self.model(x)
        loss = F.cross_entropy(out, y)
        row = {"loss": loss.detach()}
        self.outputs.append(row)
        row["right"] = (out.argmax(1) == y).sum()
        loss.backward()
        self.optimizer.step()
        assert self.outputs[-1] is row
        assert "right" in row
        return loss.detach()

    def reads(self, x, y):
        loss = small.update(self.model, self.optimizer, x, y)
        self.window.append(loss.item())
        self.log["loss"].append(loss.item())
        self.log["seen"] += x.shape[0]
        self.log["best"] = min(self.log["best"], loss.item())
        return sum(self.log["loss"]) / len(self.log["loss"])

    def appends_and_reads(self, x, y):
        """Within one frame: what was appended is there."""
        loss = small.update(self.model, self.optimizer, x, y)
        self.history.append(1.0)
        return loss, len(self.history), self.history[-1], sum(self.history)

    def counts(self, x, y):
        self.taken += 1
        return small.update(self.model, self.optimizer, x, y)


@pytest.mark.parametrize(
    ("method", "most"), [("appends", 1), ("appends_tensors", 4), ("reads", 4), ("appends_and_reads", 4), ("counts", 2)]
)
def test_what_a_trainer_keeps(method, most):
    """The values are the plain trainer's; at most ``most`` calls capture anything, and nobody is warned."""
    plain, ours = Trainer(small.net()), Trainer(small.net())
    step, _ = decorated(lambda trainer, x, y: getattr(trainer, method)(x, y))
    seen = [frames()]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="accumcompile")
        for i in range(CALLS):
            assert_same((getattr(plain, method)(*data(i)), plain.model), (step(ours, *data(i)), ours.model))
            seen.append(frames())
    assert sum(a != b for a, b in pairwise(seen)) <= most
    kept = ("history", "window", "outputs", "log", "taken")
    assert_same([getattr(plain, name) for name in kept], [getattr(ours, name) for name in kept])
    assert len(plain.history) == len(ours.history)


def test_a_module_that_counts_its_calls():
    class Counting(small.Net):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    ours, _ = decorated(small.plain)
    model, seen = Counting(), []
    for i in range(CALLS):
        ours(model, *data(i))
        seen.append(frames())
    assert len(set(seen[2:])) == 1 and model.calls == CALLS


def test_work_that_comes_late_is_seen():
    """A function that had nothing to split in many calls, and now has: it is split, or said to run whole."""

    def step(model, x, y, log):
        loss = small.plain(model, x, y)
        log.append(loss.item())
        if len(log) % 7 == 0:
            F.cross_entropy(model(2 * x), y).backward()
        return loss, sum(log)

    logs = {}
    with pytest.warns(match="AC030"):
        captures(step, lambda model, i: (*data(i), logs.setdefault(id(model), [])))
