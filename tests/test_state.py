"""State that a step changes stays what eager makes of it, however it is written and whenever it changes."""

import pytest
import small
import torch
from capturing import decorated, same, sgd
from torch import nn
from torch.nn import functional as F

from accumcompile.capture.aot.saved_inputs import SMALL

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
zeros = torch.zeros(3, dtype=torch.float64)


def queue(rows=60):
    torch.manual_seed(1)
    return F.normalize(torch.randn(3, rows, dtype=torch.float64), dim=0)


# A tensor gets another storage


def momentum_encoder(model, momentum, optimizer, x, y):
    """``p.data = ...`` on the key encoder, before it is read."""
    with torch.no_grad():
        for q, k in zip(model.parameters(), momentum.parameters(), strict=True):
            k.data = k.data * 0.9 + q.data * (1 - 0.9)
        target = momentum(x)
    loss = F.mse_loss(model(x), target) + F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_a_momentum_encoder_assigned_by_data():
    model, momentum = small.net(), small.net()
    ran = same(momentum_encoder, model, momentum, sgd(model), sizes=(12, 13, 12))
    assert set(ran.roads) == {"fused"} and ran.plans == 1 and not ran.gathered


def test_a_parameter_is_assigned_and_trained_through():
    """Twice in one graph: the gradient goes to the parameter, and the last value stays."""

    def step(model, optimizer, x, y):
        for p in model.parameters():
            p.data = p.data / p.data.norm()
        loss = F.cross_entropy(model(x), y)
        for p in model.parameters():
            p.data = p.data * 1.5
        loss = loss + F.cross_entropy(model(x / 2), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    model = small.net()
    assert set(same(step, model, sgd(model), sizes=(12, 13, 12)).roads) == {"fused"}


def test_averaged_weights_are_swapped_in_and_out():
    """The backup keeps the storage that the parameter had: nothing is written over it."""
    shadow = [p.detach() / 2 for p in small.net().parameters()]

    def step(model, optimizer, x, y):
        loss = small.plain(model, x, y)
        optimizer.step()
        backup = [p.data for p in model.parameters()]
        for p, s in zip(model.parameters(), shadow, strict=True):
            p.data = 0.9 * s + 0.1 * p.data
        with torch.no_grad():
            averaged = F.cross_entropy(model(x), y)
        for p, b in zip(model.parameters(), backup, strict=True):
            p.data = b
        return loss, averaged

    model = small.net()
    same(step, model, sgd(model), sizes=(12, 13))


def test_data_that_is_shared_is_shared_afterwards():
    def step(model, teacher, x, y):
        for p, q in zip(model.parameters(), teacher.parameters(), strict=True):
            q.data = p.data
        with torch.no_grad():
            target = teacher(x)
        loss = F.cross_entropy(model(x), y) + F.mse_loss(model(2 * x), target)
        loss.backward()
        return loss.detach()

    teacher = small.net()
    ran = same(step, small.net(), teacher, sizes=(12, 13))
    pairs = zip(ran.given[0].parameters(), ran.given[1].parameters(), strict=True)
    assert all(p.data_ptr() == q.data_ptr() for p, q in pairs)


# Changed in place, or under another name


class Bank(small.Net):
    """Buffers that a forward assigns, edits, and writes rows of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("center", zeros.clone())
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("bank", queue(30).T.contiguous())

    def forward(self, x):
        hidden = super().forward(x)
        out = hidden @ self.bank.clone().T - self.center.sum()
        with torch.no_grad():
            self.center = 0.9 * self.center + 0.1 * hidden.mean(0)
            self.seen += len(x)
            rows = torch.arange(len(x)) + 3
            self.bank[rows] = 0.5 * self.bank[rows] + 0.5 * hidden
            self.bank.data.index_copy_(0, rows[:4], hidden[:4] + 1)
            self.bank.data += 0.1
        return out


def test_buffers_of_a_forward():
    assert set(same(small.plain, Bank(), sizes=(12, 13, 12)).roads) == {"fused"}


AVERAGES = {
    "lerp_": lambda a, b: a.lerp_(b, 0.1),
    "data.copy_": lambda a, b: a.data.copy_(0.9 * a.data + 0.1 * b.data),
    "data +=": lambda a, b: a.data.mul_(0.9).__iadd__(0.1 * b.data),
    "copy_": lambda a, b: a.copy_(0.9 * a + 0.1 * b),
}


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize("early", [True, False], ids=["before the backward", "after the step"])
def test_an_average_of_the_weights(average, early):
    def step(model, ema, optimizer, x, y):
        loss = F.cross_entropy(model(x), y) + F.mse_loss(model(x), ema(x).detach())
        if not early:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for a, b in zip(ema.parameters(), model.parameters(), strict=True):
                average(a, b)
        if early:
            loss.backward()
        return loss.detach()

    model = small.net()
    same(step, model, small.net(), sgd(model), sizes=(12, 13))


def test_tensors_in_dicts_and_lists_are_assigned():
    def step(model, x, y, state):
        hidden = model(x)
        loss = F.cross_entropy(hidden - state["mean"], y)
        state["mean"] = 0.9 * state["mean"] + 0.1 * hidden.mean(0).detach()
        state["log"][0] = state["log"][0] + loss.detach()
        state["log"][1] += 1
        loss.backward()
        return loss.detach(), state

    def data(size, seed):
        return *small.data(size, seed), {"mean": zeros + 1, "log": [zeros.sum(), zeros.clone()]}

    same(step, small.net(), sizes=(12, 13), data=data)


# Changed between forward and backward


class Contrast:
    """A queue of keys and the number of its next column."""

    def __init__(self):
        self.queue, self.pointer = queue(), torch.zeros(1, dtype=torch.long)

    def step(self, model, x, y):
        """The queue is read, then written at ``int(pointer)``, then differentiated through."""
        q = F.normalize(model(x), dim=1)
        with torch.no_grad():
            keys = F.normalize(model(1.1 * x), dim=1)
        logits = q @ self.queue.clone()
        start = int(self.pointer)
        self.queue[:, start : start + len(x)] = keys.T
        self.pointer[0] = start + len(x)
        loss = F.cross_entropy(logits / 0.1, torch.zeros_like(y))
        loss.backward()
        return loss.detach(), self.queue.clone()


@pytest.mark.filterwarnings("ignore:accumcompile AC030")
def test_a_queue_that_is_written_before_the_backward():
    """What eager's backward does not read may change: the forward that is computed again sees the old queue."""
    reference, contrast = Contrast(), Contrast()
    ours, _ = decorated(lambda model, x, y: contrast.step(model, x, y))
    a, b = small.net(), small.net()
    for seed, size in enumerate((12, 13, 12)):
        expected, actual = reference.step(a, *small.data(size, seed)), ours(b, *small.data(size, seed))
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-10)


