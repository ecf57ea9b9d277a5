"""Rules for operators of one's own: entered, refused, proven, and what they change in a step."""

import subprocess
import sys

import pytest
import torch
from capturing import by_name
from small import assert_equal
from test_docs import DOCS, blocks
from torch import nn
from torch.nn import functional as F

import accumcompile
from accumcompile import Rule, accumulate, register_rule
from accumcompile.rules.checked import mistakes
from accumcompile.rules.table import RULES
from accumcompile.rules.views import along
from accumcompile.testing import check_rule

PAGE = DOCS / "custom_ops.md"
FORWARD = Rule("... _, ... _, _ -> ... _", linear=({2},))
BACKWARD = Rule("... _, ... _, ... _, _ -> ... _, ... _, _", linear=({0},))


@pytest.fixture(scope="module")
def ops():
    """The page's operators, in a library of the tests' own."""
    scope = {"__name__": __name__}
    exec(blocks(PAGE)[0][1].replace("mylib", "tested"), scope)
    return torch.ops.tested


@pytest.fixture(autouse=True)
def table_put_back():
    before, state = dict(RULES), torch.get_rng_state()
    yield
    RULES.clear()
    RULES.update(before)
    torch.set_rng_state(state)
    torch._dynamo.reset()


def f(*shape):
    return torch.randn(shape, dtype=torch.float64)


class Net(nn.Module):
    def __init__(self, op):
        super().__init__()
        self.op = op
        self.inside, self.outside = nn.Linear(6, 12, dtype=torch.float64), nn.Linear(6, 1, dtype=torch.float64)
        self.weight = nn.Parameter(torch.ones(6, dtype=torch.float64))

    def forward(self, x):
        hidden, gate = self.inside(x).chunk(2, -1)
        return self.outside(self.op(hidden, gate, self.weight))


def train(model, x, y):
    loss = F.mse_loss(model(x), y)
    loss.backward()
    return loss.detach()


def gathers(report):
    return [barrier for barrier in report.barriers if barrier.kind == "gather"]


def test_the_page_runs():
    scope = {"__name__": "custom_ops"}
    for line, code in blocks(PAGE):
        exec(compile("\n" * line + code, str(PAGE), "exec"), scope)
    message = next(iter(scope["rules"])), Rule("... d, ... d, d -> ... d"), [(f(4, 3), f(4, 3), f(3))]
    with pytest.raises(AssertionError) as caught:
        check_rule(*message)
    shown = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert str(caught.value).partition(", off by")[0] in shown


@pytest.mark.parametrize(
    "lowering", ["eager", pytest.param("inductor", marks=[pytest.mark.inductor, pytest.mark.slow])]
)
def test_rules_take_the_gathers_away(ops, lowering):
    torch.manual_seed(0)
    step = accumulate(steps=4, lowering=lowering)(train)
    model, x, y = Net(ops.gated), f(11, 3, 6), f(11, 3, 1)
    assert_equal(step, model, x, y)
    assert gathers(step.explain(model, x, y))
    register_rule(ops.gated, FORWARD)
    register_rule(ops.gated_backward, BACKWARD)
    model.zero_grad()
    assert_equal(step, model, x, y)  # captured anew
    report = step.explain(model, x, y)
    assert len(report.loops) == 1 and not report.barriers
    assert report.graphs[0].road == "fused"  # the backward is linear in the gradient


def test_the_backward_is_another_operator(ops):
    step = accumulate(steps=4, lowering="eager")(train)
    register_rule(ops.gated, FORWARD)
    report = step.explain(Net(ops.gated), f(11, 3, 6), f(11, 3, 1))
    assert {barrier.path[-1] for barrier in gathers(report)} == {"gated_backward R"}


def test_a_step_of_torch_compile_is_captured_anew(ops):
    step, session = by_name(train, steps=4)
    model, x, y = Net(ops.gated), f(11, 3, 6), f(11, 3, 1)
    with session.journal.recording() as runs:
        before = step(model, x, y)
        register_rule(ops.gated, FORWARD)
        register_rule(ops.gated_backward, BACKWARD)
        torch.testing.assert_close(step(model, x, y), before)
    assert [(run.plan.road, bool(run.plan.barriers)) for run in runs] == [
        ("forward", True),
        ("backward", True),
        ("fused", False),
    ]


def samples(*shapes):
    return [(f(*shape), f(*shape), f(shape[-1])) for shape in shapes]


def test_the_rules_are_proven(ops):
    check_rule(ops.gated, FORWARD, samples((4, 3), (4, 3, 5), (4, 4, 4)))
    backward = [(f(*x.shape), x, gate, weight) for x, gate, weight in samples((4, 3), (4, 3, 5), (4, 4, 4))]
    check_rule(ops.gated_backward, BACKWARD, backward)
    assert ops.gated.default not in RULES


