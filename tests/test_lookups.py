"""Lookups that name the batch's rows: each form equal to the full batch, and none of them gathers the batch."""

import pytest
import torch
import torch.nn.functional as F

from accumcompile import accumulate

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
BATCH, CLASSES, PARTS = 12, 8, 3


def rows(h):
    """One number for each sample, in order."""
    return torch.arange(h.shape[0])


def cube(h):
    return h.view(-1, CLASSES, PARTS)


def assigned(h, label, part):
    out = torch.zeros(h.shape[0], CLASSES, PARTS, dtype=h.dtype)
    out[rows(h), label] = cube(h)[:, 0]
    return out.tanh()


def added(h, label, part):
    out = h.tanh()
    return out.index_put((rows(h)[:, None], torch.stack([label, label], 1)), h[:, :2], accumulate=True).tanh()


BY_ARANGE = {
    "a column each": lambda h, label, part: h[rows(h), label].tanh(),
    "a row of columns each": lambda h, label, part: cube(h)[rows(h), label].tanh(),
    "two lookups": lambda h, label, part: cube(h)[rows(h), label, part[:, 0]].tanh(),
    "indices apart": lambda h, label, part: cube(h)[rows(h), :, part[:, 0]].tanh(),
    "several each": lambda h, label, part: cube(h)[rows(h)[:, None], label[:, None], part].tanh(),
    "batch in the middle": lambda h, label, part: cube(h).transpose(0, 1)[:, rows(h)[:, None], part].tanh(),
    "assigned": assigned,
    "added, with duplicates": added,
    "reflected edges": lambda h, label, part: F.pad(h.view(-1, 2, 3, 4), (1, 1, 2, 2), mode="reflect").tanh(),
}


def run(lookup):
    """The largest relative difference of loss and gradient, and the report."""
    torch.manual_seed(0)
    model = torch.nn.Linear(5, CLASSES * PARTS).double()
    batch = (
        torch.randn(BATCH, 5).double(),
        torch.randint(-CLASSES, CLASSES, (BATCH,)),
        torch.randint(0, PARTS, (BATCH, 2)),
    )

    def step(x, label, part):
        model.zero_grad()
        loss = lookup(model(x), label, part).sum()
        loss.backward()
        return torch.cat([loss.detach()[None], model.weight.grad.flatten()])

    full = step(*batch)
    accumulated = accumulate(steps=5, lowering="eager")(step)
    difference = (accumulated(*batch) - full).abs().max() / full.abs().max()
    return difference.item(), accumulated.explain(*batch)


@pytest.mark.parametrize("lookup", BY_ARANGE.values(), ids=BY_ARANGE)
def test_indexing_by_arange_needs_one_loop(lookup):
    difference, report = run(lookup)
    assert difference <= 1e-12
    assert (len(report.loops), report.barriers) == (1, ())


BY_POSITION = {
    "the first": (lambda h, label, part: h.tanh()[0] * h, 1),
    "the last, and its gradient everywhere": (lambda h, label, part: (h.tanh() - h[-1].exp()).square(), 1),
    "a flag": (lambda h, label, part: torch.where((h > 0)[3], h, 2 * h), 1),
    "a count": (lambda h, label, part: (h > 0).sum(1)[-2] * h, 1),
}


@pytest.mark.parametrize(("lookup", "barriers"), BY_POSITION.values(), ids=BY_POSITION)
def test_one_sample_is_a_sum_of_one_term(lookup, barriers):
    difference, report = run(lookup)
    assert difference <= 1e-12
    assert {barrier.kind for barrier in report.barriers} == {"reduce"}
    assert max(barrier.bytes for barrier in report.barriers) <= CLASSES * PARTS * 8, "more than one sample was moved"
    assert len(report.barriers) >= barriers


def put(h):
    out = torch.zeros_like(h)
    out[0], out[-1] = h[-1], h[1].exp()
    return out * h


# Of a batch seen as rows that several samples share: [pairs, 2 x 24], [three to two samples, 16], ...
SHARED = {
    "the first pair": lambda h, label, part: h.tanh().view(-1, 48)[0],
    "the last pair": lambda h, label, part: h.tanh().view(-1, 2, 24)[-1] * h.view(-1, 2, 24),
    "the fifth of three rows to two samples": lambda h, label, part: h.tanh().view(-1, 16)[4],
    "counted": lambda h, label, part: h.view(-1, 16).tanh() * rows(h.view(-1, 16))[:, None],
    "picked": lambda h, label, part: h.view(-1, 48).tanh()[rows(h.view(-1, 48)), label[::2]],
    "put": lambda h, label, part: put(h.view(-1, 2, 24)),
    "a triangle within each third": lambda h, label, part: h.view(3, -1, 24).tanh().tril(),
    "a triangle of pairs": lambda h, label, part: (h.view(-1, 48) @ h.view(-1, 48).T).tril(),
}


@pytest.mark.parametrize("lookup", SHARED.values(), ids=SHARED)
def test_positions_of_rows_that_samples_share(lookup):
    difference, report = run(lookup)
    assert difference <= 1e-12
    assert report.loops


def test_a_column_of_similarities_is_looked_up_in_pieces():
    """Both directions of a contrastive loss: rows and columns of one [batch, batch] block, which is never gathered."""

    def loss(h, label, part):
        similarity = F.normalize(h[:, :8]) @ F.normalize(h[:, 8:16]).T
        return F.cross_entropy(similarity, rows(h)) + F.cross_entropy(similarity.T, rows(h))

    difference, report = run(loss)
    assert difference <= 1e-12
    assert sum(b.bytes for b in report.barriers if b.kind == "gather") == BATCH * 8 * 8  # one side's embeddings


def test_an_index_that_only_looks_like_a_count_is_looked_up():
    """Counting from 1, or as many as there are columns, does not name the batch's rows."""

    def lookup(h, label, part):
        shifted = (rows(h) + 1) % h.shape[0]
        return h[shifted, label].tanh() + h[:, : h.shape[0]][:, rows(h)].sum()

    difference, _ = run(lookup)
    assert difference <= 1e-12
