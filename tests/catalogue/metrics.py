"""Values that a step returns beside its loss: they are the full batch's, whatever their kind."""

import torch
import torch.nn.functional as F

from .row import Case, Cost, call, mlp, row, sgd

CLASSES = 4


def measured(metric_fn) -> Case:
    """A classifier's step that returns `metric_fn(logits, labels, losses)` as well."""
    model = mlp(4, 8, CLASSES)
    optimizer = sgd(model)

    def step(x, y):
        optimizer.zero_grad()
        logits = model(x)
        losses = F.cross_entropy(logits, y, reduction="none")
        loss = losses.mean()
        loss.backward()
        optimizer.step()
        return loss.detach(), metric_fn(logits.detach(), y, losses.detach())

    def batch(n):
        return call(torch.randn(n, 4), torch.randint(CLASSES, (n,)))

    return Case(step, batch, {"model": model}, [optimizer])


@row(Cost(loops=1))
def logits_returned():
    return measured(lambda logits, y, losses: logits)


@row(Cost(loops=1))
def per_sample_losses_returned():
    return measured(lambda logits, y, losses: losses)


def counted(metric_fn) -> Case:
    """A classifier's step whose metrics are computed before backward, in the graph of the loss."""
    model = mlp(4, 8, CLASSES)
    optimizer = sgd(model)

    def step(x, y):
        optimizer.zero_grad()
        logits = model(x)
        losses = F.cross_entropy(logits, y, reduction="none")
        loss = losses.mean()
        with torch.no_grad():
            metric = metric_fn(logits, y, losses)
        loss.backward()
        optimizer.step()
        return loss.detach(), metric

    def batch(n):
        return call(torch.randn(n, 4), torch.randint(CLASSES, (n,)))

    return Case(step, batch, {"model": model}, [optimizer])


@row(Cost(loops=1))
def exp_of_loss_returned():
    """Perplexity: exp of the finished mean, not a mean of exps. After the loop, so no barrier."""
    return counted(lambda logits, y, losses: losses.mean().exp())


@row(Cost(loops=1))
def accuracy_returned():
    return counted(lambda logits, y, losses: (logits.argmax(dim=1) == y).to(logits.dtype).mean())


@row(Cost(loops=1))
def confusion_counts_returned():
    def confusion(logits, y, losses):
        predicted = F.one_hot(logits.argmax(dim=1), CLASSES)
        return F.one_hot(y, CLASSES).T @ predicted, (predicted.sum(dim=0), (logits.argmax(dim=1) == y).sum())

    return counted(confusion)


@row(Cost(loops=1))
def dictionary_of_metrics_returned():
    """Sums, counts, samples and a Python number, by name."""
    return counted(
        lambda logits, y, losses: {
            "correct": (logits.argmax(dim=1) == y).sum(),
            "entropy": torch.special.entr(logits.softmax(dim=1)).sum(dim=1),
            "rows": logits.shape[0],
        }
    )


@row(Cost(loops=1))
def extremes_returned():
    """A maximum and a minimum are partial values of their own kind."""
    return counted(lambda logits, y, losses: (losses.max(), logits.min(), logits.amax(dim=0)))


@row(Cost(loops=1))
def spread_returned():
    """A standard deviation over the batch, returned and not optimised: merged, it needs no second loop."""
    return counted(lambda logits, y, losses: (logits.std(dim=0), losses.var()))


@row(Cost(loops=1))
def hardest_sample_returned():
    """The number of a sample in the full batch. Its losses are gathered: eight bytes each."""
    return counted(lambda logits, y, losses: losses.argmax())


@row(Cost(loops=1))
def ranked_samples_returned():
    """Sorting gathers the losses, 8 bytes a sample; nothing that is trained depends on it."""
    return counted(lambda logits, y, losses: losses.sort(descending=True))


@row(Cost(loops=1))
def loss_terms_returned():
    """Two terms, each returned on its own beside their sum."""
    model = mlp(4, 8, 2)
    optimizer = sgd(model)

    def step(x, y):
        optimizer.zero_grad()
        prediction = model(x)
        fit_term = F.mse_loss(prediction, y)
        penalty = 0.1 * prediction.abs().mean()
        loss = fit_term + penalty
        loss.backward()
        optimizer.step()
        return loss.detach(), fit_term.detach(), penalty.detach()

    return Case(step, lambda n: call(torch.randn(n, 4), torch.randn(n, 2)), {"model": model}, [optimizer])
