"""What happens in an update beside forward and backward: clipping, teachers, several optimizers."""

import torch
import torch.nn.functional as F
from torch import nn

from .row import Case, Cost, call, mlp, row, sgd

FEATURES, OUTPUTS = 4, 2


def pair(n):
    return torch.randn(n, FEATURES), torch.randn(n, OUTPUTS)


@row(Cost(loops=1))
def control_flow_on_a_python_value():
    """`objective` decides which graph there is: each of its values is a capture of its own."""
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(x, y, objective):
        optimizer.zero_grad()
        prediction = model(x)
        if objective == "absolute":
            loss = F.l1_loss(prediction, y)
        else:
            loss = F.mse_loss(prediction, y, reduction="sum")
        loss.backward()
        optimizer.step()
        return loss.detach()

    def batch(n):
        return call(*pair(n), objective="absolute" if n % 2 else "squared")

    return Case(step, batch, {"model": model}, [optimizer])


@row(Cost(loops=1))
def clipping_and_adamw():
    """Clipping sees the finished gradients, once; its norm is returned."""
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.1)
        optimizer.step()
        return loss.detach(), norm

    return Case(step, lambda n: call(*pair(n)), {"model": model}, [optimizer])


@row(Cost(loops=1))
def frozen_and_unused_parameters():
    """A frozen layer and one that no sample passes keep `.grad is None`; weight decay leaves them alone."""
    model = mlp(FEATURES, 8, OUTPUTS)
    model[0].requires_grad_(False)
    model.unused = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=0.1)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.mse_loss(model[2](model[1](model[0](x))), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Case(step, lambda n: call(*pair(n)), {"model": model}, [optimizer])


@row(Cost(loops=1))
def gradients_kept_between_updates():
    """No `zero_grad`: the second backward adds to what the first left in `.grad`."""
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(x, y):
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Case(step, lambda n: call(*pair(n)), {"model": model}, [optimizer])


@row(Cost(loops=1))
def gradient_of_the_input():
    """The input's own gradient has the batch's rows: put together, not summed."""
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach(), x.grad

    def batch(n):
        x, y = pair(n)
        return call(x.requires_grad_(), y)

    return Case(step, batch, {"model": model}, [optimizer])


@row(Cost(loops=1))
def ema_teacher():
    """The teacher runs without gradients, and follows the student once an update."""
    student, teacher = mlp(FEATURES, 8, OUTPUTS), mlp(FEATURES, 8, OUTPUTS)
    teacher.requires_grad_(False)
    optimizer = sgd(student)

    def step(x, y):
        optimizer.zero_grad()
        with torch.no_grad():
            expected = teacher(x)
        prediction = student(x)
        loss = F.mse_loss(prediction, y) + F.mse_loss(prediction, expected)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                slow.lerp_(fast, 0.1)
        return loss.detach()

    return Case(step, lambda n: call(*pair(n)), {"student": student, "teacher": teacher}, [optimizer])


@row(Cost(loops=4))
def gan_with_two_optimizers():
    """Two backward calls: the critic's, then the generator's through the new critic."""
    generator, critic = mlp(3, 8, FEATURES), mlp(FEATURES, 8, 1)
    generator_optimizer, critic_optimizer = sgd(generator), sgd(critic)

    def step(real, noise):
        critic_optimizer.zero_grad()
        fake = generator(noise)
        critic_loss = F.softplus(critic(fake.detach())).mean() + F.softplus(-critic(real)).mean()
        critic_loss.backward()
        critic_optimizer.step()

        generator_optimizer.zero_grad()
        generator_loss = F.softplus(-critic(fake)).mean()
        generator_loss.backward()
        generator_optimizer.step()
        return critic_loss.detach(), generator_loss.detach()

    def batch(n):
        return call(torch.randn(n, FEATURES), torch.randn(n, 3))

    return Case(
        step,
        batch,
        {"generator": generator, "critic": critic},
        [generator_optimizer, critic_optimizer],
    )


@row(Cost(loops=2))
def two_losses_two_backward_calls():
    """A second forward pass after the first backward: two graphs, a loop each, and the gradients add."""
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(x, y):
        optimizer.zero_grad()
        first = F.mse_loss(model(x), y)
        first.backward()
        second = model(-x).square().mean()
        second.backward()
        optimizer.step()
        return first.detach(), second.detach()

    return Case(step, lambda n: call(*pair(n)), {"model": model}, [optimizer])


@row(Cost(loops=1))
def checkpointed_layers():
    """`torch.utils.checkpoint` in the model: the step is the same, its activations are computed twice."""
    model = nn.ModuleList([mlp(FEATURES, 8, FEATURES), mlp(FEATURES, 8, OUTPUTS)])
    optimizer = sgd(model)

    def step(x, y):
        optimizer.zero_grad()
        hidden = torch.utils.checkpoint.checkpoint(model[0], x, use_reentrant=False)
        loss = F.mse_loss(model[1](hidden), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Case(step, lambda n: call(*pair(n)), {"model": model}, [optimizer])


@row(Cost(loops=2, reduce=["loss = F.cross_entropy(model(tokens).transpose(1, 2), labels)"]))
def labels_edited_in_place():
    """The caller's labels are edited, once, and the tokens that are left are counted: one reduce."""
    classes, pad = 5, 0
    model = nn.Sequential(nn.Embedding(classes, 6), nn.Linear(6, classes))
    optimizer = sgd(model)

    def step(tokens, labels):
        optimizer.zero_grad()
        labels[labels == pad] = -100
        loss = F.cross_entropy(model(tokens).transpose(1, 2), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def batch(n):
        return call(torch.randint(classes, (n, 5)), torch.randint(classes, (n, 5)))

    return Case(step, batch, {"model": model}, [optimizer])


@row(Cost(loops=1))
def attached_loss_returned():
    """`return loss` without `detach()`, and live logits beside it: both as in eager."""
    model = mlp(FEATURES, 8, OUTPUTS)
    optimizer = sgd(model)

    def step(x, y):
        optimizer.zero_grad()
        prediction = model(x)
        loss = F.mse_loss(prediction, y)
        loss.backward()
        optimizer.step()
        return loss, prediction

    return Case(step, lambda n: call(*pair(n)), {"model": model}, [optimizer])


@row(Cost(loops=1))
def shared_bias_node():
    """`x + b1 + b2`: one node is the gradient of two parameters; each has a tensor of its own."""

    class TwoBiases(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(FEATURES, OUTPUTS, bias=False)
            self.first, self.second = nn.Parameter(torch.randn(OUTPUTS)), nn.Parameter(torch.randn(OUTPUTS))

        def forward(self, x):
            return self.linear(x) + self.first + self.second

    model = TwoBiases()
    optimizer = sgd(model)

    def step(x, y):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        nn.utils.clip_grad_value_(model.first, 0.01)
        optimizer.step()
        return loss.detach()

    return Case(step, lambda n: call(*pair(n)), {"model": model}, [optimizer])
