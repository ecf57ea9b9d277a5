"""Messages: their table, their layout, and that a user sees them as they are."""

import string
import warnings

import pytest
import small
import torch
from expecttest import assert_expected_inline
from torch.nn import functional as F

from accumcompile import AccumulateError, AccumulateWarning, BuildError, Options
from accumcompile.diagnostics import errors, where
from accumcompile.session.session import Session

FRAME = where.Frame("model.py", 23, "Net.forward", "d = torch.cdist(z, z)")


class Facts(dict):
    """Every fact there is."""

    def __missing__(self, key: str) -> str:
        return f"<{key}>"


@pytest.mark.parametrize("code", errors.MESSAGES)
def test_every_message_renders(code):
    message = errors.MESSAGES[code]
    templates = (message.title, message.why, message.fix, message.cost)
    names = {name for t in templates for _, name, _, _ in string.Formatter().parse(t) if name}
    text = errors.render(code, FRAME, **{name: f"<{name}>" for name in names})
    assert text.startswith(f"accumcompile {code}: ")
    assert text.splitlines()[1:3] == ["  model.py:23 in Net.forward", "      d = torch.cdist(z, z)"]


def test_layout():
    text = errors.render(
        "AC003",
        FRAME,
        op="torch.cdist",
        why="every row of the result reads every sample",
        path="z S(0) -> gather R -> cdist R",
    )
    assert_expected_inline(
        text,
        """\
accumcompile AC003: torch.cdist needs the whole batch
  model.py:23 in Net.forward
      d = torch.cdist(z, z)
  why   every row of the result reads every sample
  path  z S(0) -> gather R -> cdist R
  fix   strict=False runs it on the whole batch""",
    )


def test_a_bug_of_ours_has_a_class_of_its_own():
    with pytest.raises(BuildError, match="AC901: internal check failed: shapes"):
        errors.check(False, "shapes", "b is 2 and not 3")
    errors.check(True, "shapes")


def test_warnings_are_said_once_for_each_line_and_raised_when_strict():
    session = Session(Options(steps=2))
    other = where.Frame("model.py", 24, "Net.forward", "")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for frame in (FRAME, FRAME, other):
            errors.warn("AC031", session, frame, step="train_step")
    assert [str(w.message).splitlines()[1] for w in caught] == [f"  {f.where} in Net.forward" for f in (FRAME, other)]
    assert {w.category for w in caught} == {AccumulateWarning}
    assert {w.filename for w in caught} == {__file__}
    with pytest.raises(AccumulateError, match="AC031"):
        errors.warn("AC031", Session(Options(steps=2, strict=True)), FRAME, step="train_step")


def fixed(model, x, y):
    loss = F.cross_entropy(model(x.view(12, 4)), y.view(12))
    loss.backward()


def roads():
    yield pytest.param(small.eager(fixed), id="decorated")
    options = {"steps": 4, "lowering": "eager"}
    yield pytest.param(torch.compile(fixed, backend="accumcompile", options=options), id="backend")


@pytest.mark.parametrize("step", list(roads()))
def test_a_user_sees_our_class_and_our_first_line(step):
    torch._dynamo.reset()
    with pytest.raises(AccumulateError) as caught:
        step(small.net(), *small.data(12))
    assert type(caught.value) is AccumulateError
    assert caught.value.code == "AC015"
    assert str(caught.value).splitlines()[0] == "accumcompile AC015: the batch size became a constant"
    assert "TORCHDYNAMO_VERBOSE" not in str(caught.value)
    assert caught.value.frame.code == "loss = F.cross_entropy(model(x.view(12, 4)), y.view(12))"


def test_user_frame():
    trace = """
      File "/home/me/train.py", line 7, in torch_dynamo_resume_in_step_at_6
        loss = F.cross_entropy(model(x), y)
      File "/usr/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1778, in _call_impl
        return forward_call(*args, **kwargs)
    """
    frame = where.user_frame(trace)
    assert (frame.where, frame.function) == ("/home/me/train.py:7", "step")
    assert frame.code == "loss = F.cross_entropy(model(x), y)"
    assert where.user_frame("") is None and where.user_frame(None) is None


def test_it_is_the_users_line():
    frame = where.users_line()
    assert (frame.function, frame.code) == ("test_it_is_the_users_line", "frame = where.users_line()")
    assert frame.file == __file__
