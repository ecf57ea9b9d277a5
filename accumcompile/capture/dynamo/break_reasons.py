"""Why Dynamo did not capture something: its own reason, shortened, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from traceback import FrameSummary

from ...diagnostics import where


@dataclass(frozen=True)
class Reason:
    """Why Dynamo broke a graph, or dropped a whole function.

    frame: the user's line.
    dropped: the function that runs eagerly because of it.
    library: the line of an installed package that the user's line has called, and that Dynamo could not trace.
    """

    text: str
    frame: where.Frame | None = None
    dropped: str = ""
    library: where.Frame | None = None

    @classmethod
    def of(cls, text: str, stack: Iterable[FrameSummary] | None, dropped: str = "") -> Reason:
        """The reason with its lines, from Dynamo's stack of what it was tracing."""
        frames = list(stack or ())
        return cls(text, where.of_summaries(frames), dropped, where.library_frame(frames))

    @property
    def at(self) -> str:
        """The place, in words: the package's where the line is a package's."""
        if self.library is not None:
            return f" in {where.package_of(self.library.file)}, at {self.library.where}"
        return f" at {self.frame.where}" if self.frame else ""


FAILED = "Dynamo failed to trace it"
UNTRACEABLE = "PyTorch cannot trace it for a batch whose size varies"
OPTIMIZER = "an optimizer runs once per step, uncompiled"
LIST = "a tensor is made of a Python list"

# Graph breaks that every step has.
EXPECTED = ("Tensor.backward() call", "Optimizer.zero_grad", OPTIMIZER)

# Replacements for reasons that Dynamo words misleadingly.
REWORDED: tuple[tuple[str, str], ...] = (
    ("Tensor.backward() call", "backward() inside a try, a loop or a context manager"),
    ("break in loop", "a graph break in a loop"),
    ("Module-level backwards hooks", "a module's backward hook"),
    ("Graph break under", "a graph break inside a context manager"),
    ("Tensor.item() call", "a tensor becomes a Python number: item(), float(), print()"),
    ("data-dependent expression", "a number that the data decides becomes a Python number: a count, a length"),
    ("generic_jump", "an if or a while that the data decides"),
    ("step_unsupported", "an operation that Dynamo cannot trace"),
    ("torch.compiler.disable", "a function that torch.compiler.disable keeps from Dynamo"),
)

OWN_FUNCTION = "put forward and loss into a function of their own, and call it from the step"
RESUMABLE = "move that line out of the try, loop or with around it, or out of {dropped}"

# What to write instead, by a phrase of Dynamo's reason; AFTER_BACKWARD is for any other graph break, and
# OF_A_LIBRARY for one on a line that is not the user's to change.
FIXES: tuple[tuple[str, str], ...] = (
    ("backwards hooks", "register the hook on parameters or tensors (p.register_hook), not on a module"),
    (LIST, "make it before the step: pass torch.tensor(labels) in place of the list"),
    ("Reconstruction failure", "make that object before the step, and not in it"),
    ("data-dependent expression", "keep such numbers in tensors (mask, gather, index_add), or out of forward and loss"),
    ("torch.compiler.disable", "let Dynamo see that function, or move the call behind backward()"),
)
YOURS = ("backwards hooks", LIST)  # these are the user's, whichever line meets them
OF_A_LIBRARY = "find an option of {package} that avoids that line, or override {function} in a class of your own"
AFTER_BACKWARD = "keep that out of forward and loss: move it behind backward(), or out of the step"


def is_expected(reason: Reason) -> bool:
    """Whether this is a graph break that every step has: at backward(), at the optimizer."""
    return not reason.dropped and any(text in reason.text for text in EXPECTED)


def explained(reasons: Sequence[Reason], step: str = "") -> dict[str, str]:
    """Why and fix, from Dynamo's first reason. A dropped function other than ``step`` is already a separate one."""
    if not reasons:
        return {"why": "Dynamo did not capture it and gave no reason", "fix": OWN_FUNCTION}
    reason = reasons[0]
    what = f"Dynamo dropped {reason.dropped}, because it cannot resume after" if reason.dropped else "Dynamo made"
    return {"why": f"{what} a graph break{reason.at}:\n{summary(reason.text)}", "fix": _fix(reason, step)}


def _fix(reason: Reason, step: str) -> str:
    if reason.library is not None and not any(word in reason.text for word in YOURS):
        return OF_A_LIBRARY.format(package=where.package_of(reason.library.file), function=reason.library.function)
    otherwise = AFTER_BACKWARD if not reason.dropped else OWN_FUNCTION if reason.dropped == step else RESUMABLE
    fixes = (fix for word, fix in FIXES if word in reason.text)
    return next(fixes, otherwise.format(dropped=reason.dropped))


def summary(text: str) -> str:
    """Dynamo's reason in a line or two: the last break that it names, without hints and links."""
    last = text.split("*** While handling this graph break, another graph break occurred: ***")[-1].strip()
    ours = next((words for word, words in REWORDED if word in last), None)
    title, _, rest = last.partition("\n")
    explanation = next((x.split(":", 1)[1].strip() for x in rest.splitlines() if "Explanation:" in x), "")
    return ours or "\n".join(filter(None, (title, explanation)))


_FILE = re.compile(r"^\S+\.(cpp|h):\d+: ")  # a place in PyTorch's C++ sources
_GOT = re.compile(r"got \w+\([\"'](.*)[\"']\)")  # Dynamo's message about an operator that failed


def first_sentence(error: Exception) -> str:
    """The first sentence of a PyTorch error, without advice and internals."""
    text = str(error).strip()
    got = _GOT.search(text)
    return got[1] if got else _FILE.sub("", re.split(r"\n|(?<=[a-z)])\. ", text)[0])


def recompilation(text: str) -> str:
    """Dynamo's reason for a recompilation, without the number of the cache entry and the source line."""
    first = text.strip().partition("\n")[0].partition("  #")[0].strip()
    number, colon, rest = first.partition(": ")
    return rest if colon and number.replace("/", "").isdigit() else first or "a guard failed"
