"""What a captured step may look like: breaks, several models and batches, parts without gradients."""

import pytest
import small
import torch
from capturing import by_name, decorated, same, sgd
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

WAYS = pytest.mark.parametrize("by", [decorated, by_name], ids=["decorator", "backend"])


# Frames resumed after a break


@pytest.mark.parametrize("read", [lambda loss: print(end=""), lambda loss: loss.item()], ids=["print", "item"])
@WAYS
def test_a_loss_that_is_read_before_its_backward(read, by):
    """``print`` or ``loss.item()`` for the log: the graph ends there, with the loss, and is fused."""

    def step(model, optimizer, x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        read(loss.detach())
        loss.backward()
        optimizer.step()
        return loss.detach()

    model = small.net()
    ran = same(step, model, sgd(model), by=by)
    assert set(ran.roads) == {"fused"} and ran.plans == 1


def test_a_break_within_the_model():
    """A model that prints: the frames around the break split the batch, each by itself."""

    class Talking(small.Net):
        def forward(self, x):
            hidden = torch.relu(self.first(x))
            print(end="")
            return self.second(hidden)

    torch.manual_seed(0)
    with pytest.warns(match="AC030"):
        ran = same(small.plain, Talking())
    assert {"forward", "backward"} <= set(ran.roads)
    assert {run.split.batch for run in ran.runs} == {12, 7} and not ran.gathered


def test_a_loss_in_a_function_of_its_own():
    """A frame that Dynamo compiles by itself, called from one that it cannot capture."""

    def loss_of(model, x, y):
        return F.cross_entropy(model(x), y)

    def step(model, x, y):
        for _ in range(2):
            loss_of(model, x, y).backward()
        return loss_of(model, x, y).detach()

    ran = same(step, small.net())
    assert "fused" in ran.roads


# Several of everything


@WAYS
def test_two_models_two_optimizers_two_backward_calls(by):
    """A GAN: the critic's update first, then the generator's through the new critic."""

    def step(generator, critic, first, second, x, y):
        second.zero_grad()
        fake = generator(x)
        loss = F.softplus(critic(fake.detach())).mean() + F.softplus(-critic(x[:, :3])).mean()
        loss.backward()
        second.step()
        first.zero_grad()
        cheated = F.softplus(-critic(generator(x))).mean()
        cheated.backward()
        first.step()
        return loss.detach(), cheated.detach()

    torch.manual_seed(0)
    generator = small.net()
    critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    ran = same(step, generator, critic, sgd(generator), sgd(critic), by=by)
    assert ran.roads.count("fused") == 4 and not ran.gathered


def test_two_batches_in_one_forward_pass():
    """Chosen and rejected, concatenated, and separated again by ``chunk``: one loop, nothing gathered."""

    def step(model, x, y):
        chosen, rejected = model(torch.cat([x, -x])).chunk(2)
        loss = F.softplus(rejected - chosen).mean()
        loss.backward()
        return loss.detach()

    ran = same(step, small.net())
    assert ran.roads == ["fused", "fused"] and not ran.gathered


def test_several_tensors_of_the_batch_marked_one_by_one():
    """Dynamo gives each marked tensor a symbol of its own: one batch all the same, in one loop."""

    def step(model, a, b, c):
        loss = (model(a) * model(b) + c.unsqueeze(1)).square().mean()
        loss.backward()
        return loss.detach()

    def batch(size, seed):
        (a, _), (b, c) = small.data(size, seed), small.data(size, seed + 10)
        for tensor in (a, b, c):
            torch._dynamo.mark_dynamic(tensor, 0)
        return a, b, c

    ran = same(step, small.net(), sizes=(12, 7, 9), data=batch)
    assert ran.roads == ["fused"] * 3 and ran.plans == 1 and not ran.gathered


@WAYS
def test_a_sequence_length_that_varies(by):
    """Ten lengths cause at most two captures, and each length equals the full batch."""

    def step(model, x, y):
        loss = F.cross_entropy(model(x).transpose(1, 2), y)
        loss.backward()
        return loss.detach()

    def batch(size, seed):
        torch.manual_seed(seed)
        length = 3 + seed
        return torch.randn(size, length, 4, dtype=torch.float64), torch.randint(0, 3, (size, length))

    ran = same(step, small.net(), sizes=(12,) * 10, data=batch, by=by)
    assert ran.roads == ["fused"] * 10 and ran.plans <= 2


@WAYS
def test_a_batch_of_one_first(by):
    """A batch of one runs whole; larger ones later are split, by one capture."""
    ran = same(small.plain, small.net(), sizes=(1, 12, 7), by=by)
    assert [run.split.batch for run in ran.runs if run.split.batch > 1] == [12, 7]
    assert len({id(run.plan) for run in ran.runs if run.split.batch > 1}) == 1


# Parts without gradients


def test_a_teacher_and_an_evaluation_in_the_step():
    """``no_grad`` parts before and after the backward are split with the rest, or by themselves."""

    def step(model, teacher, x, y):
        with torch.no_grad():
            expected = teacher(x).softmax(-1)
        loss = F.cross_entropy(model(x), expected)
        loss.backward()
        with torch.no_grad():
            model.eval()
            right = (model(x).argmax(-1) == y).double().mean()
            model.train()
        return loss.detach(), right

    model, teacher = small.net(), small.Net().requires_grad_(False)
    ran = same(step, model, teacher)
    assert ran.roads == ["fused", "inference"] * 2 and not ran.gathered


def test_evaluation_mode():
    """BatchNorm in eval mode uses its running statistics: no barrier, and they stay."""

    def step(model, x, y):
        model.eval()
        return small.plain(model, x, y)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()
    ran = same(step, model)
    assert ran.given[0][1].num_batches_tracked == 0
    assert not any(b for run in ran.runs for b in run.plan.barriers if "cross_entropy" not in b.value.code)


def test_a_step_without_gradients():
    """A decorated evaluation under ``no_grad``: one loop, no gradients."""

    @torch.no_grad()
    def step(model, x, y):
        return F.cross_entropy(model(x), y), model(x)

    with torch.no_grad():
        ran = same(step, small.net())
    assert set(ran.roads) == {"inference"}
    assert all(p.grad is None for p in ran.given[0].parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers(reentrant):
    """``torch.utils.checkpoint`` in the model: the step stays one loop."""

    class Checkpointed(small.Net):
        def forward(self, x):
            return checkpoint(lambda h: self.second(torch.relu(h)), self.first(x), use_reentrant=reentrant)

    torch.manual_seed(0)
    assert same(small.plain, Checkpointed()).roads == ["fused", "fused"]


def test_labels_edited_in_place():
    """The caller's labels are edited exactly once, and the loss counts those that are left."""

    def step(model, x, y):
        y[y == 0] = -100
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach(), y

    assert same(step, small.net()).roads == ["fused", "fused"]
