"""A random training step as data: the lines of its forward, what they read, and how it is trained."""

from __future__ import annotations

import hashlib
import linecache
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import torch
from catalogue.row import Case, seeded
from torch import nn
from torch.nn import functional as F

OPTIMIZERS = {
    "sgd": "torch.optim.SGD({groups}, lr=0.05, momentum=0.9)",
    "adam": "torch.optim.Adam({groups}, lr=0.01)",
}


@dataclass(frozen=True)
class Op:
    """One line of the forward: ``result = code``; ``kind`` is its row in the table of generators."""

    kind: str
    result: str
    code: str


@dataclass(frozen=True)
class Program:
    """A training step.

    parameters, inputs: name -> the code that makes it; an input may use the batch size ``B``.
    loss: the terms that are summed; returned: what the step returns besides the loss.
    runs: (batch size, micro-batches) of each comparison, the first of which is measured too.
    """

    parameters: dict[str, str]
    inputs: dict[str, str]
    ops: tuple[Op, ...]
    loss: tuple[str, ...]
    returned: tuple[str, ...]
    runs: tuple[tuple[int, int], ...]
    optimizer: str = "sgd"
    groups: int = 1

    @property
    def kinds(self) -> frozenset[str]:
        """The generators that made the step."""
        return frozenset(op.kind for op in self.ops)

    def source(self) -> str:
        """The step as code to read, to run, and to paste into a test."""
        return _TEMPLATE.format(
            parameters=_block([f"self.{name} = {code}" for name, code in self.parameters.items()], 8),
            inputs=_block([f"{name} = {code}" for name, code in self.inputs.items()], 4),
            names=", ".join(self.inputs),
            optimizer=OPTIMIZERS[self.optimizer].format(groups=self._groups()),
            body=_block([*self._body(), f"loss = {' + '.join(self.loss)}"], 4),
            result=", ".join(["loss.detach()", *(f"{value}.detach()" for value in self.returned)]),
        )

    def _body(self) -> list[str]:
        lines = [f"{op.result} = {op.code}" for op in self.ops]
        reads_batch = any(_reads_batch(code) for code in [*lines, *self.loss])
        return ["B = x.shape[0]", *lines] if reads_batch else lines

    def _groups(self) -> str:
        if self.groups == 1:
            return "model.parameters()"
        return '[{"params": list(model.parameters())[::2]}, {"params": list(model.parameters())[1::2], "lr": 0.01}]'


def _reads_batch(code: str) -> bool:
    return re.search(r"\bB\b", code) is not None


def _block(lines: list[str], indent: int) -> str:
    return textwrap.indent("\n".join(lines), " " * indent).lstrip()


_TEMPLATE = """\
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        {parameters}


def batch(B):
    {inputs}
    return call(model, optimizer, {names})


def step(model, optimizer, {names}):
    optimizer.zero_grad()
    {body}
    loss.backward()
    optimizer.step()
    return {result}


model = Model()
optimizer = {optimizer}
"""


def build(source: str) -> Case:
    """The step that a source makes, ready to run; its lines are known to tracebacks and reports."""
    name = f"<step {hashlib.sha256(source.encode()).hexdigest()[:12]}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "call": _call}
    with seeded(0):
        exec(compile(source, name, "exec"), names)
    case = Case(names["step"], names["batch"], {"model": names["model"]}, [names["optimizer"]])
    case.snapshot()
    return case


def _call(*args: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, {}
