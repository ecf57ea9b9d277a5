"""The plain backend cannot refuse what Dynamo runs uncompiled: it warns when it is asked for the last time."""

import warnings

import pytest
import small
import torch
from capturing import by_name
from torch.nn import functional as F

from accumcompile import AccumulateError, AccumulateWarning

LIMIT = 3
pytestmark = pytest.mark.usefixtures("fresh_dynamo")


@pytest.fixture(autouse=True)
def low_limit():
    with torch._dynamo.config.patch(recompile_limit=LIMIT):
        yield


def named(model, x, y, name):
    """Every ``name`` is a capture of its own."""
    loss = F.cross_entropy(model(x), y) * len(name)
    loss.backward()
    return loss.detach()


def codes(run, *args):
    """The codes of a call's warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(*args)
    return [w.message.code for w in caught if isinstance(w.message, AccumulateWarning)]


def test_the_last_permitted_capture_warns():
    run, session = by_name(named)
    model = small.net()
    said = [codes(run, model, *small.data(12), "a" * n) for n in range(1, LIMIT + 1)]
    assert said == [[]] * (LIMIT - 1) + [["AC034"]]
    assert small.runs(run, model, *small.data(12), "a", session=session) == [(12, 3)]
    assert small.runs(run, model, *small.data(12), "one more", session=session) == [], "what the warning is about"


def test_the_warning_names_the_function_and_what_changed():
    run, _ = by_name(named)
    model = small.net()
    with pytest.warns(AccumulateWarning, match="AC034: named is captured for the last time") as said:
        for n in range(1, LIMIT + 1):
            run(model, *small.data(12), "a" * n)
    assert "in named" in str(small.ours(said)[0])
    assert "name" in str(small.ours(said)[0]).split("because")[1]
    assert "torch._dynamo.mark_dynamic" in str(small.ours(said)[0])


def test_strict_makes_it_an_error():
    run, _ = by_name(named, strict=True)
    model = small.net()
    with pytest.raises(AccumulateError, match="AC034"):
        for n in range(1, LIMIT + 1):
            run(model, *small.data(12), "a" * n)


def test_dynamos_own_error_needs_no_warning():
    run, _ = by_name(named)
    model = small.net()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for n in range(1, LIMIT + 1):
            assert codes(run, model, *small.data(12), "a" * n) == []
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            run(model, *small.data(12), "one more")