class Scaled(small.Net):
    """A temperature, as CLIP has one, and an offset that is no parameter."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.5, dtype=torch.float64))
        self.register_buffer("offset", zeros + 0.3)

    def forward(self, x):
        return torch.tanh(super().forward(x) * self.scale.exp() + self.offset)


CHANGES = {
    "clamp_": lambda model: model.scale.clamp_(0, 1),
    "data.clamp_": lambda model: model.scale.data.clamp_(0, 1),
    "buffer": lambda model: model.offset.mul_(0.5),
    "not captured": torch.compiler.disable(lambda model: model.offset.data.mul_(0.5)),
}


@pytest.mark.filterwarnings("error:accumcompile AC021", "ignore:accumcompile AC030")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("alive", [True, False], ids=["beside the loss", "before the loss"])
def test_what_changes_between_two_graphs(change, alive):
    """Two-pass, and outputs beside the loss that are differentiated after all."""

    def step(model, x, y):
        logits = model(x)
        loss = F.cross_entropy(logits, y) if alive else logits.square().sum()
        torch._dynamo.graph_break()
        with torch.no_grad():
            change(model)
        if alive and change is CHANGES["buffer"]:
            loss.backward(retain_graph=True)
            loss = logits.square().sum()
        if not alive:
            torch._dynamo.graph_break()
            loss = F.cross_entropy(logits, y)
        loss.backward()
        return loss.detach()

    torch.manual_seed(0)
    same(step, Scaled(), sizes=(12, 13))


def test_only_what_may_change_is_copied():
    """Of the inputs that only the recomputation reads: state and small parameters, no large table; eager's, never."""
    saved = []

    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(SMALL // 8, 4, dtype=torch.float64))
            self.linear = nn.Linear(4, 3, dtype=torch.float64)

        def forward(self, y):
            return torch.relu(self.linear(self.table[y]))

    def step(model, y):
        logits = model(y)
        torch._dynamo.graph_break()
        saved.append({t.data_ptr() for t in logits.grad_fn.saved_tensors})
        F.cross_entropy(logits, y).backward()

    ours, _ = decorated(step)
    model = Embedded()
    with pytest.warns(match="AC030"):
        ours(model, small.data(12)[1])
    held = {name for name, p in model.named_parameters() if p.data_ptr() in saved[0]}
    assert held == {"table", "linear.weight"}, "the bias is a copy"


# What eager refuses


def weights(model, x):
    model.second.weight.mul_(0.5)


def inputs(model, x):
    x.mul_(2)


@pytest.mark.filterwarnings("ignore:accumcompile AC030")
@pytest.mark.parametrize("change", [weights, inputs])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "two-pass"])
def test_what_eagers_backward_reads_may_not_change(change, fused):
    def step(model, x, y):
        loss = F.cross_entropy(model(x), y) if fused else model(x)
        torch._dynamo.graph_break()
        with torch.no_grad():
            change(model, x)
        loss = loss if fused else F.cross_entropy(loss, y)
        loss.backward()

    for run in (step, decorated(step)[0]):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            run(small.net(), *small.data(12))
