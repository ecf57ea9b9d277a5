"""Operations on the batch dimension itself: grouped, squeezed, sorted, indexed, accumulated."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, mlp, row

FEATURES = 4


def scored(loss_fn) -> Case:
    """`loss_fn` gets one score and one target a sample, [batch] each."""
    model = mlp(FEATURES, 8, 1)
    return fit(
        model,
        lambda x, y: loss_fn(model(x).squeeze(1), y),
        lambda n: call(torch.randn(n, FEATURES), torch.randn(n)),
    )


def embedded(loss_fn) -> Case:
    """`loss_fn` gets an embedding of four features a sample and a target of the same shape."""
    model = mlp(FEATURES, 8, FEATURES)
    return fit(
        model,
        lambda x, y: loss_fn(model(x), y),
        lambda n: call(torch.randn(n, FEATURES), torch.randn(n, FEATURES)),
    )


@row(Cost(loops=1), batches=(12, 16))
def groups_of_four():
    """GRPO: `view(-1, 4)` keeps fours together, and a micro-batch is some of them: one loop, no barrier."""

    def loss_fn(score, reward):
        grouped = reward.view(-1, 4)
        advantage = (grouped - grouped.mean(dim=1, keepdim=True)) / grouped.std(dim=1, keepdim=True)
        return -(score.view(-1, 4).sigmoid() * advantage).mean()

    return scored(loss_fn)


SPREAD = "spread = (groups - groups.mean(dim=1, keepdim=True)).square().mean()"


@row(
    Cost(loops=5, reduce=[SPREAD] * 2, gather=["lambda x, y: loss_fn(model(x), y),", SPREAD], gathered=768),
    batches=(12, 16),
)
def four_groups():
    """`view(4, -1)`: the group is a fourth of the batch. The embeddings are gathered, the groups' rows split again."""

    def loss_fn(z, y):
        groups = z.view(4, -1, FEATURES)
        spread = (groups - groups.mean(dim=1, keepdim=True)).square().mean()
        return F.mse_loss(z, y) + spread

    return embedded(loss_fn)


@row(Cost(loops=1), batches=(12, 16))
def samples_folded_into_features():
    """Four neighbours become one row of sixteen features, and a layer mixes them: granules of four."""
    model = nn.ModuleDict({"encoder": mlp(FEATURES, 6), "mixer": nn.Linear(24, 2)})

    def loss(x, y):
        folded = model["encoder"](x).tanh().view(-1, 24)
        return F.mse_loss(model["mixer"](folded), y.view(-1, 4, 2).mean(dim=1))

    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.randn(n, 2)))


@row(Cost(loops=1))
def batch_and_time_flattened():
    """`(b t)` and back, as every language model does before its loss."""
    model = mlp(FEATURES, 8, FEATURES)

    def loss(x, y):
        flat = model(x.reshape(-1, FEATURES))
        return F.mse_loss(flat.view(x.shape[0], -1, FEATURES).sum(dim=1), y)

    return fit(model, loss, lambda n: call(torch.randn(n, 3, FEATURES), torch.randn(n, FEATURES)))


@row(Cost(loops=1))
def time_before_batch_flattened():
    """`(t b)`: the batch is the inner factor, so a micro-batch is no contiguous piece of the dim."""
    model = mlp(FEATURES, 8, FEATURES)

    def loss(x, y):
        flat = model(x.transpose(0, 1).reshape(-1, FEATURES))
        return F.mse_loss(flat.view(-1, x.shape[0], FEATURES).sum(dim=0), y)

    return fit(model, loss, lambda n: call(torch.randn(n, 3, FEATURES), torch.randn(n, FEATURES)))


@row(Cost(loops=1))
def squeezed_outputs():
    """`squeeze()` drops what is 1 in the full batch, and not the batch in a micro-batch of one."""
    model = mlp(FEATURES, 8, 1)

    def loss(x, y):
        return F.mse_loss(model(x).squeeze(), y.squeeze())

    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.randn(n, 1)))


@row(Cost(loops=1))
def views_repeated_by_sample():
    """`repeat_interleave`: each sample's copies are neighbours, so they stay with it."""
    model = mlp(FEATURES, 8, 2)

    def loss(x, y):
        return F.mse_loss(model(x.repeat_interleave(3, dim=0)), y.flatten(0, 1))

    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.randn(n, 3, 2)))


