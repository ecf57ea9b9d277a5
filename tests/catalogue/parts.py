"""Losses with a term on part of the batch, or on pairs within it: preferences with a supervised term, two views."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, mlp, row

WORDS, LENGTH, WIDTH = 7, 5, 4
SUPERVISED = Cost(loops=2, reduce=["return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())"])


def language_model() -> nn.Module:
    return nn.Sequential(nn.Embedding(WORDS, WIDTH), mlp(WIDTH, 8, WORDS))


def pairs(loss_fn, count: int = 2) -> Case:
    """``loss_fn(model, *texts)``: texts of n samples each, the chosen ones first; some labels do not count."""
    model = language_model()

    def text(n):
        labels = torch.randint(WORDS, (n, LENGTH))
        labels[: n // 2, :2] = -100
        return labels

    return fit(model, lambda *texts: loss_fn(model, *texts), lambda n: call(*(text(n) for _ in range(count))))


def concatenated(loss_fn) -> Case:
    """``loss_fn(model, texts)``: the chosen texts in the first half of one batch, the rejected ones in the second."""
    model = language_model()
    return fit(model, lambda texts: loss_fn(model, texts), lambda n: call(torch.randint(WORDS, (n, LENGTH))))


def log_probability(logits, labels, average=False):
    """Of each text: as trl computes it, with the labels that do not count overwritten."""
    labels, logits = labels[:, 1:].clone(), logits[:, :-1]
    counts = labels != -100
    labels[labels == -100] = 0
    each = logits.log_softmax(-1).gather(2, labels[..., None])[..., 0] * counts
    return each.sum(-1) / counts.sum(-1) if average else each.sum(-1)


def supervised(logits, labels):
    """Cross entropy of the next word."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def inputs(*texts):
    return torch.cat([text.clamp_min(0) for text in texts])


@row(SUPERVISED)
def odds_ratio_preference():
    """ORPO: the supervised term reads the chosen half, the odds both; averages of each text come first."""

    def loss_fn(model, chosen, rejected):
        n = chosen.shape[0]
        logits, labels = model(inputs(chosen, rejected)), torch.cat([chosen, rejected])
        average = log_probability(logits, labels, average=True)
        a, b = average[:n], average[n:]
        odds = (a - b) - (torch.log1p(-a.exp()) - torch.log1p(-b.exp()))
        return supervised(logits[:n], chosen) - 0.1 * F.logsigmoid(odds).mean()

    return pairs(loss_fn)


@row(SUPERVISED)
def preference_over_two_of_three():
    """The best text is compared with two others, and both of the better ones are learnt: two blocks of three."""

    def loss_fn(model, best, good, bad):
        n = best.shape[0]
        logits, labels = model(inputs(best, good, bad)), torch.cat([best, good, bad])
        a, b, c = log_probability(logits, labels).chunk(3)
        return supervised(logits[: 2 * n], labels[: 2 * n]) - F.logsigmoid(a - b).mean() - F.logsigmoid(b - c).mean()

    return pairs(loss_fn, count=3)


@row(SUPERVISED)
def preference_by_advantages():
    """Advantages are written into halves, so that no term but the mean reads all of the batch."""

    def loss_fn(model, chosen, rejected):
        n = chosen.shape[0]
        logits, labels = model(inputs(chosen, rejected)), torch.cat([chosen, rejected])
        advantage = logits.new_empty(2 * n)
        advantage[:n], advantage[n:] = 1, -0.5
        return supervised(logits[:n], chosen) - (log_probability(logits, labels) * advantage).mean()

    return pairs(loss_fn)


@row(SUPERVISED, batches=(12, 14))
def halves_of_a_batch_compared():
    """DPO as a collator prepares it: one batch, whose halves are compared. It is split along the halves' rows."""

    def loss_fn(model, texts):
        logits = model(texts)
        chosen, rejected = log_probability(logits, texts).chunk(2)
        return supervised(logits.chunk(2)[0], texts.chunk(2)[0]) - F.logsigmoid(chosen - rejected).mean()

    return concatenated(loss_fn)


@row(SUPERVISED)
def first_half_of_a_batch_learnt():
    """Nothing says that the batch is even: that is asked."""

    def loss_fn(model, texts):
        n, logits = texts.shape[0] // 2, model(texts)
        return supervised(logits[:n], texts[:n]) + 0.1 * logits.square().mean()

    return concatenated(loss_fn)


@row(SUPERVISED, batches=(12, 14))
def neighbours_by_position():
    """Samples 2 i and 2 i + 1 are a pair, picked and put by their positions."""

    def loss_fn(model, texts):
        even, logits = torch.arange(0, texts.shape[0], 2), model(texts)
        swapped = torch.zeros_like(logits)
        swapped[even], swapped[even + 1] = logits[even + 1], logits[even].detach()
        score = log_probability(logits, texts)
        return supervised(swapped, texts) - F.logsigmoid(score[even] - score[even + 1]).mean()

    return concatenated(loss_fn)


@row(SUPERVISED)
def halves_by_position():
    """``arange(n) + n`` is the second half, and so is what is added to its rows in the backward."""

    def loss_fn(model, chosen, rejected):
        n = chosen.shape[0]
        first, logits = torch.arange(n), model(inputs(chosen, rejected))
        score = log_probability(logits, torch.cat([chosen, rejected]))
        return supervised(logits[first], chosen) - F.logsigmoid(score[first] - score[first + n]).mean()

    return pairs(loss_fn)


@row(Cost(loops=2, reduce=["return F.cross_entropy(logits[:n], y) + unlabelled.mean()"]))
def labels_of_strong_views():
    """FixMatch: labelled samples, and two views of others, of which the weak one says what the strong one is."""
    model = mlp(5, 8, 3)

    def loss_fn(x, weak, strong, y):
        n, logits = x.shape[0], model(torch.cat([x, weak, strong]))
        weak, strong = logits[n:].chunk(2)
        sure, target = weak.detach().softmax(-1).max(-1)
        unlabelled = F.cross_entropy(strong, target, reduction="none") * (sure > 0.4)
        return F.cross_entropy(logits[:n], y) + unlabelled.mean()

    return fit(model, loss_fn, lambda n: call(*torch.randn(3, n, 5), torch.randint(3, (n,))))


@row(Cost(loops=2, reduce=["return F.cross_entropy(logits, y)"]))
def scores_masked_by_writing():
    """One value is written by a mask of the batch: into logits, whose gradient is masked in the same way."""
    model = mlp(5, 8, 6)

    def loss_fn(x, allowed, y):
        logits = model(x).clone()
        logits[~allowed] = -30.0
        return F.cross_entropy(logits, y)

    return fit(model, loss_fn, lambda n: call(torch.randn(n, 5), torch.rand(n, 6) > 0.3, torch.randint(6, (n,))))
