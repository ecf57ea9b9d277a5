"""Every error and warning message: one table, one layout.

A message shows the user's line, then the reason, the path of placements, the cost and the fix. Its code is
stable: it never changes its meaning, and is not reused when its message is no longer given.
"""

from __future__ import annotations

import textwrap
import warnings
from dataclasses import dataclass
from typing import Any, Protocol, Self

from . import where
from .raised import NO_FRAME, LetThrough
from .where import Frame


@dataclass(frozen=True)
class Message:
    """The message of one code; the texts are ``str.format`` templates over the facts of one occurrence."""

    title: str
    why: str = ""
    fix: str = ""
    cost: str = ""


_FROM_THE_TENSOR = "where a number is written for it, write the tensor's size (x.shape[0])"
_ONLY_NUMBERS = "\ncall what takes only numbers (math.log, torch.linspace) in a function under torch.compiler.disable"

MESSAGES: dict[str, Message] = {
    # Options
    "AC001": Message("{option}={value} is not {wanted}", fix="give {wanted}"),
    "AC002": Message("{option}={value} is not available yet", fix="{instead}"),
    "AC004": Message(
        "steps and micro_batch_size are both given",
        "each of them decides the size of a micro-batch",
        "give one of them",
    ),
    "AC005": Message("neither steps nor micro_batch_size is given", fix="give one of them, such as steps=8"),
    "AC006": Message("there is no option {option}", "the options are {names}", "correct the name or leave it out"),
    # explain() and verify()
    "AC007": Message(
        "{step} is not an accumulated step",
        "explain() and verify() run a step that was decorated",
        "decorate it, or pass accumulate({step}, steps=8)",
    ),
    # An operator that needs the whole batch, where strict forbids it
    "AC003": Message("{op} needs the whole batch", "{why}", "strict=False runs it on the whole batch"),
    # The batch
    "AC010": Message("batch_dims does not fit {argument}", "{why}", "{fix}"),
    "AC011": Message(
        "no batch input found",
        "no argument of {step} holds a tensor with a batch dimension (a module's tensors are no batch)",
        "pass the batch as an argument of the step",
    ),
    "AC013": Message("the batch is empty: {name} has size 0 along dim {dim}", fix="skip the step for an empty batch"),
    "AC014": Message(
        "the batch size became a constant",
        "batch_dims declares dim {dim} of {name}, and this line fixes its size to {size}",
        _FROM_THE_TENSOR + _ONLY_NUMBERS,
    ),
    "AC015": Message(
        "the batch size became a constant",
        "no input has a batch size left that may vary: this line fixes that of {name} to {size}",
        _FROM_THE_TENSOR + ", or declare batch_dims" + _ONLY_NUMBERS,
    ),
    "AC016": Message(
        "the batch size of {name} became a constant",
        "this line fixes the size {size} of its dim {dim}: it is no batch, and what depends on it runs whole",
        _FROM_THE_TENSOR + ", or declare batch_dims" + _ONLY_NUMBERS,
    ),
    "AC017": Message(
        "PyTorch cannot trace this for a batch whose size varies",
        "{reason}",
        "call it in a function under torch.compiler.disable: it then runs on the whole batch, and the rest is split",
    ),
    # The safety net
    "AC020": Message(
        "the step ran on the full batch",
        "{why}",
        "{fix}",
        "forward and backward kept the activations of all {batch} samples",
    ),
    "AC021": Message(
        "a part of the step ran on the full batch: {parameters}",
        "{why}",
        "{fix}",
        "that part kept the activations of all {batch} samples",
    ),
    "AC022": Message(
        "a TorchDispatchMode is active: {mode}",
        "torch.compile captures nothing below such a mode, so the step would run on the full batch",
        "call the step outside the mode; explain() and verify() show what it does",
    ),
    "AC023": Message(
        "the step was captured anew too often ({limit} times)",
        "Dynamo would now run it on the full batch; it was last captured again because {reason}",
        "keep that value the same between calls or make it a tensor, or raise torch._dynamo.config.{config}",
    ),
    "AC024": Message(
        "create_graph=True needs a second derivative",
        "the backward of a compiled step keeps no graph to differentiate again",
        "compute that derivative inside the step with torch.func.grad, or leave this step undecorated",
    ),
    "AC025": Message(
        "Lightning zeroes the gradients that {step} has made",
        "under automatic optimization it calls zero_grad() when training_step has returned, and then backward() itself",
        "return the loss, and leave backward() to Lightning; or set automatic_optimization = False, and update there",
    ),
    # Warnings: once each, errors under strict
    "AC030": Message(
        "the loss was computed outside the captured graph of the model",
        "{why}",
        "{fix}",
        "each micro-batch's forward runs twice, and the model's outputs are held for all {batch} samples",
    ),
    "AC031": Message(
        "{step} never called backward()",
        "gradients are what is accumulated: without them the step is only a forward pass",
        "call backward() in the step, or on the loss that it returns; run an evaluation under torch.no_grad()",
    ),
    "AC032": Message(
        "{model} is already wrapped in torch.compile",
        "it is inlined into the step, and its own backend and options are ignored",
        "pass the plain module (._orig_mod of the wrapped one)",
    ),
    "AC033": Message(
        "outputs are held for the full batch: {names}",
        "they are alive when backward() is called",
        "{fix}",
        "{bytes} of an estimated peak of {peak}",
    ),
    "AC034": Message(
        "{step} is captured for the last time ({limit} times are allowed)",
        "from its next change on Dynamo runs it on the full batch, and tells nobody; now it is captured again because "
        "{reason}",
        "keep that value the same between calls, call torch._dynamo.mark_dynamic for a size that varies, or raise "
        "torch._dynamo.config.{config}; a step decorated with accumulate() is an error then",
    ),
    "AC035": Message(
        "little of the step could be split",
        "this line takes the whole batch, and what is computed from it runs whole; explain() lists what does",
        "mix, cut or pick samples before the step, or where they are small, behind the model; a rule splits an "
        "operator of your own (register_rule)",
        "an estimated peak of {peak}, where the full batch at once has {full}",
    ),
    "AC037": Message(
        "the rest of the step runs on the full batch from now on",
        "after this break it was captured anew too often ({limit} times), the last time because {reason}",
        "keep that value the same between calls, make it a tensor, or raise torch._dynamo.config.{config}",
    ),
    "AC038": Message(
        "a {kind} is among the values",
        "a tensor made of tensors, and of ranks perhaps, is split along time only when ranks are: not yet",
        "give the step plain tensors and parameters (of a DTensor: to_local() or full_tensor())",
    ),
    "AC039": Message(
        "a graph is not split: that would take more memory than the full batch at once",
        "it makes little beside its gradients, of which micro-batches hold two: their sum, and their own",
        "give the step a larger batch, or leave it undecorated",
        "an estimated peak of {peak}, where the full batch at once has {full}",
    ),
    "AC042": Message(
        "the step is split in micro-batches, and {setting} is {count}",
        "{count} batches of {step} are accumulated to one update, weighted as that framework weights them",
        "set it to 1 and make the batch {count} times as large",
    ),
    # Python values in place of tensors; compiled code that fails its check
    "AC040": Message(
        "the batch size became a constant",
        "{lists} is a Python list of {size} values: what is read of it becomes constants of the captured step, and "
        "so does the size of {name}",
        "make it a tensor before the step",
    ),
    "AC041": Message(
        "a part of the step was captured, and ran on the full batch: {parameters}",
        "its graph computes on data of the batch, but none of its sizes may vary",
        "where a number is written for the batch's size, write the tensor's (x.shape[0]); make one tensor of samples "
        "in a Python list (torch.stack, pad_sequence)",
        "that part kept the activations of all {batch} samples",
    ),
    "AC050": Message(
        "compiled code gave another result than its graph",
        "{what}, differs by {differs} of its norm, and rounding explains {explained}: a bug of the compiler below",
        "report it to PyTorch: {repro}",
        "it runs uncompiled from now on; nothing of the wrong result was used",
    ),
    "AC051": Message(
        "a part of the step could not be compiled",
        "{what}: {reason}",
        "repair what it names, or report it to PyTorch: {repro}",
        "it runs uncompiled, one operator after the other",
    ),
    # Errors of the step itself
    "AC036": Message(
        "this line fails without being split, too",
        "{reason}",
        "correct what it is called with: {given}",
    ),
    # Bugs of the compiler
    "AC901": Message("internal check failed: {what}", "{why}", "please report this, with the graph that dump= writes"),
}

