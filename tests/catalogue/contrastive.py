"""Losses between samples: what each sample is compared with comes from the whole batch."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, fit, mlp, row, sgd

FEATURES, WIDTH = 5, 4


def unit(x):
    return F.normalize(x, dim=-1)


def two_towers(loss_fn) -> Case:
    """`loss_fn` gets the two views' embeddings, [batch, width] each."""
    model = nn.ModuleDict({"image": mlp(FEATURES, 8, WIDTH), "text": mlp(FEATURES, 8, WIDTH)})
    return fit(
        model,
        lambda image, text: loss_fn(model["image"](image), model["text"](text)),
        lambda n: call(torch.randn(n, FEATURES), torch.randn(n, FEATURES)),
    )


def two_views(loss_fn) -> Case:
    """One encoder sees both views of a sample."""
    model = mlp(FEATURES, 8, WIDTH)

    def batch(n):
        view = torch.randn(n, FEATURES)
        return call(view, view + 0.3 * torch.randn(n, FEATURES))

    return fit(model, lambda first, second: loss_fn(model(first), model(second)), batch)


def labelled(loss_fn) -> Case:
    """`loss_fn` gets embeddings and labels. Labels come in pairs at least, so everybody has a positive."""
    model = mlp(FEATURES, 8, WIDTH)
    return fit(
        model,
        lambda x, labels: loss_fn(model(x), labels),
        lambda n: call(torch.randn(n, FEATURES), (torch.arange(n) // 2 % 3)[torch.randperm(n)]),
    )


@row(
    Cost(
        loops=5,
        reduce=["logits = unit(image) @ unit(text).T / 0.2", "return F.normalize(x, dim=-1)"]
        + ["return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2"] * 3,
        gather=["return F.normalize(x, dim=-1)"],
        gathered=384,
    )
)
def symmetric_info_nce():
    """GradCache, found by the compiler: embeddings first, then the loss on them, then the encoders' backward.

    Two loops if the loss runs whole, in a bridge; one more if it runs in micro-batches of the logits' rows.
    """

    def loss_fn(image, text):
        logits = unit(image) @ unit(text).T / 0.2
        target = torch.arange(logits.shape[0], device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return two_towers(loss_fn)


@row(
    Cost(
        loops=3,
        reduce=[
            'logits = model.scale.exp() * unit(model["image"](image)) @ unit(model["text"](text)).T',
            "return F.normalize(x, dim=-1)",
        ],
        gather=["return F.normalize(x, dim=-1)"],
        gathered=384,
    )
)
def info_nce_with_learned_temperature():
    """As above, and the temperature's gradient is a sum over all pairs."""
    model = nn.ModuleDict({"image": mlp(FEATURES, 8, WIDTH), "text": mlp(FEATURES, 8, WIDTH)})
    model.scale = nn.Parameter(torch.tensor(1.5))

    def loss(image, text):
        logits = model.scale.exp() * unit(model["image"](image)) @ unit(model["text"](text)).T
        target = torch.arange(image.shape[0], device=image.device)
        return F.cross_entropy(logits, target)

    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.randn(n, FEATURES)))


@row(
    Cost(
        loops=3,
        reduce=["logits = 5.0 * unit(image) @ unit(text).T - 1.0", "return F.normalize(x, dim=-1)"],
        gather=["return F.normalize(x, dim=-1)"],
        gathered=384,
    )
)
def siglip():
    """Each pair is judged on its own, so only one of the two sides has to be whole."""

    def loss_fn(image, text):
        logits = 5.0 * unit(image) @ unit(text).T - 1.0
        labels = 2.0 * torch.eye(logits.shape[0], dtype=logits.dtype, device=logits.device) - 1.0
        return -F.logsigmoid(labels * logits).sum() / logits.shape[0]

    return two_towers(loss_fn)


@row(
    Cost(
        loops=3,
        reduce=["similarity = (z @ z.T / 0.3).masked_fill(itself, -torch.inf)"],
        gather=["return F.normalize(x, dim=-1)"],
        gathered=384,
    )
)
def supervised_contrastive():
    """Embeddings gathered; every anchor averages over its own number of positives."""

    def loss_fn(z, labels):
        z = unit(z)
        itself = torch.eye(z.shape[0], dtype=torch.bool, device=z.device)
        similarity = (z @ z.T / 0.3).masked_fill(itself, -torch.inf)
        log_probability = (similarity - similarity.logsumexp(dim=1, keepdim=True)).masked_fill(itself, 0.0)
        positive = (labels[:, None] == labels).masked_fill(itself, False).to(z.dtype)
        return -((log_probability * positive).sum(dim=1) / positive.sum(dim=1)).mean()

    return labelled(loss_fn)


@row(
    Cost(
        loops=3,
        reduce=["logits = (z @ z.T / 0.3).masked_fill(itself, -torch.inf)"],
        gather=["return F.normalize(x, dim=-1)"],
        gathered=768,
    )
)
def nt_xent():
    """SimCLR: both views in one batch of (2 b), each compared with all the others."""

    def loss_fn(first, second):
        n = first.shape[0]
        z = unit(torch.cat([first, second]))
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        logits = (z @ z.T / 0.3).masked_fill(itself, -torch.inf)
        partner = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(logits, partner)

    return two_views(loss_fn)


@row(
    Cost(
        loops=3,
        reduce=["distance = torch.cdist(z, z)"],
        gather=["lambda x, labels: loss_fn(model(x), labels),"],
        gathered=384,
    )
)
def batch_hard_triplet():
    """The farthest positive and the nearest negative. `cdist` takes the embeddings whole."""

    def loss_fn(z, labels):
        distance = torch.cdist(z, z)
        same = labels[:, None] == labels
        hardest_positive = distance.masked_fill(~same, -torch.inf).amax(dim=1)
        hardest_negative = distance.masked_fill(same, torch.inf).amin(dim=1)
        return F.softplus(hardest_positive - hardest_negative).mean()

    return labelled(loss_fn)


@row(
    Cost(
        loops=4,
        reduce=[
            "correlation = first.T @ second / first.shape[0]",
            "on_diagonal = (correlation.diagonal() - 1.0).square().sum()",
        ]
        + ["first = (first - first.mean(dim=0)) / first.std(dim=0)"] * 5
        + ["second = (second - second.mean(dim=0)) / second.std(dim=0)"] * 5,
    )
)
def barlow_twins():
    """Nothing of batch size is gathered: means, variances and the cross-correlation are all reduced."""

    def loss_fn(first, second):
        first = (first - first.mean(dim=0)) / first.std(dim=0)
        second = (second - second.mean(dim=0)) / second.std(dim=0)
        correlation = first.T @ second / first.shape[0]
        on_diagonal = (correlation.diagonal() - 1.0).square().sum()
        off_diagonal = correlation.square().sum() - correlation.diagonal().square().sum()
        return on_diagonal + 0.1 * off_diagonal

    return two_views(loss_fn)


@row(
    Cost(
        loops=4,
        reduce=["centred = z - z.mean(dim=0)"] * 4
        + ["covariance = centred.T @ centred / (z.shape[0] - 1)"] * 2
        + ["variance = F.relu(1.0 - (covariance.diagonal() + 1e-4).sqrt()).mean()"] * 2,
    )
)
def vicreg():
    """Invariance splits freely; variance and covariance are reduced. Nothing is gathered."""

    def loss_fn(first, second):
        return F.mse_loss(first, second) + regulariser(first) + regulariser(second)

    def regulariser(z):
        centred = z - z.mean(dim=0)
        covariance = centred.T @ centred / (z.shape[0] - 1)
        variance = F.relu(1.0 - (covariance.diagonal() + 1e-4).sqrt()).mean()
        return variance + (covariance.square().sum() - covariance.diagonal().square().sum()) / WIDTH

    return two_views(loss_fn)


@row(Cost(loops=1))
def moco_queue():
    """Negatives from a queue, which is the same for all micro-batches; only the new keys are put together.

    The keys go into the queue, a buffer: a gather of the keys or one more output, but no second loop.
    """

    class MoCo(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key = mlp(FEATURES, 8, WIDTH), mlp(FEATURES, 8, WIDTH)
            self.key.requires_grad_(False)
            self.register_buffer("queue", unit(torch.randn(16, WIDTH)))

        def forward(self, first, second):
            query = unit(self.query(first))
            with torch.no_grad():
                key = unit(self.key(second))
            positive = (query * key).sum(dim=1, keepdim=True)
            logits = torch.cat([positive, query @ self.queue.clone().T], dim=1) / 0.2
            with torch.no_grad():
                self.queue.copy_(torch.cat([key, self.queue])[:16])
            return logits

    model = MoCo()
    optimizer = sgd(model.query)

    def step(first, second):
        optimizer.zero_grad()
        logits = model(first, second)
        loss = (logits.logsumexp(dim=1) - logits[:, 0]).mean()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(model.key.parameters(), model.query.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        return loss.detach()

    def batch(n):
        return call(torch.randn(n, FEATURES), torch.randn(n, FEATURES))

    return Case(step, batch, {"model": model}, [optimizer])


@row(Cost(loops=2, reduce=["balance = experts * (chosen.mean(dim=0) * probability.mean(dim=0)).sum()"]))
def mixture_of_experts():
    """The balance loss is a product of two batch means: one of them is finished before backward begins."""
    experts = 3

    class MixtureOfExperts(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(FEATURES, experts)
            self.experts = nn.ModuleList(mlp(FEATURES, 6, 2) for _ in range(experts))

        def forward(self, x):
            probability = self.gate(x).softmax(dim=1)
            chosen = F.one_hot(probability.argmax(dim=1), experts).to(x.dtype)
            outputs = torch.stack([expert(x) for expert in self.experts], dim=1)
            mixed = ((probability * chosen)[:, :, None] * outputs).sum(dim=1)
            balance = experts * (chosen.mean(dim=0) * probability.mean(dim=0)).sum()
            return mixed, balance

    model = MixtureOfExperts()

    def loss(x, y):
        prediction, balance = model(x)
        return F.mse_loss(prediction, y) + balance

    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.randn(n, 2)))


@row(
    Cost(
        loops=3,
        reduce=["return (wanted * F.softplus(score - score[:, None])).sum() / wanted.sum()"] * 2,
        gather=["score = model(x).squeeze(1)"],
        gathered=96,
    )
)
def pairwise_ranking():
    """Every pair's difference: a [batch, batch] matrix of scores. One side is gathered."""
    model = mlp(FEATURES, 8, 1)

    def loss(x, relevance):
        score = model(x).squeeze(1)
        wanted = (relevance[:, None] > relevance).to(score.dtype)
        return (wanted * F.softplus(score - score[:, None])).sum() / wanted.sum()

    return fit(model, loss, lambda n: call(torch.randn(n, FEATURES), torch.rand(n)))


@row(Cost(loops=1))
def own_similarity_filled():
    """`fill_diagonal_` on the similarities of all pairs: embeddings are gathered, the encoder runs in micro-batches."""

    def loss_fn(a, b):
        z = unit(a + b)
        similarity = z @ z.T
        if similarity.shape != (len(a), len(b)):
            raise ValueError("both views have the same samples")
        similarity.fill_diagonal_(-9e15)
        positive = (torch.arange(len(z), device=z.device) + 1) % len(z)
        return F.cross_entropy(similarity / 0.5, positive)

    return two_towers(loss_fn)
