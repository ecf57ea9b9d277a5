"""explain() and verify() on real steps: what they say is what ran, and nothing has changed afterwards."""

import warnings

import pytest
import small
import torch
import torch.nn.functional as F

from accumcompile import AccumulateWarning, accumulate, explain, verify
from accumcompile.ir.carry import REDUCTIONS
from accumcompile.testing import gradients, max_rel_diff, state


@pytest.fixture(autouse=True)
def nothing_compiled_yet():
    """Every test makes trainers of its own, and Dynamo compiles for each."""
    torch._dynamo.reset()


class Trainer:
    """A step as a method, with everything that a step may reach."""

    def __init__(self, dtype=torch.float64, dropout=0.0):
        torch.manual_seed(0)
        layers = [
            torch.nn.Linear(8, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(16, 5),
        ]
        self.model = torch.nn.Sequential(*layers).to(dtype)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 1, 0.5)
        self.updates = 0

    @accumulate(steps=3, lowering="eager")
    def train_step(self, batch):
        self.optimizer.zero_grad()
        logits = self.model(batch["inputs"])
        loss = F.cross_entropy(logits, batch["labels"], ignore_index=0)
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.updates += 1
        return {"loss": loss.detach(), "right": (logits.argmax(1) == batch["labels"]).sum()}


def batch_of(size, dtype=torch.float64):
    torch.manual_seed(1)
    return {"inputs": torch.randn(size, 8, dtype=dtype), "labels": torch.randint(0, 5, (size,))}


def test_explain_sees_past_the_break_at_backward():
    trainer = Trainer()
    report = trainer.train_step.explain(batch_of(13))
    assert [graph.road for graph in report.graphs] == ["fused", "inference"]
    assert report.steps == 3
    assert {(loop.micro_batches, loop.micro_batch_size) for loop in report.loops} == {(3, 5)}
    assert {barrier.kind for barrier in report.barriers} == {"reduce"}
    (counted,) = [barrier for barrier in report.barriers if "cross_entropy" in barrier.code]
    assert counted.where.startswith("tests/test_explain.py:")
    assert counted.bytes == 8
    assert "F.cross_entropy(logits" in str(report)


def test_values_are_called_what_the_user_calls_them():
    batch = batch_of(12)
    report = Trainer().train_step.explain(batch)
    graph = report.graphs[0]
    kinds = ("consts", "xs", "carry")
    names = {kind: {v.name for loop in graph.loops for v in getattr(loop, kind)} for kind in kinds}
    assert names["xs"] >= {"batch['inputs']", "batch['labels']"}
    assert names["consts"] >= {f"self.model.{n}" for n in ("0.weight", "1.weight", "3.weight", "3.bias")}
    assert names["carry"] >= {f"grad of self.model.{n}" for n in ("0.weight", "1.weight", "3.weight", "3.bias")}
    assert names["carry"] >= {"loss"}
    assert not any("primals" in name or "tangents" in name for found in names.values() for name in found)


def test_a_barrier_says_why():
    report = Trainer().train_step.explain(batch_of(12))
    whys = {barrier.cause for barrier in report.barriers}
    assert whys >= {
        "BatchNorm1d needs the finished mean and variance",
        "cross_entropy needs the finished sum",
    }
    assert not any("aten" in barrier.cause or "prims" in barrier.cause for barrier in report.barriers)
    (statistics,) = (b for b in report.barriers if b.cause.startswith("BatchNorm1d needs"))
    assert statistics.path[1:3] == ("reduce R", "select R")


@accumulate(steps=4, lowering="eager")
def by_name(model, batch):
    hidden = model[0](batch["x"])
    scores = model[1:](hidden)
    loss = (scores / scores.logsumexp(0)).mean() + torch.cdist(hidden, hidden).sum()
    loss.backward()
    return loss.detach(), scores


def test_variables_and_modules_name_values():
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    report = by_name.explain(model, {"x": torch.randn(12, 4)})
    values = {value.name for loop in report.loops for value in (*loop.carry, *loop.ys)}
    assert values >= {"hidden", "scores", "moments in model.2", "grad of model.0.weight"}
    assert [value.name for value in report.kept] == ["scores"]
    assert {b.cause for b in report.barriers} >= {"BatchNorm1d needs the finished mean and variance"}


@accumulate(steps=4, lowering="eager")
def contrastive(x, y, weight):
    z = F.normalize(x @ weight, dim=1)
    order = z[:, 0].sort().values
    scores = z @ y.T
    other = z @ z.T
    loss = scores.logsumexp(1).mean() + other.exp().sum() + (order * x[:, 0]).sum()
    loss.backward()
    return loss.detach()


