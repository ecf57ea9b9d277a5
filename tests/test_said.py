"""Nothing runs whole unsaid: graphs that hold the batch's data without its size, or its size alone."""

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

from accumcompile import AccumulateWarning

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from live import live_peak

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

ROWS = 256


def mlp(*widths):
    torch.manual_seed(0)
    layers = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, dtype=torch.float64), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def sequences(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 8, 16, dtype=torch.float64, generator=generator)
    return x, torch.rand(rows, 8, generator=generator) > 0.3


@torch.compiler.disable
def unpad(x, mask):
    return x[mask]


def unpadded(model, x, mask):
    loss = model(unpad(x, mask)).square().mean()
    loss.backward()
    return loss.detach()


def picked_behind_a_break(model, x, mask):
    torch._dynamo.graph_break()
    flat = x[mask]
    torch._dynamo.graph_break()
    loss = model(flat).square().mean()
    loss.backward()
    return loss.detach()


def unpadded_beside_the_mask(model, x, mask):
    loss = model(unpad(x, mask)).square().sum() / mask.sum()
    loss.backward()
    return loss.detach()


def picked_of_a_model(model, x, mask):
    """Most is made before the rows are picked: there the batch is split, and behind it the rows."""
    picked = unpad(model[:2](x), mask)
    loss = model[2](picked).square().mean()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("step", [unpadded, picked_behind_a_break, unpadded_beside_the_mask])
def test_rows_that_were_picked_outside_of_the_graph_are_split(step):
    ran = same(step, mlp(16, 256, 10), data=sequences, sizes=(64, 40, 64), steps=8)
    model, data = ran.given[0], sequences(64, seed=2)
    rows = int(data[1].sum())
    report = ran.step.explain(model, *data)
    assert (rows, 8) in {(g.batch, len(g.micro_batches)) for g in report.graphs if g.road == "fused"}
    model.zero_grad()
    ours = live_peak(lambda: ran.step(model, *data))
    model.zero_grad()
    assert ours < 0.25 * live_peak(lambda: step(model, *data))


def test_a_model_that_runs_whole_beside_a_split_one_is_listed():
    """The second model's rows have another number, which its code fixes."""

    @torch.compiler.disable
    def prepared(x):
        return x[:100] * 2

    def step(a, b, x):
        loss = a(x).square().mean()
        loss.backward()
        other = b(prepared(x).view(100, 16)).square().mean()
        other.backward()
        return loss.detach() + other.detach()

    step, models = small.eager(step), (mlp(16, 32, 10), mlp(16, 64, 10))
    x = torch.randn(ROWS, 16, dtype=torch.float64)
    with pytest.warns(AccumulateWarning, match="AC041: a part .* ran on the full batch: b.0.bias"):
        step(*models, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccumulateWarning)
        report = step.explain(*models, x)
    (line,) = {value.code for value in report.whole if value.known}
    assert line == "other = b(prepared(x).view(100, 16)).square().mean()"
    assert max(value.bytes for value in report.whole) == 100 * 64 * 8
    assert "computed on the full batch" in str(report)


def test_what_no_graph_holds_is_listed():
    """A model that Dynamo never sees."""

    @torch.compiler.disable
    def regularised(model, x):
        return model(x).square().mean()

    def step(a, b, x):
        loss = a(x).square().mean() + regularised(b, x)
        loss.backward()
        return loss.detach()

    step, models = small.eager(step), (mlp(16, 32, 10), mlp(16, 64, 10))
    x = torch.randn(ROWS, 16, dtype=torch.float64)
    with pytest.warns(AccumulateWarning, match="AC021"):
        step(*models, x)
    report = step.explain(*models, x)
    (value,) = report.whole
    assert value.name.startswith("b.0.bias, b.0.weight")
    assert not value.known


def test_a_graph_without_data_of_the_batch_is_free():
    """A penalty on the parameters, behind a break: nothing of the batch, and nothing to say."""

    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        torch._dynamo.graph_break()
        penalty = sum(p.square().sum() for p in model.parameters())
        torch._dynamo.graph_break()
        (loss + 0.1 * penalty).backward()
        return loss.detach()

    step, model = small.eager(step), small.net()
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccumulateWarning)
        small.assert_equal(step, model, *small.data(12))
        assert step.explain(model, *small.data(12)).whole == ()


# The batch as a number


def of_indices(model, real):
    """A generator whose noise is no noise: every lowering computes the same."""
    noise = torch.arange(len(real), dtype=torch.float64)[:, None] * torch.linspace(0, 1, 64, dtype=torch.float64)
    loss = model(noise).square().mean()
    loss.backward()
    return loss.detach()


def of_indices_behind_a_break(model, real):
    rows = len(real)
    torch._dynamo.graph_break()
    noise = torch.arange(rows, dtype=torch.float64)[:, None] * torch.linspace(0, 1, 64, dtype=torch.float64)
    loss = model(noise).square().mean()
    loss.backward()
    return loss.detach()


