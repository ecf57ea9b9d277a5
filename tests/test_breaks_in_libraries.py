"""A break on a line of an installed package: the text names that line, and asks nobody to rewrite it."""

import importlib
import sys

import pytest
import small
from expecttest import assert_expected_inline
from small import refused, warned
from torch.nn import functional as F

pytestmark = [
    pytest.mark.usefixtures("fresh_dynamo"),
    pytest.mark.filterwarnings("error::accumcompile.AccumulateWarning"),
]

THEIRS = """
import torch
from torch.nn import functional as F


class Net(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        hidden = torch.relu(self.net.first(x))
        print(hidden.sum().item())
        return self.net.second(hidden)


class Trainer:
    def training_step(self, model, x, y):
        for _ in range(1):
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        return loss.detach()


class Checked(Net):
    def forward(self, x):
        return self.net(x)
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """An installed package with a model that looks at a number, and a trainer whose loop Dynamo drops."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "theirs.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("theirs")
    del sys.modules["theirs"]


def step(model, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()


def test_a_models_line(theirs):
    (text,) = warned(small.eager(step), theirs.Net(small.net()), *small.data(12))
    assert_expected_inline(
        text,
        """\
accumcompile AC030: the loss was computed outside the captured graph of the model
  test_breaks_in_libraries.py:N in step
      loss.backward()
  why   Dynamo made a graph break in theirs, at theirs.py:N:
        a tensor becomes a Python number: item(), float(), print()
  cost  each micro-batch's forward runs twice, and the model's outputs are held for all 12 samples
  fix   find an option of theirs that avoids that line, or override forward in a class of your own""",
    )


def test_a_trainers_step_that_dynamo_drops(theirs):
    decorated = small.eager(theirs.Trainer.training_step)
    text = refused(decorated, theirs.Trainer(), small.layer(), *small.data(12))
    assert_expected_inline(
        text,
        """\
accumcompile AC020: the step ran on the full batch
  small.py:N in refused
      step(*args)
  why   Dynamo dropped training_step, because it cannot resume after a graph break in theirs, at theirs.py:N:
        a graph break in a loop
  cost  forward and backward kept the activations of all 12 samples
  fix   find an option of theirs that avoids that line, or override training_step in a class of your own""",
    )
    again = refused(decorated, theirs.Trainer(), small.layer(), *small.data(12))
    assert again == text  # though Dynamo says why only once


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_a_hook_is_the_users_though_their_line_meets_it(theirs):
    model = theirs.Checked(small.net())
    model.net.first.register_full_backward_hook(lambda module, gradients, outputs: None)
    (text,) = warned(small.eager(step), model, *small.data(12))
    assert "fix   register the hook on parameters or tensors" in text