def vectors(batch):
    return torch.randn(batch, 8), torch.randn(batch, 4), torch.randn(8, 4, requires_grad=True)


def test_a_gather_says_why_and_what_runs_on_the_full_batch():
    report = contrastive.explain(*vectors(16))
    gathers = [barrier for barrier in report.barriers if barrier.kind == "gather"]
    whys = {barrier.cause for barrier in gathers}
    assert whys >= {
        "every row of matmul's result reads every sample",
        "sort: it mixes what the micro-batches hold",
    }
    assert gathers[0].path[0].endswith("S(0)")
    assert gathers[0].path[1] == "gather R"
    assert any("sort()" in value.code for value in report.whole)
    assert "computed on the full batch" in str(report)


@accumulate(steps=4, lowering="eager")
def returns_logits(model, x):
    logits = model(x)
    loss = logits.square().mean()
    loss.backward()
    return loss.detach(), logits


def test_live_outputs_are_said_once(monkeypatch):
    monkeypatch.setattr("accumcompile.report.kept_outputs.LEAST", 0)
    model, x = torch.nn.Linear(8, 32), torch.randn(16, 8)
    with pytest.warns(AccumulateWarning, match="AC033: outputs are held for the full batch: logits") as said:
        returns_logits(model, x)
    assert "2.0 KiB of an estimated peak of" in str(small.ours(said)[0])
    assert "logits = model(x)" in str(small.ours(said)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", AccumulateWarning)
        report = returns_logits.explain(model, x)
    (kept,) = report.kept
    assert (kept.name, kept.bytes) == ("logits", 16 * 32 * 4)


def test_more_steps_than_samples():
    contrastive.steps = 40
    try:
        report = contrastive.explain(*vectors(5))
    finally:
        contrastive.steps = 4
    assert str(report).startswith("contrastive: steps=40 asked for; a batch of 5 ran as 5 micro-batches of 1\n")


def test_a_batch_of_one():
    report = contrastive.explain(*vectors(1))
    assert "a batch of one runs as it is" in str(report)


def test_the_tail_is_counted():
    report = Trainer().train_step.explain(batch_of(9))
    assert report.graphs[0].micro_batches == (3, 3, 3)
    trainer = Trainer()
    trainer.train_step.steps = 8
    try:
        report = trainer.train_step.explain(batch_of(9))
    finally:
        trainer.train_step.steps = 3
    assert report.graphs[0].micro_batches == (2, 2, 2, 2, 1)
    assert "a batch of 9 ran as 5 micro-batches: 4 of 2 and 1 of 1" in str(report)


@pytest.mark.parametrize("tool", [explain, verify])
def test_nothing_has_changed(tool):
    trainer, batch = Trainer(dropout=0.5), batch_of(12)
    trainer.train_step(batch)
    before, grads, generator = state(trainer.model), gradients(trainer.model), torch.get_rng_state()
    tool(trainer.train_step, batch)
    assert max_rel_diff(before, state(trainer.model)) == 0
    assert max_rel_diff(grads, gradients(trainer.model)) == 0
    assert torch.equal(generator, torch.get_rng_state())
    assert (trainer.updates, trainer.scheduler.last_epoch, trainer.train_step.steps) == (1, 1, 3)
    assert {float(each["step"]) for each in trainer.optimizer.state.values()} == {1.0}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_verify_passes(dtype, dropout):
    report = Trainer(dtype, dropout).train_step.verify(batch_of(13, dtype))
    assert report.passed, str(report)
    kinds = {row.kind for row in report.rows}
    assert kinds >= {"loss", "output", "gradient", "parameter", "buffer", "optimizer state"}
    assert ("not comparable: draws random numbers" in str(report)) == bool(dropout)
    if dtype == torch.float64:
        assert report.allowed == "a difference of at most 1e-10"


@pytest.mark.inductor
def test_verify_passes_through_inductor():
    @accumulate(steps=3)
    def train_step(model, optimizer, inputs, targets):
        optimizer.zero_grad()
        loss = F.mse_loss(F.dropout(model(inputs)), targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = verify(train_step, model, optimizer, torch.randn(12, 4), torch.randn(12, 2))
    assert report.passed, str(report)
    assert not any(note.startswith("no float64 reference") for note in report.notes)


def test_verify_catches_a_broken_reduction(monkeypatch):
    monkeypatch.setitem(REDUCTIONS, "sum", lambda so_far, part: part)
    report = Trainer().train_step.verify(batch_of(12))
    assert not report.passed
    failed = {row.kind for row in report.rows if not row.passed}
    assert failed >= {"loss", "output", "gradient", "parameter"}