# A wrong rule, and what is said of it.
WRONG = {
    "linear in x": (
        Rule(FORWARD.dims, linear=({0},)),
        "tested.gated.default(float64[4, 4, 3], float64[4, 4, 3], float64[3]): P(sum) does not pass: "
        "not linear in tensor 0, off by ",
    ),
    "jointly linear in gate and weight": (Rule(FORWARD.dims, linear=({1, 2},)), "not linear in tensor 1 and 2"),
    "dimensions swapped": (
        Rule("b t _, b t _, _ -> t b _"),
        "tested.gated.default(float64[4, 4, 3], float64[4, 4, 3], float64[3]), the batch being dimension 0 of tensor 0 "
        "and dimension 1 of tensor 0 and dimension 0 of tensor 1 and dimension 1 of tensor 1: "
        "the micro-batches' values do not fit together, result 0 is not S(1): ",
    ),
    "the opaque dimension dropped": (
        Rule("... d, ... d, d -> ... d"),
        "the batch being dimension 2 of tensor 0 and dimension 2 of tensor 1 and dimension 0 of tensor 2: "
        "result 0 is not S(2)",
    ),
    "data movement": (Rule(FORWARD.dims, moves=True), "P(max) does not pass: it does more than move data"),
    "a rule of another rank": (Rule("b, b, b -> b"), "the rule covers none of the samples"),
}


