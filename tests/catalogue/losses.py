"""Losses: each keeps its own denominator, however the samples are spread over micro-batches."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, mlp, row

CLASSES, VOCABULARY, TOKENS = 5, 11, 6
IGNORED = -100


def regression(loss_fn) -> Case:
    model = mlp(4, 8, 2)
    return fit(model, lambda x, y: loss_fn(model(x), y), lambda n: call(torch.randn(n, 4), torch.randn(n, 2)))


def classification(loss_fn, labels=lambda n: torch.randint(CLASSES, (n,))) -> Case:
    model = mlp(4, 8, CLASSES)

    def loss(x, y):
        return loss_fn(model(x), y)

    return fit(model, loss, lambda n: call(torch.randn(n, 4), labels(n)))


def language_modelling(loss_fn, labels) -> Case:
    """`loss_fn` gets logits [batch, tokens, vocabulary] and labels [batch, tokens]."""
    model = nn.Sequential(nn.Embedding(VOCABULARY, 8), nn.Tanh(), nn.Linear(8, VOCABULARY))
    return fit(
        model,
        lambda tokens, y: loss_fn(model(tokens), y),
        lambda n: call(torch.randint(VOCABULARY, (n, TOKENS)), labels(n)),
    )


def token_mean(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def labels_of_growing_length(n):
    """One token in the first sample, all tokens in the last: no two micro-batches count the same."""
    return labels_of_lengths(torch.linspace(1, TOKENS, n).round())


def labels_that_begin_ignored(n):
    """The first five samples have no label at all: most ways to split give a micro-batch of no tokens."""
    return labels_of_lengths(torch.where(torch.arange(n) < 5, 0, TOKENS))


def labels_of_lengths(lengths):
    labels = torch.randint(VOCABULARY, (len(lengths), TOKENS))
    return labels.masked_fill(torch.arange(TOKENS) >= lengths[:, None], IGNORED)


@row(Cost(loops=1))
def mse_mean():
    """The count is the batch size, which is known before anything runs."""
    return regression(F.mse_loss)


@row(Cost(loops=1))
def mse_sum():
    return regression(lambda prediction, y: F.mse_loss(prediction, y, reduction="sum"))


@row(Cost(loops=1))
def huber_mean():
    return regression(lambda prediction, y: F.huber_loss(prediction, y, delta=0.5))


@row(Cost(loops=1))
def sum_over_batch_size():
    """`x.shape[0]` is a value here: the full batch's, in every micro-batch."""
    return regression(lambda prediction, y: (prediction - y).square().sum() / prediction.shape[0])


@row(Cost(loops=2, reduce=["return loss_fn(model(x), y)"]))
def cross_entropy_mean():
    """Any label could be -100: the labels are counted in stage 0, the model runs once, in stage 1."""
    return classification(F.cross_entropy)


@row(Cost(loops=1))
def cross_entropy_sum():
    return classification(lambda logits, y: F.cross_entropy(logits, y, reduction="sum"))


@row(Cost(loops=1))
def soft_target_cross_entropy():
    """Targets that are distributions cannot be ignored: nothing is counted."""
    return classification(
        lambda logits, y: F.cross_entropy(logits, y), lambda n: torch.randn(n, CLASSES).softmax(dim=1)
    )


@row(Cost(loops=1))
def kl_divergence_batchmean():
    return classification(
        lambda logits, y: F.kl_div(logits.log_softmax(dim=1), y, reduction="batchmean"),
        lambda n: torch.randn(n, CLASSES).softmax(dim=1),
    )


@row(Cost(loops=2, reduce=["return (losses * mask).sum() / mask.sum()"]))
def cross_entropy_none_then_masked():
    """`mask.sum()` depends on the labels alone: stage 0, one reduce; the model runs once."""

    def loss_fn(logits, labels):
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        mask = (labels != IGNORED).to(losses.dtype)
        return (losses * mask).sum() / mask.sum()

    return language_modelling(loss_fn, labels_of_growing_length)


@row(Cost(loops=2, reduce=["return F.cross_entropy(logits.flatten(0, 1), labels.flatten())"]))
def cross_entropy_ignore_index_uneven():
    """The row on which a loop that divides each micro-batch's mean is wrong. One reduce: the token count."""
    return language_modelling(token_mean, labels_of_growing_length)


@row(Cost(loops=2, reduce=["return F.cross_entropy(logits.flatten(0, 1), labels.flatten())"]))
def cross_entropy_all_ignored_micro_batch():
    """The mean of an empty micro-batch is 0 / 0: it must never be formed. One reduce: the token count."""
    return language_modelling(token_mean, labels_that_begin_ignored)


@row(
    Cost(
        loops=2,
        reduce=["lambda logits, labels: F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1),"]
        * 2,
    )
)
def cross_entropy_label_smoothing():
    """Both terms are divided by counts of the labels alone: two loops."""
    return language_modelling(
        lambda logits, labels: F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1),
        labels_of_growing_length,
    )