def real(rows, seed=0):
    return (torch.randn(rows, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)),)


@pytest.mark.parametrize("step", [of_indices, of_indices_behind_a_break])
def test_a_graph_that_receives_the_batch_as_a_number_is_split(step):
    ran = same(step, mlp(64, 256, 16), data=real, sizes=(ROWS, 100, ROWS), steps=8)
    model = ran.given[0]
    report = ran.step.explain(model, *real(ROWS))
    assert [(loop.micro_batches, loop.micro_batch_size) for loop in report.loops] == [(8, 32)]
    assert (report.whole, report.gathered_bytes) == ((), 0)
    model.zero_grad()
    ours = live_peak(lambda: ran.step(model, *real(ROWS)))
    model.zero_grad()
    assert ours < 0.3 * live_peak(lambda: step(model, *real(ROWS)))


@pytest.mark.inductor
def test_noise_drawn_by_seed_is_split():
    """Inductor draws a micro-batch's part of it; compared with the full batch through the same code."""

    def step(generator, critic, real):
        loss = -critic(generator(torch.randn(len(real), 64))).mean()
        loss.backward()
        return loss.detach()

    def losses(steps):
        torch._dynamo.reset()
        models = [mlp(64, 256, 16).float(), mlp(16, 256, 1).float()]
        ours = small.eager(step, steps=steps, lowering="inductor")
        torch.manual_seed(3)
        value = ours(*models, *(x.float() for x in real(64)))
        return ours, models, value

    (ours, models, value), (_, whole, expected) = losses(8), losses(1)
    torch.testing.assert_close(value, expected)
    for a, b in zip(models, whole, strict=True):
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)
    report = ours.explain(*models, *(x.float() for x in real(64)))
    assert {(loop.micro_batches, loop.micro_batch_size) for loop in report.loops} == {(8, 8)}


# A Python list of one tensor for each sample


def stacked(model, xs, ys):
    loss = F.cross_entropy(model(torch.stack(xs)), torch.stack(ys))
    loss.backward()
    return loss.detach()


def padded(model, xs, y):
    x = nn.utils.rnn.pad_sequence(xs, batch_first=True)
    loss = F.cross_entropy(model(x).mean(1), y)
    loss.backward()
    return loss.detach()


def joined(model, xs, y):
    lengths = torch.tensor([len(x) for x in xs])
    loss = (model(torch.cat(xs)).square().sum(1) / lengths.sum()).sum() + y.double().mean() * model[0].bias.sum()
    loss.backward()
    return loss.detach()


def cut_to_the_first(model, xs, y):
    """The first sample decides the length of all."""
    length = xs[0].shape[0]
    x = torch.stack([each[:length] for each in xs])
    loss = F.cross_entropy(model(x).mean(1), y)
    loss.backward()
    return loss.detach()


def samples(rows, seed=0, shortest=5, spread=3):
    generator = torch.Generator().manual_seed(seed)
    lengths = [shortest + i % spread for i in range(rows)]
    xs = [torch.randn(n, 16, dtype=torch.float64, generator=generator) for n in lengths]
    return xs, torch.randint(0, 10, (rows,), generator=generator)


def of_one_shape(rows, seed=0):
    xs, y = samples(rows, seed)
    return [x[0] for x in xs], list(y)