@pytest.mark.parametrize(("rule", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_rule_is_caught(ops, rule, said):
    with pytest.raises(AssertionError) as caught:
        check_rule(ops.gated, rule, samples((4, 4, 3)))
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["of the gradient", "of the weight's sum"])
def test_a_wrong_backward_is_caught(ops, name):
    wrong = {
        "of the gradient": Rule(BACKWARD.dims, linear=({1},)),
        "of the weight's sum": Rule(BACKWARD.dims, reduce="max"),
    }[name]
    x, gate, weight = samples((4, 4, 3))[0]
    with pytest.raises(AssertionError, match="does not pass" if "gradient" in name else r"result 2 is not P\(max\)"):
        check_rule(ops.gated_backward, wrong, [(f(4, 4, 3), x, gate, weight)])


def unless_squared(facts):
    return () if facts.argument(2, "squared") else ({0},)


def test_linearity_may_depend_on_arguments():
    @torch.library.custom_op("tested::running", mutates_args=())
    def running(x: torch.Tensor, dim: int, squared: bool) -> torch.Tensor:
        return (x.square() if squared else x).cumsum(dim)

    running.register_fake(lambda x, dim, squared: torch.empty_like(x))
    calls = [(f(4, 3), 1, False), (f(4, 4), 0, False), (f(4, 3), 1, True)]
    check_rule(running, Rule(align=along(1), linear=unless_squared), calls)
    with pytest.raises(AssertionError, match="not linear in tensor 0"):
        check_rule(running, Rule(align=along(1), linear=({0},)), calls)


@pytest.mark.parametrize(("cheap", "gathered"), [(None, 0), (True, 0), (False, 1)])
def test_only_what_is_cheap_is_computed_again(cheap, gathered):
    tripled = torch.library.custom_op(
        "tested::tripled", lambda x: 3 * x, mutates_args=(), schema="(Tensor x) -> Tensor"
    )
    tripled.register_fake(torch.empty_like)

    def train(model, x, y):
        loss = F.mse_loss(model(x), tripled(y).sort(0).values)  # the sort needs the whole of it
        loss.backward()
        return loss.detach()

    register_rule(tripled, Rule("... -> ...", cheap=cheap))
    model = nn.Linear(6, 1, dtype=torch.float64)
    step = accumulate(steps=4, lowering="eager")(train)
    assert_equal(step, model, f(11, 6), f(11, 1))
    report = step.explain(model, f(11, 6), f(11, 1))
    assert len(report.loops) == 1 + gathered and len(gathers(report)) == gathered


def test_an_operator_is_named_in_three_ways(ops):
    defined = torch.library.custom_op("tested::named", lambda x: x + 1, mutates_args=(), schema="(Tensor x) -> Tensor")
    for op in (defined, torch.ops.tested.named, torch.ops.tested.named.default):
        register_rule(op, Rule("... -> ..."))
        assert RULES.pop(torch.ops.tested.named.default) == Rule("... -> ...")


def test_of_two_rules_the_first_stays(ops):
    register_rule(ops.gated, FORWARD)
    register_rule(ops.gated, Rule("... _, ... _, _ -> ... _", linear=({2},)))
    with pytest.raises(ValueError, match="it has a rule already"):
        register_rule(ops.gated, Rule("... _, ... _, _ -> ... _"))
    assert RULES[ops.gated.default] == FORWARD


def defined(name, schema, **how):
    """A new operator that is never run."""
    torch.library.define(f"tested::{name}", schema, **how)
    return getattr(torch.ops.tested, name)


def composite():
    op = defined("composite", "(Tensor x) -> Tensor")
    torch.library.impl("tested::composite", "CompositeImplicitAutograd")(lambda x: x.sin().cos())
    return op


SEEDED = {"tags": torch.Tag.nondeterministic_seeded}
REFUSED = {
    "a function": (lambda: torch.sin, TypeError, "is no operator: a Python function becomes one by"),
    "a name": (lambda: "tested::gated", TypeError, "is no operator"),
    "several overloads": (lambda: torch.ops.aten.searchsorted, ValueError, "give one, such as aten.searchsorted."),
    "in the table": (lambda: torch.ops.aten.tan.default, None, ""),
    "in the table, by a row": (lambda: torch.ops.aten.cumsum.default, ValueError, "it has a rule already"),
    "mutable": (lambda: defined("mutable", "(Tensor(a!) x) -> Tensor"), ValueError, "it changes its operands"),
    "random": (lambda: defined("random", "(Tensor x) -> Tensor", **SEEDED), ValueError, "it draws random numbers"),
    "composite": (composite, ValueError, "it is taken apart"),
    "decomposed": (lambda: torch.ops.aten.hardtanh.default, ValueError, "it is taken apart"),
}


@pytest.mark.parametrize(("op", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_what_can_have_no_rule_is_refused(op, error, said):
    if error is None:
        register_rule(op(), Rule("... -> ..."))  # pointwise by its tag: a row may say more
        return
    with pytest.raises(error) as caught:
        register_rule(op(), Rule("... -> ..."))
    assert said in str(caught.value)


MALFORMED = {
    "no arrow": (Rule("... _, ... _, _"), '"->"'),
    "nothing": (Rule(), "it does not say how dimensions line up"),
    "no word": (Rule("... 3, ... _, _ -> ... _"), '"3" in "... 3" is no word'),
    "letters run together": (Rule("b,d _... -> b-d"), '"b-d"'),
    "two ellipses": (Rule("... _..., ..., _ -> ..."), "two words that stand for any number"),
    "a star among others": (Rule("* b, b, _ -> b"), '"*" stands alone'),
    "a factor twice": (Rule("b b, b _, _ -> b _"), '"b" stands for two dimensions'),
    "a new factor": (Rule("b _, b _, _ -> b n"), 'a result has "n", which no operand has'),
    "an ellipsis from nowhere": (Rule("b, b, b -> ..."), 'a result has "..."'),
    "operands": (Rule("... _, ... _ -> ... _"), "it lines up 2 operands, but the operator takes 3 tensors"),
    "results": (Rule("... -> ..., ..."), "it has 2 results, but the operator returns 1"),
    "linear in a fourth": (Rule("... -> ...", linear=({3},)), "linear names operand 3"),
    "linear as numbers": (Rule("... -> ...", linear=(0,)), "linear holds sets"),
    "whole": (Rule("b _, b _, _ -> b _", whole="v"), 'whole names "v"'),
    "reduce": (Rule("... -> ...", reduce="mean"), "reduce is 'mean': it can be None, 'sum', 'max', 'min'"),
    "shape_arg": (Rule("... -> ...", shape_arg=3), "shape_arg is 3, but the operator has 3 arguments"),
}


@pytest.mark.parametrize(("rule", "said"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_rule_is_refused_when_it_is_given(ops, rule, said):
    for use in (register_rule, lambda op, rule: check_rule(op, rule, [])):
        with pytest.raises(ValueError) as caught:
            use(ops.gated, rule)
        assert said in str(caught.value)
    assert ops.gated.default not in RULES


def test_what_is_no_rule_is_refused(ops):
    with pytest.raises(TypeError, match=r"a rule is an accumcompile\.Rule"):
        register_rule(ops.gated, "... -> ...")


@pytest.mark.parametrize("op", RULES, ids=str)
def test_every_row_of_the_table_is_well_formed(op):
    assert not list(mistakes(op, RULES[op]))


def test_the_names_are_public_and_bring_no_compiler():
    assert {"Rule", "register_rule"} <= set(accumcompile.__all__)
    code = "import sys, accumcompile; accumcompile.register_rule; sys.exit('accumcompile.rules.table' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
