"""Which of a step's arguments is its batch, where the first tensor is none, or not all of it."""

import itertools
import sys
import warnings
from pathlib import Path

import pytest
import small
import torch
from capturing import same
from torch import nn
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from live import live_peak

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

ROWS = 256


def mlp(*widths):
    """Linear layers in float64, with a tanh between them."""
    torch.manual_seed(0)
    layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


def normal(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def share(step, model, *args):
    """The peak of live bytes of a decorated step, beside that of the plain one."""
    step(model, *args)
    model.zero_grad()
    split = live_peak(lambda: step(model, *args))
    model.zero_grad()
    return split / live_peak(lambda: step.fn(model, *args))


def chosen(step):
    """The inputs along which the last call was split, and its batch size."""
    choice = step.session.choice
    return list(choice.inputs), choice.size


class Tokens(nn.Module):
    """A language model that meets its other tokens only where it attends to them."""

    def __init__(self, attends=False):
        super().__init__()
        torch.manual_seed(0)
        self.attends = attends
        self.embed, self.up, self.out = nn.Embedding(50, 32).double(), mlp(32, 256, 32), nn.Linear(32, 50).double()

    def forward(self, ids):
        h = self.embed(ids)
        if self.attends:
            h = h + F.scaled_dot_product_attention(h, h, h, is_causal=True)
        return self.out(self.up(h))


def of_tokens(model, ids, labels):
    loss = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten())
    loss.backward()
    return loss.detach()


def at_a_temperature(model, temperature, x, y):
    loss = F.cross_entropy(model(x) / temperature, y)
    loss.backward()
    return loss.detach()


def weighted(model, weight, x, y):
    loss = F.cross_entropy(model(x), y, weight=weight)
    loss.backward()
    return loss.detach()


def against_a_queue(model, queue, x):
    logits = model(x) @ queue.flatten(0, 1).T
    loss = (logits.logsumexp(1) - logits[:, 0]).mean()
    loss.backward()
    return loss.detach()


def to_anchors(model, anchors, x):
    loss = torch.cdist(model(x), anchors).square().amin(1).mean()
    loss.backward()
    return loss.detach()


class Matched(nn.Module):
    def __init__(self):
        super().__init__()
        self.images, self.words = mlp(48, 256, 8), nn.Embedding(20, 8).double()

    def forward(self, ids, images):
        return self.images(images.flatten(1)) @ self.words(ids).mean(0)


def to_words(model, ids, images, y):
    loss = F.mse_loss(model(ids, images), y)
    loss.backward()
    return loss.detach()


def behind_a_break(model, anchors, x):
    centres = F.normalize(anchors)
    torch._dynamo.graph_break()
    return to_anchors(model, centres, x)


def packed(rows):
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(0, 50, (1, rows), generator=generator), torch.randint(0, 50, (1, rows), generator=generator)


def labels(rows):
    return torch.randint(0, 10, (rows,), generator=torch.Generator().manual_seed(rows))