@row(Cost(loops=1))
def mixed_with_the_flipped_batch():
    """Mixup with `x.flip(0)`: the data cross samples, and nothing else, so the model runs once."""
    model = mlp(FEATURES, 8, 2)

    def loss(x, y):
        return F.mse_loss(model(0.7 * x + 0.3 * x.flip(0)), 0.7 * y + 0.3 * y.flip(0))

    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.randn(n, 2)))


@row(Cost(loops=3, gather=["lambda x, y: loss_fn(model(x).squeeze(1), y),"], gathered=96))
def neighbouring_samples():
    """The difference of each sample to the one before it crosses every boundary: the scores are gathered.

    The differences are one fewer than the samples, and have a loop of their own.
    """
    return scored(lambda score, y: F.mse_loss(score, y) + 0.1 * (score[1:] - score[:-1]).square().mean())


@row(
    Cost(
        loops=3,
        reduce=["return embedded(lambda z, y: F.mse_loss(z, y) + (z - z[0]).square().mean())"] * 2,
    )
)
def first_sample_as_anchor():
    """`z[0]` lives in the first micro-batch; every other one needs it."""
    return embedded(lambda z, y: F.mse_loss(z, y) + (z - z[0]).square().mean())


@row(Cost(loops=2, gather=["losses = (score - y).square()"], gathered=96))
def sorted_across_the_batch():
    """A trimmed mean: the losses are gathered, 8 bytes a sample, and sorted; then backward. Two loops."""

    def loss_fn(score, y):
        losses = (score - y).square()
        return losses.sort().values[: losses.shape[0] // 2].mean()

    return scored(loss_fn)


@row(Cost(loops=2, gather=["losses = (score - y).square()"], gathered=96))
def top_k_across_the_batch():
    """Hard example mining: the losses are gathered, the five largest are trained on. Two loops."""

    def loss_fn(score, y):
        losses = (score - y).square()
        return losses.topk(5).values.mean()

    return scored(loss_fn)


@row(
    Cost(
        loops=3,
        reduce=["return F.mse_loss(score, y) + (score.median() - 0.5).square()"],
        gather=["lambda x, y: loss_fn(model(x).squeeze(1), y),"],
        gathered=96,
    )
)
def median_across_the_batch():

    def loss_fn(score, y):
        return F.mse_loss(score, y) + (score.median() - 0.5).square()

    return scored(loss_fn)


@row(Cost(loops=4, reduce=["return scored(lambda score, y: (score.softmax(dim=0) * y).sum())"] * 3))
def softmax_across_the_batch():
    """Attention over the samples: the maximum and the sum are reduced, or the scores gathered."""
    return scored(lambda score, y: (score.softmax(dim=0) * y).sum())


@row(
    Cost(
        loops=4,
        reduce=["return F.cross_entropy(logits[mask], labels[mask])"],
        gather=["logits = model(x)", "return F.cross_entropy(logits[mask], labels[mask])"],
        gathered=480,
    )
)
def boolean_indexing():
    """`logits[mask]` has as many rows as the mask has ones, and two loops over these: the count, and the losses."""
    classes = 5
    model = mlp(FEATURES, 8, classes)

    def loss(x, labels):
        logits = model(x)
        mask = labels >= 0
        return F.cross_entropy(logits[mask], labels[mask])

    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.randint(-2, classes, (n,))))


@row(Cost(loops=2, gather=["risk = score.exp().cumsum(dim=0).log()"], gathered=96))
def cumsum_over_the_batch():
    """Cox's partial likelihood on sorted times: the risk of each sample sums all before it."""

    def loss_fn(score, event):
        risk = score.exp().cumsum(dim=0).log()
        return ((risk - score) * event.sigmoid()).mean()

    return scored(loss_fn)


@row(Cost(loops=2, reduce=["spread = z.std(dim=0)"] * 2))
def std_over_the_batch():
    """A standard deviation in the loss: reduced, and the backward pass needs it. Two loops."""

    def loss_fn(z, y):
        spread = z.std(dim=0)
        return F.mse_loss(z, y) + F.relu(1.0 - spread).mean()

    return embedded(loss_fn)