@row(Cost(loops=2, reduce=["return F.cross_entropy(logits, y, weight=weight)"]))
def cross_entropy_class_weights():
    """The denominator is the sum of the labels' weights: one reduce, two loops."""
    weight = torch.linspace(0.5, 2.0, CLASSES)

    def loss_fn(logits, y):
        return F.cross_entropy(logits, y, weight=weight)

    return classification(loss_fn)


@row(
    Cost(
        loops=2,
        reduce=["return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight, label_smoothing=0.1)"]
        * 2,
    )
)
def cross_entropy_everything():
    """Class weights, label smoothing and ignored labels at once: still two loops."""
    weight = torch.linspace(0.5, 2.0, VOCABULARY)

    def loss_fn(logits, labels):
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), weight=weight, label_smoothing=0.1)

    return language_modelling(loss_fn, labels_that_begin_ignored)


@row(Cost(loops=1))
def bce_pos_weight():
    pos_weight = torch.linspace(0.5, 3.0, CLASSES)
    return classification(
        lambda logits, y: F.binary_cross_entropy_with_logits(logits, y, pos_weight=pos_weight),
        lambda n: torch.randint(2, (n, CLASSES)).to(torch.get_default_dtype()),
    )


@row(Cost(loops=2, reduce=["token_mean = losses.sum() / counts.sum()"]))
def sequence_mean_and_token_mean():
    """Two means in one loss. Only the token count is a sum over the batch: one reduce, two loops."""

    def loss_fn(logits, labels):
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        counts = (labels != IGNORED).sum(dim=1)
        token_mean = losses.sum() / counts.sum()
        sequence_mean = (losses.sum(dim=1) / counts).mean()
        return token_mean + sequence_mean

    return language_modelling(loss_fn, labels_of_growing_length)


@row(Cost(loops=2, reduce=["box_loss = (boxes * positive).sum() / positive.sum()"]))
def two_terms_with_their_own_denominators():
    """A detector's loss: classes over all samples, boxes over the positives. The positives are one reduce."""

    def loss_fn(prediction, y):
        positive = (y > 0).to(prediction.dtype)
        boxes = F.smooth_l1_loss(prediction[:, 1:].sum(dim=1), y / 4.0, reduction="none")
        box_loss = (boxes * positive).sum() / positive.sum()
        class_loss = F.binary_cross_entropy_with_logits(prediction[:, 0], positive)
        return class_loss + box_loss

    return classification(loss_fn)


@row(Cost(loops=2, reduce=["return (weight * (prediction - y).square()).sum() / weight.sum()"] * 2))
def importance_weights_of_sum_one():
    """Weights that come from the model: their sum has a gradient too, so the forward pass is needed twice."""

    def loss_fn(prediction, y):
        weight = prediction.exp()
        return (weight * (prediction - y).square()).sum() / weight.sum()

    return regression(loss_fn)


@row(Cost(loops=2, reduce=["return 1.0 - 2.0 * overlap / total", "total = p.sum() + target.sum()"]))
def global_dice():
    """A quotient of sums over the batch. Two loops: the sums, then the backward pass that needs them."""

    def loss_fn(prediction, y):
        p, target = prediction.sigmoid(), (y > 0).to(prediction.dtype)
        overlap = (p * target).sum()
        total = p.sum() + target.sum()
        return 1.0 - 2.0 * overlap / total

    return regression(loss_fn)


@row(Cost(loops=2, reduce=["return F.mse_loss(prediction, y).exp()"]))
def exp_of_loss_optimised():
    """The gradient is exp(mean) times the mean's: the backward pass waits for the finished mean."""

    def loss_fn(prediction, y):
        return F.mse_loss(prediction, y).exp()

    return regression(loss_fn)


@row(Cost(loops=2, reduce=["return (F.mse_loss(prediction, y) - 1.0).abs() + 1.0"]))
def flooding():
    """|loss - b| + b: the sign comes from the full batch's mean, which two loops must agree on."""

    def loss_fn(prediction, y):
        return (F.mse_loss(prediction, y) - 1.0).abs() + 1.0

    return regression(loss_fn)


@row(Cost(loops=2, reduce=["return F.mse_loss(prediction, y).sqrt()"]))
def root_mean_square_error():

    def loss_fn(prediction, y):
        return F.mse_loss(prediction, y).sqrt()

    return regression(loss_fn)


@row(Cost(loops=3, reduce=["return losses.logsumexp(dim=0)"] * 2))
def logsumexp_over_batch():
    """A soft maximum of the samples' losses: the largest (or the sum), then the backward pass."""

    def loss_fn(prediction, y):
        losses = (prediction - y).square().sum(dim=1)
        return losses.logsumexp(dim=0)

    return regression(loss_fn)


@row(Cost(loops=3, reduce=["return losses.max()"] * 2))
def hardest_sample():
    """The loss of one sample out of all: the maximum is reduced, or the samples' losses are gathered."""

    def loss_fn(prediction, y):
        losses = (prediction - y).square().sum(dim=1)
        return losses.max()

    return regression(loss_fn)