# step, model, the arguments for a number of rows, what is split, the largest share of eager's peak
STEPS = {
    "packed tokens": (of_tokens, Tokens, packed, [("ids", 1), ("labels", 1)], 0.3),
    "packed tokens, attended": (
        of_tokens,
        lambda: Tokens(attends=True),
        packed,
        [("ids", 1), ("labels", 1)],
        0.65,
    ),
    "a temperature first": (
        at_a_temperature,
        lambda: mlp(16, 256, 10),
        lambda rows: (torch.ones(1).double(), normal(rows, 16), labels(rows)),
        [("x", 0), ("y", 0)],
        0.25,
    ),
    "class weights first": (
        weighted,
        lambda: mlp(16, 256, 10),
        lambda rows: (normal(10).abs(), normal(rows, 16), labels(rows)),
        [("x", 0), ("y", 0)],
        0.25,
    ),
    "a queue first": (
        against_a_queue,
        lambda: mlp(16, 256, 12),
        lambda rows: (normal(2, 30, 12), normal(rows, 16)),
        [("x", 0)],
        0.25,
    ),
    "anchors first": (
        to_anchors,
        lambda: mlp(16, 256, 4),
        lambda rows: (normal(9, 4), normal(rows, 16)),
        [("x", 0)],
        0.25,
    ),
    "anchors first, before a break": (
        behind_a_break,
        lambda: mlp(16, 256, 4),
        lambda rows: (normal(9, 4), normal(rows, 16)),
        [("x", 0)],
        0.25,
    ),
    "a list of ids first": (
        to_words,
        Matched,
        lambda rows: (torch.arange(40) % 20, normal(rows, 3, 4, 4), normal(rows)),
        [("images", 0), ("y", 0)],
        0.3,
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_batch_is_what_the_graph_computes_with(name):
    step, model, data, split, most = STEPS[name]
    ran = same(step, model(), data=lambda rows, seed: data(rows), sizes=(ROWS, 100, ROWS), steps=8)
    ours, model = ran.step, ran.given[0]
    assert chosen(ours) == (split, ROWS)
    assert small.runs(ours, model, *data(ROWS))[-1:] == [(ROWS, 8)]
    assert share(ours, model, *data(ROWS)) < most
    (line, *_) = [line for line in ours.explain(model, *data(ROWS)).chosen if line.startswith("batch: ")]
    assert f"of size {ROWS}: " in line


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (i % 3 > 0)) for i, n in enumerate(STEPS)])
def test_the_choice_is_made_once(name):
    """Calls with other numbers of rows capture nothing again, and the last batch of all is no other choice."""
    step, model, data, split, _ = STEPS[name]
    ours, model = small.eager(step, steps=8), model()
    for rows in (ROWS, 100, 100):
        ours(model, *data(rows))
    before = torch._dynamo.utils.counters["frames"]["total"]
    for rows in (ROWS, 40, 10, ROWS):
        ours(model, *data(rows))
        assert chosen(ours) == (split, rows)
    assert torch._dynamo.utils.counters["frames"]["total"] <= before + 1


def test_why_a_candidate_was_chosen():
    anchors, x = normal(9, 4), normal(ROWS, 16)
    report = small.eager(to_anchors).explain(mlp(16, 256, 4), anchors, x)
    assert report.chosen == (
        "batch: dim 0 of x, of size 256: it shards 1.0 MiB of what the step makes, where anchors, of size 9 along "
        "dim 0, shards 36 KiB",
    )
    step = small.eager(weighted)
    report = step.explain(mlp(16, 256, 10), normal(10).abs(), x, labels(ROWS))
    assert report.chosen == ("batch: dim 0 of x, y, of size 256: that of weight became a constant",)
    assert [small.text(n) for n in report.notes] == [
        "weight: dim 0 is no batch, its size 10 became a constant at test_chosen_batch.py:N"
    ]
    assert report.chosen[0] in str(report)


def test_a_packed_row_is_told_how_to_declare_it():
    report = small.eager(of_tokens).explain(Tokens(attends=True), *packed(64))
    assert report.chosen == (
        "batch: dim 1 of ids, labels, of size 64: the first dim that is larger than 1, and what has its size",
        'its one row is split, as batch_dims={"ids": 1, "labels": 1} says, too',
    )


def test_a_larger_input_of_another_size_is_named():
    def step(model, x, y, mask):
        loss = F.cross_entropy(model[1:](model[0](x) @ mask), y)
        loss.backward()
        return loss.detach()

    data = normal(64, 16), labels(64), normal(256, 256)
    report = small.eager(step).explain(mlp(16, 256, 10), *data)
    assert report.chosen == (
        "batch: dim 0 of x, y, of size 64: the first tensor of data, and what has its size",
        'mask is larger (512 KiB), and of size 256 along dim 0: batch_dims={"mask": 0} splits that instead',
    )
    step = small.eager(step, batch_dims={"x": 0})
    assert step.explain(mlp(16, 256, 10), *data).chosen[0].endswith("of size 64: declared, and what has that size")