@row(Cost(loops=3, reduce=["return F.mse_loss(z, y) + z.amax(dim=0).square().mean()"] * 2))
def maximum_over_the_batch():
    """The gradient goes to the sample that equals the maximum: that value must be the one the maximum saw."""

    def loss_fn(z, y):
        return F.mse_loss(z, y) + z.amax(dim=0).square().mean()

    return embedded(loss_fn)


@row(Cost(loops=2, reduce=["winner = (z >= z.amax(dim=0)).to(z.dtype)"]))
def winner_takes_all():
    """A value compared with its own maximum: computed again it might round differently, and match nowhere."""

    def loss_fn(z, y):
        winner = (z >= z.amax(dim=0)).to(z.dtype)
        return (z - y).square().mean() + (winner * z).sum()

    return embedded(loss_fn)


@row(Cost(loops=1))
def class_weights_of_batch_size():
    """As many classes as samples, in the first run: the weights are no batch, as the second run shows."""
    classes = 12
    model = mlp(FEATURES, 8, classes)

    def loss(x, y, weight):
        return F.cross_entropy(model(x), y, weight=weight, reduction="sum") / x.shape[0]

    def batch(n):
        return call(torch.randn(n, FEATURES), torch.randint(classes, (n,)), torch.linspace(0.5, 2.0, classes))

    return fit(model, loss, batch)


@row(Cost(loops=1))
def per_sample_positions():
    """`arange(batch)` in a body counts from the micro-batch's first sample."""

    def loss_fn(score, y):
        position = torch.arange(score.shape[0], device=score.device)
        return F.mse_loss(score + 0.1 * position, y)

    return scored(loss_fn)


@row(Cost(loops=1))
def segments_summed():
    """`index_add` by a label: bins that are summed over the batch, and then used linearly: no barrier."""
    model = mlp(FEATURES, 8, 3)

    def loss(x, label):
        bins = x.new_zeros(4, 3).index_add(0, label, model(x))
        return (bins * torch.linspace(0.5, 2.0, 12, dtype=x.dtype, device=x.device).view(4, 3)).sum()

    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.randint(4, (n,))))


@row(Cost(loops=4, reduce=["prototypes = (members.T @ z) / members.sum(dim=0)[:, None].clamp(min=1.0)"] * 3))
def segment_means_squared():
    """A prototype per class, and the samples' distance to their own: reduced, nothing gathered."""

    def loss(x, label):
        z = model(x)
        members = F.one_hot(label, 3).to(z.dtype)
        prototypes = (members.T @ z) / members.sum(dim=0)[:, None].clamp(min=1.0)
        return (z - prototypes[label]).square().mean() - 0.1 * prototypes.var(dim=0).mean()

    model = mlp(FEATURES, 8, 3)
    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.randint(3, (n,))))


@row(Cost(loops=1))
def every_second_sample():
    """Anchors and positives take turns (SupCon, triplets): pairs of samples stay together, where two divides them."""

    def loss_fn(z, target):
        pairs = z[: len(z) // 2 * 2]
        return F.mse_loss(pairs[::2] * pairs[1::2], target[: len(z) // 2])

    return embedded(loss_fn)


@row(Cost(loops=1))
def every_third_sample():
    """Triplets in a row, each read from its own start."""

    def loss_fn(z, target):
        anchor, positive, negative = (z[start::3] for start in range(3))
        return anchor.square().mean() + positive.abs().mean() - 0.1 * negative.mean() + F.mse_loss(z, target)

    return embedded(loss_fn)


@row(Cost(loops=1))
def every_second_sample_replaced():
    def loss_fn(z, target):
        mixed = target.clone()
        mixed[1::2] = z[1::2] * 2
        return F.mse_loss(mixed, z)

    return embedded(loss_fn)


@row(Cost(loops=1))
def views_interleaved():
    """Both views of a sample follow each other: nothing needs the batch to be even."""

    def loss_fn(z, target):
        both = torch.stack([z, target * z.tanh()], dim=1).flatten(0, 1)
        return F.mse_loss(both[::2], both[1::2])

    return embedded(loss_fn)


@row(Cost(loops=1))
def halves_written():
    """Both halves of a tensor of two batches are written and read apart, from either end."""

    def loss_fn(z, target):
        n = len(z)
        both = torch.zeros_like(torch.cat([z, z]))
        both[:n], both[n:] = z, z.tanh()
        return F.mse_loss(both[-n:], both[:-n]) + F.mse_loss(both[:n], target)

    return embedded(loss_fn)