SAMPLED = {
    "stacked": (stacked, of_one_shape, 0.55),
    "padded": (padded, samples, 0.25),
    "joined": (joined, samples, 0.25),
    "cut to the first": (cut_to_the_first, samples, 0.25),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_a_list_of_samples_is_the_batch(name):
    step, data, most = SAMPLED[name]
    ran = same(step, mlp(16, 256, 10), data=data, sizes=(64, 40, 64), steps=8)
    model = ran.given[0]
    assert ran.step.session.choice.size == 64
    report = ran.step.explain(model, *data(64, 2))
    assert {len(graph.micro_batches) for graph in report.graphs if graph.road == "fused"} == {8}
    model.zero_grad()
    ours = live_peak(lambda: ran.step(model, *data(64, 2)))
    model.zero_grad()
    assert ours < most * live_peak(lambda: step(model, *data(64, 2)))


def test_a_list_of_samples_is_remembered_as_one():
    """A last batch of two samples that are equally long says nothing by itself."""
    step, model = small.eager(padded), mlp(16, 64, 10)
    for rows, spread in ((12, 3), (2, 1), (12, 3)):
        model.zero_grad()
        small.assert_equal(step, model, *samples(rows, spread=spread))
        assert step.session.choice.size == rows


def test_targets_of_each_image_in_a_list_are_no_batch_by_themselves():
    """As in detection: a dict for each image. What is joined of them in the loss breaks no graph."""

    def step(model, images, targets):
        out = model(images)
        wanted = torch.stack([target["boxes"].mean(0) for target in targets])
        loss = (out - wanted).square().mean()
        loss.backward()
        return loss.detach()

    def data(rows):
        xs, _ = samples(rows)
        return torch.randn(rows, 16, dtype=torch.float64), [{"boxes": x} for x in xs]

    step, model = small.eager(step), mlp(16, 64, 16)
    said = small.refused(step, model, *data(12))  # the number of targets is that of the images
    assert "AC040" in said
    assert "targets is a Python list of 12 values" in said


def test_samples_that_stay_apart_are_told():
    def step(model, xs):
        loss = sum(model(x).square().mean() for x in xs) / len(xs)
        loss.backward()
        return loss.detach()

    step, model, (xs, _) = small.eager(step), mlp(16, 64, 10), samples(6)
    (said,) = small.warned(step, model, xs)
    assert "AC041: a part of the step was captured, and ran on the full batch: model.0.bias" in said
    report = step.explain(model, xs)
    assert {v.code for v in report.whole if v.known} >= {"loss = sum(model(x).square().mean() for x in xs) / len(xs)"}


def test_inputs_and_targets_in_a_list_are_no_samples():
    def step(model, batch):
        x, y = batch
        return small.plain(model, x, y)

    model = small.net()
    x, y = small.data(12)
    assert small.runs(small.eager(step), model, [x, y]) == [(12, 4)]
    crops = [torch.randn(12, 4, dtype=torch.float64) for _ in range(5)]

    def of_crops(model, crops):
        loss = sum(model(crop).square().mean() for crop in crops)
        loss.backward()
        return loss.detach()

    assert small.runs(small.eager(of_crops), model, crops) == [(12, 4)]


# Where little can be split


def plainly(model, x, y):
    loss = F.mse_loss(model(x), y)
    loss.backward()
    return loss.detach()


def model_apart(model, x, y):
    out = model(x)
    torch._dynamo.graph_break()
    loss = F.mse_loss(out, y)
    loss.backward()
    return loss.detach()


def pairs(features):
    def data(rows, seed=0):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(rows, features, dtype=torch.float64, generator=generator)
        return x, torch.randn(rows, 10, dtype=torch.float64, generator=generator)

    return data


HARMFUL = {
    "large gradients": (plainly, 256, 32, 1.0),  # 2.35
    "large gradients of a model alone": (model_apart, 256, 32, 1.0),  # 2.33
}


@pytest.mark.parametrize("name", HARMFUL)
def test_where_splitting_costs_memory_the_graph_runs_as_it_is(name):
    step, features, rows, most = HARMFUL[name]
    data = pairs(features)
    ran = same(step, mlp(features, 256, 10), data=data, sizes=(rows, rows - 2, rows), steps=8)
    model = ran.given[0]
    model.zero_grad()
    ours = live_peak(lambda: ran.step(model, *data(rows)))
    model.zero_grad()
    assert ours <= most * live_peak(lambda: step(model, *data(rows))) + 1024
    report = ran.step.explain(model, *data(rows))
    assert "plain" in [graph.road for graph in report.graphs]
    assert not [graph for graph in report.graphs if graph.road == "backward"]
    (said,) = [note for note in report.notes if "in micro-batches it would take" in note]
    assert said.startswith(f"a batch of {rows} ran as it is: ")
    assert report.whole


def test_the_same_graph_is_split_for_a_batch_that_is_worth_it():
    step, model, data = small.eager(plainly, steps=8), mlp(256, 256, 10), pairs(256)
    for rows, split in ((8, 1), (2048, 8), (8, 1)):
        model.zero_grad()
        small.assert_equal(step, model, *data(rows))
        assert small.runs(step, model, *data(rows)) == [(rows, split)]


def test_large_gradients_are_told():
    step, model = small.eager(plainly, steps=8), nn.Linear(1024, 2048).double()
    model = nn.Sequential(model, nn.Linear(2048, 10).double())
    with pytest.warns(AccumulateWarning, match="AC039: a graph is not split"):
        step(model, *pairs(1024)(16))
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccumulateWarning)
        step(model, *pairs(1024)(16))


@pytest.mark.inductor
def test_numbers_drawn_by_seed_stay_the_compiled_ones():
    """As it is, the graph would draw others than the full batch does, compiled in the same way."""

    def step(model, x, y):
        loss = F.mse_loss(F.dropout(model(x)), y)
        loss.backward()
        return loss.detach()

    def loss(steps):
        torch._dynamo.reset()
        ours = small.eager(step, steps=steps, lowering="inductor")
        torch.manual_seed(3)
        return ours(mlp(256, 256, 10), *pairs(256)(32))

    torch.testing.assert_close(loss(8), loss(1))
