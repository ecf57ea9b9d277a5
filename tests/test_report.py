"""The report: counts, and the text a person reads."""

import json

import expecttest
import small
import sympy
import torch

from accumcompile.ir.loop import Split
from accumcompile.planning.memory import Made, Step
from accumcompile.printing.text import human
from accumcompile.report.plan import BarrierFact, LoopFact, Plan, ValueFact
from accumcompile.report.report import Report
from accumcompile.report.report_text import described
from accumcompile.session.journal import Journal, Run

B = sympy.Symbol("s0", integer=True, positive=True)
u = sympy.Symbol("u0", integer=True)


def value(name, shape, placement, dtype=torch.float32, **at):
    return ValueFact(name, shape, dtype, placement, **at)


count = value("count", (), "P(sum)", torch.int64, where="train.py:8", code="loss = F.cross_entropy(x, y)")
weights = tuple(value(f"model.{i}.weight", (64, 64), "R") for i in range(6))
logits = value("logits", (B, 4096), "S(0)", where="train.py:7", code="out = model(batch)")
token_mean = Plan(
    road="fused",
    batch=B,
    granule=2,
    loops=(
        LoopFact(0, (), (value("labels", (B,), "S(0)", torch.int64),), (count,), (), nodes=2, at_once=True),
        LoopFact(
            1,
            (*weights, value("1 / count", (), "R")),
            (
                value("inputs", (B, 64), "S(0)"),
                value("mask", (B,), "S(0)", torch.int64, sliced_from="R"),
            ),
            (
                value("loss", (), "P(sum)"),
                *(value(f"grad of model.{i}.weight", (64, 64), "P(sum)") for i in range(2)),
            ),
            (logits,),
            nodes=41,
            body=(Step((Made((B, 4096), 4, True, 1),)), Step((Made((64, 64), 4, False, 2),))),
        ),
    ),
    barriers=(BarrierFact("reduce", count, 0, "div needs the finished sum", ("count P(sum)", "reduce R", "div R")),),
    kept=(logits,),
    whole=(
        value("mask", (B,), "R", torch.int64, where="train.py:3", code="mask = torch.sort(labels)"),
        value("sort", (B, u), "R", torch.int64, where="train.py:3", code="mask = torch.sort(labels)"),
    ),
    program=(Step((Made((B, 4096), 4, False, 1),), loop=1),),
    unsplit=(Step((Made((B, 8192), 4, False, 1),)),),
)
teacher = Plan("inference", B, 1, (LoopFact(0, weights[:1], (logits,), (), (logits,), nodes=1),), ())


def report_of(batch=9, rows=2, **asked):
    journal = Journal()
    journal.ran(token_mean, {B: 1}, Split(1, 1))  # nobody is recording
    with journal.recording() as runs:
        for plan in (teacher, token_mean, teacher):
            journal.ran(plan, {B: batch}, Split(batch, rows))
    journal.ran(token_mean, {B: 1}, Split(1, 1))
    return Report.of(runs, name="train_step", notes=["labels: 1 candidate was no batch"], **asked)


class TestReport(expecttest.TestCase):
    def test_a_person_reads_it(self):
        self.assertExpectedInline(
            str(report_of(steps=8)),
            """\
train_step: steps=8 asked for; a batch of 9 ran as 5 micro-batches: 4 of 2 and 1 of 1
estimated peak of what it makes: 192 KiB; the full batch at once: 288 KiB

graph 1 of 2  inference: a graph without a backward of its own; ran 2 times
  loop 0  5 micro-batches of 2, 1 operator, 0 B at a time
    consts  1   16 KiB  model.0.weight R
    xs      1  144 KiB  logits S(0)
    ys      1  144 KiB  logits S(0)

graph 2 of 2  fused: forward and backward of a micro-batch together
  granule 2: 2 samples stay together
  loop 0  1 micro-batch of 9, 2 operators, 0 B at a time
    xs     1  72 B  labels S(0)
    carry  1   8 B  count P(sum)
  reduce  count, 8 B
    line  train.py:8  loss = F.cross_entropy(x, y)
    why   div needs the finished sum
    path  count P(sum) -> reduce R -> div R
  loop 1  5 micro-batches of 2, 41 operators, 48 KiB at a time
    consts  7   96 KiB  model.0.weight R, model.1.weight R, model.2.weight R, model.3.weight R, 3
                        more
    xs      2  2.3 KiB  inputs S(0), mask S(0) of R
    carry   3   32 KiB  grad of model.0.weight P(sum), grad of model.1.weight P(sum), loss P(sum)
    ys      1  144 KiB  logits S(0)

computed on the full batch
  over 72 B  train.py:3  mask = torch.sort(labels)
             mask, sort

kept for the full batch
  144 KiB  train.py:7  out = model(batch)
           logits
  fix  drop the name before backward() (del, or take what you need in the same line), and it is
  never made; if the step returns it, return less of it

notes
  labels: 1 candidate was no batch""",
        )

    def test_nothing_was_split(self):
        self.assertExpectedInline(
            str(Report.of([], steps=2)),
            """\
step: steps=2 asked for
No graph with a batch ran: nothing was split.""",
        )


