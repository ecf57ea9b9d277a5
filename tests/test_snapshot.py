"""A snapshot puts back everything a step can reach, in place."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from accumcompile.verify.reach import reach
from accumcompile.verify.snapshot import Snapshot

COUNTER = 0
CACHE = torch.zeros(3)
HISTORY: list[float] = []


class Batch(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@dataclass
class State:
    step: int = 0
    seen: list = field(default_factory=list)
    best: float = 1.0


def make():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, Batch(torch.randn(6, 3), torch.randint(0, 2, (6,)))


def step(model, optimizer, batch):
    optimizer.zero_grad()
    loss = F.cross_entropy(F.dropout(model(batch.x)), batch.y)
    loss.backward()
    optimizer.step()
    return loss.detach()


def contents(model, optimizer):
    state = {**{f"p{i}": p for i, p in enumerate(model.parameters())}, **dict(model.named_buffers())}
    state |= {f"g{i}": p.grad for i, p in enumerate(model.parameters())}
    for i, p in enumerate(model.parameters()):
        state |= {f"{k}{i}": v for k, v in optimizer.state.get(p, {}).items()}
    return {k: None if v is None else v.clone() for k, v in state.items()}


def same(a, b):
    return a.keys() == b.keys() and all(
        (a[k] is None and b[k] is None) or (a[k] is not None and b[k] is not None and torch.equal(a[k], b[k]))
        for k in a
    )


def test_a_training_step_leaves_no_trace():
    model, optimizer, batch = make()
    before = contents(model, optimizer)
    with Snapshot.of(step, (model, optimizer, batch)):
        step(model, optimizer, batch)
        assert not same(contents(model, optimizer), before)
    assert same(contents(model, optimizer), before)
    assert not optimizer.state
    assert all(p.grad is None for p in model.parameters())


def test_existing_state_and_gradients_come_back_in_the_same_tensors():
    model, optimizer, batch = make()
    step(model, optimizer, batch)
    before = contents(model, optimizer)
    gradients = [p.grad for p in model.parameters()]
    pointers = [p.data_ptr() for p in model.parameters()]
    with Snapshot.of(step, (model, optimizer, batch)):
        step(model, optimizer, batch)
        model.double()
    assert same(contents(model, optimizer), before)
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_same_state_gives_the_same_step():
    model, optimizer, batch = make()
    with Snapshot.of(step, (model, optimizer, batch)) as snapshot:
        losses = []
        for _ in range(3):
            losses.append(step(model, optimizer, batch))
            snapshot.restore()
    assert losses[0] == losses[1] == losses[2]
    assert step(model, optimizer, batch) == losses[0]


def test_restored_when_the_step_raises():
    model, optimizer, batch = make()
    before = contents(model, optimizer)

    def failing(model, optimizer, batch):
        step(model, optimizer, batch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Snapshot.of(failing, (model, optimizer, batch)):
        failing(model, optimizer, batch)
    assert same(contents(model, optimizer), before)


def test_globals_closures_containers_and_attributes():
    state, window, seen, extra = State(), deque([1, 2], maxlen=2), {1}, {"a": [torch.zeros(2)]}
    calls = 0

    def count():
        global COUNTER
        nonlocal calls
        COUNTER += 1
        calls += 1
        HISTORY.append(1.0)
        CACHE.add_(1)
        state.step += 1
        state.best = 0.5
        state.seen.append(3)
        window.append(3)
        seen.add(2)
        extra["a"][0].add_(1)
        extra["b"] = 1

    with Snapshot.of(count):
        count()
        assert (COUNTER, calls, state.step) == (1, 1, 1)
    assert (COUNTER, calls, HISTORY, CACHE.tolist()) == (0, 0, [], [0, 0, 0])
    assert state == State()
    assert (list(window), seen) == ([1, 2], {1})
    assert list(extra) == ["a"]
    assert extra["a"][0].tolist() == [0, 0]


class Trainer:
    average = 0.0  # an attribute of the class

    def __init__(self):
        self.model, self.optimizer, self.batch = make()
        self.counter = 0
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.1)
        self.scaler = torch.amp.GradScaler("cpu", enabled=True)

    def train_step(self):
        step(self.model, self.optimizer, self.batch)
        self.scheduler.step()
        self.scaler.scale(torch.ones(()))
        self.model.eval()
        self.counter += 1
        self.new = 1
        type(self).average += 1

    def learning_rate(self):
        return self.optimizer.param_groups[0]["lr"]


def test_self_its_scheduler_and_its_flags():
    trainer = Trainer()
    with Snapshot.of(trainer.train_step):
        trainer.train_step()
        assert trainer.learning_rate() == pytest.approx(1e-3)
    assert trainer.learning_rate() == 1e-2
    assert trainer.scheduler.last_epoch == 0
    assert trainer.scaler._scale is None
    assert trainer.model.training
    assert (trainer.counter, hasattr(trainer, "new"), Trainer.average) == (0, False, 0.0)


def test_random_states():
    own, numpy_own = torch.Generator().manual_seed(1), np.random.default_rng(1)

    def draw():
        return [
            torch.rand(()).item(),
            np.random.rand(),
            random.random(),
            torch.rand((), generator=own).item(),
            numpy_own.random(),
        ]

    with Snapshot.of(draw) as snapshot:
        first = draw()
        snapshot.restore()
        assert draw() == first
    assert draw() == first


def test_labels_edited_in_place_and_inputs_that_need_gradients():
    x, labels, wide = torch.randn(2, 3), torch.tensor([1, 2]), torch.zeros(1, 3).expand(4, 3)

    def edit(x, batch):
        batch["labels"][0] = -100
        x.requires_grad_().sum().backward()

    with Snapshot.of(edit, (x, {"labels": labels, "wide": wide})):
        edit(x, {"labels": labels, "wide": wide})
    assert labels.tolist() == [1, 2]
    assert not x.requires_grad
    assert x.grad is None


def test_an_optimizer_that_the_walk_does_not_reach():
    model, optimizer, batch = make()
    registry = torch.nn.Module.register_forward_pre_hook  # an installed function, which is not walked into
    hidden = {"run": lambda: step(model, optimizer, batch)}
    registry.__globals__["_hidden_step"] = hidden  # nothing of ours looks there
    before = contents(model, optimizer)
    try:
        with Snapshot.of(unreachable):
            unreachable()
            assert optimizer.state
    finally:
        del registry.__globals__["_hidden_step"]
    after = contents(model, optimizer)
    parameters = [name for name in before if name[0] in "pg"]
    assert same({k: after[k] for k in parameters}, {k: before[k] for k in parameters})
    assert not optimizer.state


def unreachable():
    vars(torch.nn.modules.module)["_hidden_step"]["run"]()


def test_names_read_as_a_person_would_write_them():
    model, optimizer, batch = make()
    step(model, optimizer, batch)
    reached = [f for f in reach(step, (model, optimizer), {"batch": batch}) if torch.is_tensor(f.value)]
    found = {f.path: (f.kind, f.owner) for f in reached}
    assert found["batch.x"] == ("other", "")
    assert found["model.1.running_mean"] == ("buffer", "model")
    assert found["optimizer.state[model.0.weight].exp_avg"] == ("optimizer state", "optimizer")
    kinds = [f.kind for f in reached if f.path == "model.0.weight"]
    assert kinds == ["parameter", "gradient"]
