"""``requires_grad_()`` on a value that the graph computes: a break only where somebody sees what it changed."""

import pytest
import small
import torch
from capturing import same
from fuzz.peak import measured
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
one_graph = pytest.mark.skipif(torch.__version__ < "2.13", reason="Dynamo 2.11 breaks the graph at requires_grad_()")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Tuned(nn.Module):
    """A frozen embedding whose output is made to require a gradient, as peft does, below layers that are trained."""

    def __init__(self, run, width=8, words=16):
        super().__init__()
        self.run, self.embed = run, nn.Embedding(words, width).requires_grad_(False)
        self.blocks, self.head = nn.ModuleList(Block(width) for _ in range(3)), nn.Linear(width, words)
        self.embed.register_forward_hook(lambda module, given, output: output.requires_grad_(True))
        self.double()

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = self.run(block, x)
        return self.head(x)


def words(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, 16, (2, batch, 64), generator=generator))


def update(model, x, y):
    model.zero_grad()
    loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss.backward()
    return loss.detach()


def live_peak(call, model):
    with measured(lambda: [p.grad for p in model.parameters() if p.grad is not None]) as peak:
        call()
    return peak.bytes


def stored(block, x):
    return block(x)


def reentrant(block, x):
    return checkpoint(block, x, use_reentrant=True)


def recomputed(block, x):
    return checkpoint(block, x, use_reentrant=False)


@one_graph
@pytest.mark.parametrize("run", [stored, reentrant, recomputed])
def test_a_model_is_one_graph(run):
    """Measured against the full batch that keeps its activations: eager's checkpoints hold less, at a price."""
    torch.manual_seed(0)
    model, data = Tuned(run), words(32, seed=1)
    ran = same(update, model, sizes=(32, 31), data=words, steps=8)
    assert ran.roads == ["fused", "fused"]
    assert not ran.gathered
    peak = live_peak(lambda: ran.step(model, *data), model)
    model.run = stored
    assert peak <= 0.30 * live_peak(lambda: update(model, *data), model)


class Frozen(small.Net):
    """Its first layer is not trained."""

    def __init__(self):
        super().__init__()
        self.first.requires_grad_(False)
        self.middle = nn.Linear(8, 8, dtype=torch.float64)
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))

    def loss(self, hidden, y):
        return F.cross_entropy(self.second(torch.relu(self.middle(hidden))), y)


def graphs_of(step):
    torch.manual_seed(0)
    return same(step, Frozen()).plans


@one_graph
def test_flags_are_read_as_eager_reads_them():
    def step(model, x, y):
        hidden = model.first(x)
        before, hidden = hidden.requires_grad, hidden.requires_grad_()
        flags = [before, hidden.requires_grad, (2 * hidden).requires_grad, hidden.is_leaf]
        loss = model.loss(hidden, y) * sum(2**i for i, flag in enumerate(flags) if flag)
        loss.backward()
        return loss.detach()

    assert graphs_of(step) == 1


def test_a_value_that_requires_a_gradient_already():
    def step(model, x, y):
        hidden = model.middle(model.first(x)).requires_grad_()
        loss = model.loss(hidden, y)
        loss.backward()
        return loss.detach()

    assert graphs_of(step) == 1


@one_graph
def test_a_hidden_value_of_a_function_with_a_backward_of_its_own():
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 3 if ctx.needs_input_grad[0] else None

    def step(model, x, y):
        loss = model.loss(Scaled.apply(model.first(x).requires_grad_()), y)
        loss.backward()
        return loss.detach()

    assert graphs_of(step) == 1


def its_gradient(model, x, y):
    hidden = model.first(x).requires_grad_()
    loss = model.loss(hidden, y)
    loss.backward()
    return loss.detach(), hidden.grad


def kept_in_an_attribute(model, x, y):
    model.kept = model.first(x).requires_grad_()
    loss = model.loss(model.kept, y)
    loss.backward()
    return loss.detach(), model.kept.grad


def asked_for(model, x, y):
    hidden = model.first(x).requires_grad_()
    loss = model.loss(hidden, y)
    (grad,) = torch.autograd.grad(loss, [hidden], retain_graph=True)
    (loss + grad.square().sum()).backward()
    return loss.detach(), grad


def through_a_detached_value(model, x, y):
    """As gradient caches do."""
    hidden = model.middle(model.first(x))
    cut = hidden.detach().requires_grad_()
    loss = F.cross_entropy(model.second(cut.tanh()), y)
    loss.backward()
    hidden.backward(cut.grad)
    return loss.detach()


def hooked(model, x, y):
    seen, hidden = [], model.first(x).requires_grad_()
    hidden.register_hook(lambda grad: seen.append(grad.square().sum()))
    loss = model.loss(hidden, y)
    loss.backward()
    return loss.detach(), seen


def hooked_into_a_buffer(model, x, y):
    def add(grad):
        model.seen.add_(grad.square().sum())

    hidden = model.first(x).requires_grad_()
    hidden.register_hook(add)
    loss = model.loss(hidden, y)
    loss.backward()
    return loss.detach()


def another_output_of_it_alone(model, x, y):
    hidden = model.first(x).requires_grad_()
    size = hidden.square().sum()
    loss = model.loss(hidden, y)
    loss.backward()
    return loss.detach(), torch.tensor(float(size.requires_grad)), size.detach()


def a_loss_of_it_alone(model, x, y):
    hidden = model.first(x).requires_grad_()
    loss = F.cross_entropy(hidden, y)
    loss.backward()
    return loss.detach()


def taken_back(model, x, y):
    hidden = model.first(x).requires_grad_()
    loss = model.loss(hidden, y)
    hidden.requires_grad_(False)
    loss.backward()
    return loss.detach(), torch.tensor(float(hidden.requires_grad))


SEEN = [
    its_gradient,
    kept_in_an_attribute,
    asked_for,
    through_a_detached_value,
    hooked,
    hooked_into_a_buffer,
    another_output_of_it_alone,
    a_loss_of_it_alone,
    taken_back,
]


@pytest.mark.parametrize("step", SEEN)
def test_a_value_that_is_seen_is_a_leaf(step):
    """The graph breaks at the call, unless it holds ``autograd.grad`` too, as in torch 2.15."""
    holds_both = step is asked_for and torch.__version__ >= "2.15"
    assert graphs_of(step) > 1 - holds_both


def overwritten(model, x, y):
    hidden = model.first(x).requires_grad_()
    hidden.add_(1)
    return model.loss(hidden, y)


def not_a_leaf(model, x, y):
    return model.loss(model.middle(x @ model.first.weight.T).requires_grad_(False), y)


@pytest.mark.parametrize("step", [overwritten, not_a_leaf])
def test_what_eager_refuses_is_refused(step):
    for run in (step, small.eager(step)):
        with pytest.raises(RuntimeError, match="leaf"):
            run(Frozen(), *small.data(12))