def test_a_larger_input_that_cannot_be_split_is_no_advice():
    data = normal(100).abs(), normal(12, 4), labels(12)
    report = small.eager(weighted).explain(mlp(4, 8, 100), *data)
    assert report.chosen == ("batch: dim 0 of x, y, of size 12: that of weight became a constant",)


def test_a_line_that_fixes_the_batch_is_blamed_and_no_other():
    """Class weights fix their size too, but they are no batch: nobody need repair that line."""

    def step(model, weight, x, y):
        logits = model(x.view(12, 16))
        loss = F.cross_entropy(logits, y.view(12), weight=weight)
        loss.backward()

    ours, data = small.eager(step), (normal(10).abs(), normal(12, 16), labels(12))
    for _ in range(2):
        said = small.refused(ours, mlp(16, 256, 10), *data)
        assert "AC015" in said
        assert "logits = model(x.view(12, 16))" in said
        assert "fixes that of x to 12" in said


def test_a_batch_that_is_fixed_beside_another_candidate_is_a_warning():
    def step(model, x, table):
        loss = model(x.view(12, 16)).square().mean() + (table * model[0].bias.sum()).square().mean()
        loss.backward()
        return loss.detach()

    step, model = small.eager(step), mlp(16, 256, 10)
    (said,) = small.warned(step, model, normal(12, 16), normal(9))
    assert "AC016: the batch size of x became a constant" in said
    assert "loss = model(x.view(12, 16))" in said


def test_as_many_classes_as_samples():
    """The weights lead the first call, as the first tensor of the batch's size; the samples take over."""
    step, model = small.eager(weighted), mlp(16, 256, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in (10, 30, 10):
            model.zero_grad()
            small.assert_equal(step, model, normal(10).abs(), normal(rows, 16), labels(rows))
            assert step.session.choice.size == rows
        assert small.runs(step, model, normal(10).abs(), normal(30, 16), labels(30))[-1] == (30, 4)


@pytest.mark.parametrize("first", [1, 2])
def test_a_first_batch_that_is_small_decides_nothing_for_good(first):
    step, model = small.eager(against_a_queue), mlp(16, 256, 12)
    for rows in (first, ROWS, 3, ROWS):
        model.zero_grad()
        small.assert_equal(step, model, normal(2, 30, 12), normal(rows, 16))
    assert small.runs(step, model, normal(2, 30, 12), normal(ROWS, 16)) == [(ROWS, 4)]


def test_one_sample_beside_class_weights_runs_as_it_is():
    step, model = small.eager(weighted), mlp(16, 8, 10)
    for rows in (1, 12, 1):
        model.zero_grad()
        small.assert_equal(step, model, normal(10).abs(), normal(rows, 16), labels(rows))
    assert "a batch of one runs as it is" in step.session.notes
    assert small.runs(step, model, normal(10).abs(), normal(12, 16), labels(12))[-1] == (12, 4)


def test_rows_and_a_packed_row_by_turns():
    step, model = small.eager(of_tokens), Tokens()
    for ids in (torch.randint(0, 50, shape) for shape in ((1, 64), (8, 64), (1, 64), (6, 64))):
        model.zero_grad()
        small.assert_equal(step, model, ids, ids)
    assert small.runs(step, model, ids, ids)[-1] == (6, 3)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.out = nn.GRU(8, 16, dtype=torch.float64), nn.Linear(16, 10, dtype=torch.float64)

    def forward(self, x):
        return self.out(self.rnn(x)[0][-1])


def test_sequences_with_time_in_front():
    """The number of steps in time is no batch: the layer unrolls it. That is no fault, as dim 1 is the batch's."""
    step, model = small.eager(small.plain, steps=8), Recurrent()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows in (64, 40):
            model.zero_grad()
            small.assert_equal(step, model, normal(5, rows, 8), labels(rows))
    assert small.runs(step, model, normal(5, 64, 8), labels(64)) == [(64, 8)]
    assert share(step, model, normal(5, 64, 8), labels(64)) < 0.3
