"""What real models taught: each case is the smallest step that shows it."""

import copy
import warnings

import pytest
import small
import torch
import torch.nn.functional as F
from torch import nn

from accumcompile import AccumulateWarning, accumulate


def towers(depth):
    def tower():
        return nn.Sequential(*[m for _ in range(depth) for m in (nn.Linear(16, 16), nn.Tanh())], nn.Linear(16, 4))

    return nn.ModuleDict({"image": tower(), "text": tower()}).double()


def contrastive(model, image, text):
    """Both directions, so that the columns' maximum and sum are two barriers of their own."""
    model.zero_grad()
    a, b = F.normalize(model["image"](image)), F.normalize(model["text"](text))
    target = torch.arange(image.shape[0])
    similarity = a @ b.T
    loss = F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)
    loss.backward()
    return loss.detach()


def test_a_tower_runs_again_for_its_backward_only():
    """Between the barriers of the loss embeddings are saved; no activation of a tower is."""
    model = towers(depth=6)
    report = small.eager(contrastive, steps=8).explain(model, *torch.randn(2, 32, 16).double())
    made = [{value.shape[1] for value in loop.ys if len(value.shape) == 2} for loop in report.loops]
    assert len(report.loops) == 5
    assert set().union(*made) <= {1, 4, 32}, f"activations 16 wide are kept: {made}"


class Normed(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Tanh()) for _ in range(layers)
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_exact_batch_norm_keeps_about_one_value_a_layer():
    def step(model, x):
        model.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss.detach()

    report = small.eager(step, steps=8).explain(Normed(6).double(), torch.randn(32, 16).double())
    kept = sum(value.bytes for loop in report.loops for value in loop.ys)
    assert kept <= 2.5 * 6 * 32 * 16 * 8


def differs(step, model, *batch):
    """The largest difference of loss and gradients to the full batch."""
    other = copy.deepcopy(model)
    expected, actual = step(model, *batch), accumulate(steps=4, lowering="eager")(step)(other, *batch)
    pairs = [
        (expected, actual),
        *((p.grad, q.grad) for p, q in zip(model.parameters(), other.parameters(), strict=True)),
    ]
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccumulateWarning)
        yield


def test_sizes_that_data_decides_leave_a_graph(quiet):
    """A mixture of experts that loops over those that were hit: `nonzero` comes out in column order."""

    def step(model, x):
        model.zero_grad()
        h = model.first(x)
        out = torch.zeros_like(h)
        chosen = F.one_hot(h[:, :3].argmax(1), 3)
        for expert in (chosen.sum(0) > 0).nonzero():
            (rows,) = torch.where(chosen[:, expert].squeeze(1))
            out = out.index_add(0, rows, (1.0 + expert) * h[rows])
        loss = model.second(out.tanh()).square().mean()
        loss.backward()
        return loss.detach()

    assert differs(step, small.net(), small.data(12)[0]) <= 1e-12


def test_what_leaves_a_graph_may_be_changed_in_place(quiet):
    """A view that leaves a graph together with others is a tensor of its own, as eager's is."""

    def step(model, x):
        model.zero_grad()
        h = model.first(x).view(x.shape[0], 2, -1)
        kept = h.sum((1, 2))
        torch._dynamo.graph_break()
        h[x[:, :2] > 0] = 0
        loss = model.second(torch.relu(h).flatten(1)).square().mean() + kept.mean()
        loss.backward()
        return loss.detach()

    assert differs(step, small.net(), small.data(12)[0]) <= 1e-12


def test_a_loss_on_a_list_of_targets_runs_whole_and_is_told_of():
    """One entry a sample: the length of the list is a constant, and so is the batch size of what meets it."""

    def step(model, x, targets):
        model.zero_grad()
        out = model(x)
        torch._dynamo.graph_break()
        wanted = torch.tensor([float(len(t)) for t in targets], dtype=out.dtype)
        loss = (out.sum(1) - wanted).square().mean()
        loss.backward()
        return loss.detach()

    x = small.data(12)[0]
    with pytest.warns(AccumulateWarning, match="AC030"):
        assert differs(step, small.net(), x, [[0] * (i % 4) for i in range(12)]) <= 1e-12
