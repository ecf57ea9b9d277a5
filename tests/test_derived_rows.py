"""Loops over other rows than the batch's: those that data selects, a sorted or permuted batch, parts, and joined rows.

Each step says how many loops it may cost, and holds at most 0.30 of the memory that its full batch takes.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from fuzz.peak import measured
from small import eager
from torch import nn

from accumcompile import accumulate

FEATURES, WIDTH, CLASSES, ROWS, STEPS = 8, 48, 5, 1024, 8
SHARE = 0.30


def network(features=FEATURES):
    layers = [nn.Linear(features, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, CLASSES)]
    return nn.Sequential(*layers).double()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, FEATURES, dtype=torch.float64)
        self.network = network()

    def forward(self, tokens):
        return self.network(self.embedding(tokens))


def samples(rows):
    return torch.randn(rows, FEATURES, dtype=torch.float64), torch.randint(-1, CLASSES, (rows,))


def texts(rows):
    return torch.randint(0, 20, (rows, 4)), torch.randint(0, CLASSES, (rows, 4))


CASES = []


def case(loops, model=network, data=samples, share=SHARE, slow=False):
    def enter(loss):
        marks = [pytest.mark.slow] * slow
        CASES.append(pytest.param(loss, loops, model, data, share, id=loss.__name__, marks=marks))
        return loss

    return enter


# --- rows that data selects


@case(loops=2)
def masked(model, x, y):
    mask = y >= 0
    return F.cross_entropy(model(x[mask]), y[mask])


@case(loops=2, slow=True)
def filtered_by_value(model, x, y):
    keep = torch.where(x[:, 0] > 0)[0]
    return F.cross_entropy(model(x[keep]), y[keep].clamp(min=0))


@case(loops=1, slow=True)
def selected_by_index(model, x, y):
    return model(x.index_select(0, (y > 1).nonzero().squeeze(1))).square().mean()


@case(loops=1)
def masked_twice(model, x, y):
    some = x[y >= 0]
    return model(some[some[:, 0] > 0]).square().mean()


@case(loops=2, slow=True)
def two_masks(model, x, y):
    return model(x[y > 1]).mean() - model(x[y <= 1]).square().mean()


@case(loops=3, slow=True)
def masked_beside_the_batch(model, x, y):
    mask = y >= 0
    return F.cross_entropy(model(x[mask]), y[mask]) + 0.1 * model(x).square().mean()


@case(loops=3)
def routed_to_experts(model, x, y):
    return sum(model(x[y == k]).square().sum() for k in range(3)) / len(x)


@case(loops=4, slow=True)
def mined(model, x, y):
    """A second pass over what the first, without gradients, found hard."""
    with torch.no_grad():
        losses = F.cross_entropy(model(x), y.clamp(min=0), reduction="none")
    hard = losses > losses.mean()
    return F.cross_entropy(model(x[hard]), y[hard].clamp(min=0))


@case(loops=4)
def put_back(model, x, y):
    mask = y >= 0
    out = torch.zeros(len(x), CLASSES, dtype=x.dtype)
    out[mask] = model(x[mask])
    return F.cross_entropy(out, y.clamp(min=0))


@case(loops=2, slow=True)
def added_back(model, x, y):
    keep = (y > 0).nonzero().squeeze(1)
    out = torch.zeros(len(x), CLASSES, dtype=x.dtype).index_add(0, keep, model(x[keep]))
    return out.square().sum(1).mean()


@case(loops=3)
def contrasted_after_a_mask(model, x, y):
    z = F.normalize(model(x[y >= 0]), dim=-1)
    return F.cross_entropy(z @ z.T, torch.arange(len(z)))


@case(loops=2, slow=True)
def with_a_metric(model, x, y):
    mask = y >= 0
    out = model(x[mask])
    model.accuracy = (out.argmax(-1) == y[mask]).double().mean().detach()
    return F.cross_entropy(out, y[mask])


# --- tokens without their padding


@case(loops=2, model=Tokens, data=texts)
def unpadded(model, tokens, y):
    keep = (tokens.flatten() > 3).nonzero().flatten()
    return F.cross_entropy(model(tokens.flatten()[keep]), y.flatten()[keep])


@case(loops=5, model=Tokens, data=texts, slow=True)
def unpadded_after_the_embedding(model, tokens, y):
    mask = tokens > 4
    return F.cross_entropy(model.network(model.embedding(tokens)[mask]), y[mask])


@case(loops=4, model=Tokens, data=texts)
def logits_masked(model, tokens, y):
    """The logits are gathered, for data decides how many count; the losses have loops of their own."""
    mask = y > 0
    return F.cross_entropy(model(tokens)[mask], y[mask])


# --- another order


@case(loops=2)
def permuted(model, x, y):
    order = torch.randperm(len(x))
    return F.cross_entropy(model(0.7 * x + 0.3 * x[order]), y.clamp(min=0))


@case(loops=2, slow=True)
def sorted_by_label(model, x, y):
    order = y.argsort()
    return F.cross_entropy(model(x[order]), y[order].clamp(min=0))


@case(loops=1)
def sorted_into_pairs(model, x, y):
    z = model(x[y.argsort()]).view(-1, 2, CLASSES)
    return (z[:, 0] - z[:, 1]).square().mean()


@case(loops=2, slow=True)
def summed_up_to_each(model, x, y):
    return F.cross_entropy(model(x.cumsum(0) / 10), y.clamp(min=0))


# --- parts, and rows that are joined


@case(loops=1)
def interleaved(model, x, y):
    return (model(x[0::2]) - model(x[1::2])).square().mean()


@case(loops=1)
def whole_groups_only(model, x, y):
    n = len(x) // 4 * 4
    return model(x[:n]).view(n // 4, 4, -1).std(1).mean()


@case(loops=2)
def cut_in_two(model, x, y):
    n = len(x) // 3
    return model(x[:n]).square().mean() + model(x[n:]).abs().mean()


@case(loops=1, slow=True)
def halved(model, x, y):
    """An even batch: both halves are rows that two samples share."""
    n = len(x) // 2
    return model(x[:n]).square().mean() + model(x[n:]).abs().mean()


@case(loops=1, slow=True)
def neighbours(model, x, y):
    return model(x[1:] - x[:-1]).square().mean()


@case(loops=1)
def joined_with_a_selection(model, x, y):
    return model(torch.cat([x, x[y >= 0]])).square().mean()


@pytest.mark.parametrize(("loss", "loops", "model", "data", "share"), CASES)
def test_a_loop_runs_over_derived_rows(loss, loops, model, data, share):
    torch.manual_seed(0)
    ours, arguments = model(), data(ROWS)
    theirs = copy.deepcopy(ours)

    def step(model, x, y):
        value = loss(model, x, y)
        value.backward()
        return value.detach()

    split = accumulate(steps=STEPS, lowering="eager")(step)
    (graph,) = [g for g in split.explain(ours, *arguments).graphs if g.loops]
    assert len(graph.loops) == loops
    peaks = {}
    for name, run, net in (("split", split, ours), ("whole", step, theirs)):
        net.zero_grad()
        torch.manual_seed(1)
        with measured(lambda net=net: [p.grad for p in net.parameters()]) as peak:
            net.value = run(net, *arguments)
        peaks[name] = peak.bytes
    torch.testing.assert_close(ours.value, theirs.value, rtol=1e-10, atol=1e-12)
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-10, atol=1e-12)
    assert peaks["split"] <= share * peaks["whole"]


# --- batches of two sizes


def pseudo_labelled(model, x, y, weak, strong):
    with torch.no_grad():
        sure, target = model(weak).softmax(-1).max(-1)
    losses = F.cross_entropy(model(strong), target, reduction="none")
    return F.cross_entropy(model(x), y) + ((sure > 0.2) * losses).mean()


def joined_batches(model, x, y, weak, strong):
    out = model(torch.cat([x, strong]))
    return F.cross_entropy(out[: len(x)], y) + out[len(x) :].square().mean()


def real_and_fake(model, x, y, weak, strong):
    return model(x).mean() - model(weak).mean()


LOOPS_OF_TWO_BATCHES = {pseudo_labelled: 3, joined_batches: 5, real_and_fake: 2}


DECLARED = {"batch_dims": {"x": 0, "y": 0, "weak": 0, "strong": 0}}


@pytest.mark.parametrize(
    "options", (pytest.param({}, id="found"), pytest.param(DECLARED, id="declared", marks=pytest.mark.slow))
)
@pytest.mark.parametrize("loss", LOOPS_OF_TWO_BATCHES, ids=lambda loss: loss.__name__)
def test_batches_of_two_sizes_are_split_each_by_itself(loss, options):
    def step(model, x, y, weak, strong):
        value = loss(model, x, y, weak, strong)
        value.backward()
        return value.detach()

    ours = network()
    theirs = copy.deepcopy(ours)
    split = eager(step, steps=STEPS, **options)
    for labelled, unlabelled in ((512, 1536), (200, 1280), (64, 64)):
        x, y = torch.randn(labelled, FEATURES, dtype=torch.float64), torch.randint(0, CLASSES, (labelled,))
        others = [torch.randn(unlabelled, FEATURES, dtype=torch.float64) for _ in range(2)]
        peaks, values = [], []
        for run, model in ((split, ours), (step, theirs)):
            model.zero_grad()
            run(model, x, y, *others)  # captured
            model.zero_grad()
            with measured(lambda model=model: [p.grad for p in model.parameters()]) as peak:
                values.append(run(model, x, y, *others))
            peaks.append(peak.bytes)
        torch.testing.assert_close(*values)
        for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, expected.grad)
        if unlabelled > 64:
            assert peaks[0] <= SHARE * peaks[1]
    report = split.explain(ours, x, y, *others)
    (graph,) = report.graphs
    assert len(graph.loops) == LOOPS_OF_TWO_BATCHES[loss]
    found = any(line.startswith("rows of their own: dim 0 of ") for line in report.chosen)
    assert found is not bool(options)


def behind_a_break(model, x, y, more):
    loss = F.cross_entropy(model(x), y)
    torch._dynamo.graph_break()
    return loss + model(more).square().mean()


def taught_before_a_break(model, x, y, more):
    with torch.no_grad():
        target = model(more).softmax(-1)
    torch._dynamo.graph_break()
    return F.cross_entropy(model(x), y) + F.cross_entropy(model(more + 0.1), target)


def differentiated_first(model, x, y, more):
    first = F.cross_entropy(model(x), y)
    first.backward()
    return first.detach() + model(more).square().mean()


def only_at_times(model, x, y, more):
    loss = F.cross_entropy(model(x), y)
    return loss if more is None else loss + model(more).square().mean()


def means_matched(model, x, y, more):
    return (model(x).mean(0) - model(more).mean(0)).square().sum()


def contrasted(model, x, y, more):
    """Similarities carry both: split along x, their rows are whole."""
    return (F.normalize(model(x), dim=-1) @ F.normalize(model(more), dim=-1).T).logsumexp(1).mean()


def attended(model, x, y, more):
    queries, keys = model(x), model(more)
    return ((queries @ keys.T).softmax(1) @ keys - queries).square().mean()


OFTEN = (behind_a_break, differentiated_first, contrasted)
SELDOM = [
    pytest.param(f, marks=pytest.mark.slow) for f in (taught_before_a_break, only_at_times, means_matched, attended)
]


@pytest.mark.parametrize("loss", (*OFTEN, *SELDOM), ids=lambda loss: loss.__name__)
def test_rows_of_their_own_are_found_in_any_graph(loss):
    def step(model, x, y, more):
        value = loss(model, x, y, more)
        value.backward()
        return value.detach()

    ours = network()
    theirs = copy.deepcopy(ours)
    split = eager(step, steps=STEPS)
    for rows, further in ((512, 1536), (512, 512), (300, 37), (1024, 1536), (1024, 0)):
        x, y = torch.randn(rows, FEATURES, dtype=torch.float64), torch.randint(0, CLASSES, (rows,))
        more = torch.randn(further, FEATURES, dtype=torch.float64)
        if loss is only_at_times and further < 100:
            more = None
        elif further == 0:
            continue
        peaks, values = [], []
        for run, model in ((split, ours), (step, theirs)):
            model.zero_grad()
            run(model, x, y, more)  # captured
            model.zero_grad()
            with measured(lambda model=model: [p.grad for p in model.parameters()]) as peak:
                values.append(run(model, x, y, more))
            peaks.append(peak.bytes)
        torch.testing.assert_close(*values)
        for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, expected.grad)
        assert peaks[0] <= SHARE * peaks[1]


# --- numbers of rows


def average(model, x, y):
    mask = y >= 0
    loss = F.cross_entropy(model(x[mask]), y[mask], reduction="sum") + 0 * model(x).sum()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("kept", [0, 1, 7, 16])
def test_any_number_of_rows_may_be_left(kept):
    model = network()
    theirs = copy.deepcopy(model)
    x = torch.randn(16, FEATURES, dtype=torch.float64)
    y = torch.where(torch.arange(16) < kept, 1, -1)
    step = eager(average)
    step(model, torch.randn(12, FEATURES, dtype=torch.float64), torch.randint(-1, CLASSES, (12,)))  # captured before
    model.zero_grad()
    torch.testing.assert_close(step(model, x, y), average(theirs, x, y))
    for mine, expected in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad)


def test_few_samples_of_many_rows_make_as_many_micro_batches_as_asked_for():
    def step(model, tokens, y):
        real = tokens > 2
        loss = F.cross_entropy(model(tokens[real]), y[real])
        loss.backward()
        return loss.detach()

    model, (tokens, y) = Tokens(), (t.reshape(3, -1) for t in texts(ROWS + 2))
    split = eager(step, steps=STEPS)
    peaks = []
    for run in (split, step):
        run(model, tokens, y)
        model.zero_grad()
        with measured(lambda: [p.grad for p in model.parameters()]) as peak:
            run(model, tokens, y)
        peaks.append(peak.bytes)
    assert peaks[0] <= SHARE * peaks[1]


def test_explain_says_what_a_loop_runs_over():
    model, (x, y) = network(), samples(65)

    def step(model, x, y):
        n = len(x) // 2
        loss = model(x[:n]).square().mean() + model(x[y >= 0]).square().mean()
        loss.backward()

    text = str(eager(step).explain(model, x, y))
    assert "micro-batches of 8 of 32 rows" in text
    assert "micro-batches of as many rows as data decides" in text


def test_a_step_that_would_gain_little_has_no_further_loop():
    """The scores of a batch are sorted and averaged between the loops: they are few."""
    model, (x, y) = network(), samples(64)

    def step(model, x, y):
        losses = model(x).square().sum(1)
        loss = losses.sort().values[: len(x) // 2].mean()
        loss.backward()

    (graph,) = eager(step).explain(model, x, y).graphs
    assert [loop.over for loop in graph.loops] == ["", ""]