def test_both_numbers():
    report = report_of(steps=8)
    assert report.steps == 8
    assert [loop.micro_batches for loop in report.loops] == [5, 1, 5]  # the second takes the batch at once
    assert [loop.micro_batch_size for loop in report.loops] == [2, 9, 2]
    assert report.graphs[1].micro_batches == (2, 2, 2, 2, 1)
    assert report_of(micro_batch_size=3, rows=3).steps is None


def test_a_graph_without_the_batch_is_not_listed():
    assert Report.of([Run(teacher, {}, Split(1, 1))]).graphs == ()


def test_a_graph_that_ran_twice_is_counted_once():
    assert [(graph.road, graph.calls) for graph in report_of().graphs] == [("inference", 2), ("fused", 1)]


def test_facts_have_the_sizes_of_this_call():
    report = report_of(batch=9)
    assert report.loops[1].xs[0].bytes == 9 * 8
    assert report.loops[2].ys[0].shape == (9, 4096)
    (barrier,) = report.barriers
    assert (barrier.kind, barrier.where, barrier.bytes) == ("reduce", "train.py:8", 8)
    (kept,) = report.kept
    assert (kept.where, kept.bytes) == ("train.py:7", 9 * 4096 * 4)
    assert report.notes == ("labels: 1 candidate was no batch",)


def test_bytes_are_estimated():
    report = report_of(batch=9, rows=2)
    loop = report.loops[2]
    assert loop.full_batch_bytes == 9 * 4096 * 4 + 64 * 64 * 4
    assert loop.estimated_bytes == 2 * 4096 * 4 + 64 * 64 * 4
    assert report.estimated_bytes == loop.ys[0].bytes + loop.estimated_bytes
    assert report.full_batch_bytes == 9 * 8192 * 4


def test_a_size_that_depends_on_data_is_not_known():
    _, found = report_of(batch=9).whole
    assert found.shape == (9, -1)
    assert not found.known
    assert found.bytes == 0


def test_what_data_decides_is_said_to_be_unknown():
    def step(model, x, y):
        chosen = model(x)[y > 0]
        loss = chosen.square().sum()
        loss.backward()
        return loss.detach()

    report = small.eager(step).explain(small.net(), *small.data(12))
    assert not report.known
    assert "(both without what has a size that data decides)" in " ".join(str(report).split())
    assert any(line.split()[:1] == ["unknown"] for line in str(report).splitlines())
    assert report.estimated_bytes < 12 * 8 * 12 * 8  # none of it as if the batch were chosen once for each sample


def test_json_holds_everything():
    facts = json.loads(report_of(steps=8).to_json())
    assert facts["steps"] == 8
    assert facts["graphs"][1]["loops"][1]["carry"][0]["name"] == "loss"
    assert facts["graphs"][1]["barriers"][0]["path"] == ["count P(sum)", "reduce R", "div R"]


def test_rounding_to_a_granule_is_said():
    assert "granule 2: 2 samples stay together, so micro-batches of 1 became 2" in str(report_of(batch=8, steps=8))


def test_words():
    assert [human(n) for n in (0, 1023, 1536, 12 << 20, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "12 MiB",
        "3.0 TiB",
    ]
    assert described((4, 4, 4)) == "3 micro-batches of 4"
    assert described((1,)) == "1 micro-batch of 1"
    assert described((2, 2, 1)) == "3 micro-batches: 2 of 2 and 1 of 1"