_PARTS = ("why", "path", "cost", "fix")


def render(code: str, frame: Frame | None = None, *, path: str = "", **facts: Any) -> str:
    """The text of a message: the user's line, then why, path, cost and fix, as far as there are any."""
    message = MESSAGES[code]
    lines = [f"accumcompile {code}: {message.title.format(**facts)}"]
    if frame is not None:
        lines.append(textwrap.indent(str(frame), "  "))
    templates = {"why": message.why, "path": "{path}", "cost": message.cost, "fix": message.fix}
    for part in _PARTS:
        text = templates[part].format(path=path, **facts)
        if text:
            lines.append(f"  {part:<6}" + textwrap.indent(text, " " * 8).lstrip())
    return "\n".join(lines)


class AccumulateError(LetThrough):
    """An error raised by accumcompile. ``code`` is stable; ``frame`` is the user's line, if known."""

    def __init__(self, text: str, code: str = "", frame: Frame | None = None) -> None:
        super().__init__(text, **NO_FRAME)
        self.text = text
        self.code = code
        self.frame = frame

    def __str__(self) -> str:
        return self.text  # not args, to which Dynamo appends advice

    def remove_dynamo_frames(self) -> Self:
        """Called by Dynamo before it re-raises; the traceback is dropped, since the text names the user's line."""
        return self.with_traceback(None)


