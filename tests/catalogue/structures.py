"""Forms of a step: how the batch arrives, and where the model lives."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, mlp, row, sgd

FEATURES, OUTPUTS = 4, 2


def pair(n):
    return torch.randn(n, FEATURES), torch.randn(n, OUTPUTS)


@row(Cost(loops=1))
def everything_as_arguments():
    """The README's step: model and optimizer come in as arguments."""
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(model, optimizer, inputs, targets):
        optimizer.zero_grad()
        loss = F.mse_loss(model(inputs), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        return loss.detach()

    return Case(step, lambda n: call(model, optimizer, *pair(n)), {"model": model}, [optimizer])


@row(Cost(loops=1))
def tuple_batch():
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(batch):
        x, y = batch
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Case(step, lambda n: call(pair(n)), {"model": model}, [optimizer])


@row(Cost(loops=1))
def nested_batch():
    """Tensors in dicts in a list, with strings and numbers among them."""
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(batch):
        optimizer.zero_grad()
        loss = sum(part["weight"] * F.mse_loss(model(part["x"]), part["y"]) for part in batch["parts"])
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach(), "name": batch["name"]}

    def batch(n):
        parts = [dict(zip("xy", pair(n), strict=True), weight=weight) for weight in (0.5, 2.0)]
        return call({"name": "train", "parts": parts})

    return Case(step, batch, {"model": model}, [optimizer])


@row(Cost(loops=1))
def named_tuple_batch():
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(batch):
        optimizer.zero_grad()
        loss = F.mse_loss(model(batch.x), batch.y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Case(step, lambda n: call(NamedBatch(*pair(n))), {"model": model}, [optimizer])


class NamedBatch(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@row(Cost(loops=1))
def dataclass_batch():
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(batch):
        optimizer.zero_grad()
        loss = batch.weight * F.mse_loss(model(batch.x), batch.y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Case(step, lambda n: call(DataBatch(*pair(n), weight=0.5)), {"model": model}, [optimizer])


@dataclass
class DataBatch:
    x: torch.Tensor
    y: torch.Tensor
    weight: float


@row(Cost(loops=1))
def keyword_arguments():
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(*, inputs, targets, scale=1.0):
        optimizer.zero_grad()
        loss = scale * F.mse_loss(model(inputs), target=targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def batch(n):
        inputs, targets = pair(n)
        return call(targets=targets, inputs=inputs)

    return Case(step, batch, {"model": model}, [optimizer])


@row(Cost(loops=1))
def method_of_a_trainer():
    """The step is a method, and so is the loss; model, optimizer and scheduler are attributes."""

    class Trainer:
        def __init__(self):
            self.model = mlp(FEATURES, 8, OUTPUTS)
            self.optimizer = sgd(self.model)
            self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=1, gamma=0.5)

        def loss(self, x, y):
            return F.mse_loss(self.model(x), y)

        def step(self, x, y):
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(x, y)
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            return loss.detach(), self.scheduler.get_last_lr()[0]

    trainer = Trainer()
    stateful = [trainer.optimizer, trainer.scheduler]
    return Case(trainer.step, lambda n: call(*pair(n)), {"model": trainer.model}, stateful)


@row(Cost(loops=1))
def step_nested_in_a_class():
    """A trainer that owns a task that owns the model; the loss is found two objects down."""

    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp(FEATURES, 8, OUTPUTS)

        def forward(self, batch):
            return F.mse_loss(self.net(batch["x"]), batch["y"])

    class Trainer:
        class State:
            def __init__(self, task):
                self.task, self.optimizer = task, sgd(task)

        def __init__(self):
            self.state = self.State(Task())

        def train_step(self, batch):
            self.state.optimizer.zero_grad()
            loss = self.state.task(batch)
            loss.backward()
            self.state.optimizer.step()
            return loss.detach()

    trainer = Trainer()
    return Case(
        trainer.train_step,
        lambda n: call(dict(zip("xy", pair(n), strict=True))),
        {"task": trainer.state.task},
        [trainer.state.optimizer],
    )