class BuildError(AccumulateError):
    """An internal check of the compiler failed: a bug in accumcompile, never in the user's code."""

    def remove_dynamo_frames(self) -> Self:
        """Keep the traceback: the compiler's own frames matter here."""
        return self


class AccumulateWarning(UserWarning):
    """The step costs memory or time that a change to it would save."""

    def __init__(self, text: str, code: str = "", frame: Frame | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.frame = frame


def error(code: str, frame: Frame | None = None, **facts: Any) -> AccumulateError:
    """The exception for ``code``; the caller raises it."""
    kind = BuildError if code.startswith("AC9") else AccumulateError
    return kind(render(code, frame, **facts), code, frame)


class Warned(Protocol):
    """What remembers the warnings given: a session."""

    warned: set[tuple[str, str | None]]  # (code, line) of each

    @property
    def strict(self) -> bool:
        """Whether warnings are errors."""


def warn(code: str, session: Warned, frame: Frame | None = None, **facts: Any) -> None:
    """Warn once for each step and line, or raise if the step is strict."""
    if session.strict:
        raise error(code, frame, **facts)
    key = code, frame.where if frame else None
    if key not in session.warned:
        session.warned.add(key)
        warnings.warn(AccumulateWarning(render(code, frame, **facts), code, frame), stacklevel=where.depth_of_user())


def create_graph_error(frame: Frame | None = None) -> AccumulateError:
    """The error for ``create_graph=True`` in a backward through a compiled step."""
    return error("AC024", frame or where.users_line())


def check(holds: bool, what: str, why: str = "", frame: Frame | None = None) -> None:
    """An internal check: raise ``BuildError`` unless it holds."""
    if not holds:
        raise error("AC901", frame, what=what, why=why)
