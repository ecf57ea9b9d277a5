"""Where Dynamo fails, plain Python runs: a failure of its own is a break of the graph like any other.

Dynamo breaks a graph, or drops a function, only at what it knows that it cannot trace. Any other failure (a module
whose ``__init__`` it does not follow, a number that data decides) it lets out of the call, with a page of its
internals. Here all are alike, unless eager fails on that line too: then that is said at once. Checked in torch 2.13.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from traceback import walk_tb
from types import CellType
from typing import Any, NoReturn

import torch
from torch import fx
from torch._dynamo import convert_frame, symbolic_convert
from torch._dynamo.exc import (
    InternalTorchDynamoError,
    TorchDynamoException,
    TorchRuntimeError,
    UncapturedHigherOrderOpError,
    exceptions_allowed_to_be_fallback,
    unimplemented,
)

from ...diagnostics import errors, where
from . import ambient, replaced, stand_ins
from .reasons import FAILED, UNTRACEABLE, first_sentence

Handler = Callable[[Any, Any], None]

# What Dynamo raises on purpose; of its own exceptions, these are failures.
_ON_PURPOSE = (TorchDynamoException, symbolic_convert.ReturnValueOp, symbolic_convert.YieldValueOp)
_FAILURES = (InternalTorchDynamoError, TorchRuntimeError, UncapturedHigherOrderOpError)
_TRANSLATORS = (
    symbolic_convert.InstructionTranslator,
    symbolic_convert.InliningInstructionTranslator,
    symbolic_convert.InliningGeneratorInstructionTranslator,
)

# Lines that only the backend found it cannot trace, and why. By place: another trace of the frame meets them again.
_untraceable: dict[tuple[str, int], str] = {}


def break_at(line: where.Frame, reason: str) -> bool:
    """Have the graph break at a line whenever it is traced from now on; False if that was asked for before."""
    fresh = (line.file, line.line) not in _untraceable
    _untraceable[line.file, line.line] = reason
    return fresh


@replaced.also
def _every_failure_breaks() -> Callable[[], None]:
    undo = ExitStack()
    for owner, name, breaking in _tracing():
        undo.callback(replaced.put(owner, name, breaking))
    return undo.close


@functools.cache
def _tracing() -> list[tuple[Any, str, Any]]:
    """(owner, attribute, what breaks where that fails) of all that traces instructions.

    Dynamo can break a graph at some instructions: there the function is kept in a cell of what handles the break.
    """
    tables = [(translator, translator.dispatch_table) for translator in _TRANSLATORS]
    cells = {id(cell): cell for _, table in tables for cell in map(_cell, table) if cell is not None}
    places: list = [(cell, "cell_contents", _breaking(cell.cell_contents, resumes=True)) for cell in cells.values()]
    for translator, table in tables:
        breaking = [h if h is None or _cell(h) else _breaking(h) for h in table]
        places.append((translator, "dispatch_table", breaking))
    return places


def _cell(handler: Handler | None) -> CellType | None:
    names = getattr(getattr(handler, "__code__", None), "co_freevars", ())
    closure = getattr(handler, "__closure__", None) or ()
    return dict(zip(names, closure, strict=True)).get("inner_fn")


def _breaking(handle: Handler, resumes: bool = False) -> Handler:
    """``handle``, which traces one instruction, whose failures are breaks, from which Dynamo ``resumes`` or not."""

    @functools.wraps(handle)
    def handles(tx: Any, instruction: Any) -> None:
        reason = _untraceable.get((tx.f_code.co_filename, tx.lineno)) if resumes and _untraceable else None
        if reason is not None and ambient.is_tracing_for_us():
            unimplemented(gb_type=UNTRACEABLE, context="", explanation=reason, hints=[])
        try:
            handle(tx, instruction)
        except Exception as error:
            if not ambient.is_tracing_for_us() or _is_on_purpose(error):
                raise
            _fail_like_eager(tx)
            _break(error)

    return handles


@replaced.replaces(convert_frame, "_compile")
def _compile(compile_: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A failure outside of all instructions leaves the function to Python."""
    try:
        return compile_(*args, **kwargs)
    except Exception as error:
        if ambient.here.call is None or _is_on_purpose(error):
            raise
        _break(error)


@contextmanager
def bugs_named() -> Iterator[None]:
    """Around our own work: what is raised there, and meant for nobody, is a bug of ours.

    Raises:
        BuildError: AC901.
    """
    try:
        yield
    except (TorchDynamoException, *exceptions_allowed_to_be_fallback):
        raise  # ours are among them, and what Dynamo waits for
    except Exception as error:
        why = "nothing ran, and nothing has changed"
        line = _line_at_hand(error) or where.users_line()
        raise errors.error("AC901", line, what=f"{type(error).__name__}: {error}", why=why) from error


def _line_at_hand(error: Exception) -> where.Frame | None:
    """The user's line that the node comes from which was worked on."""
    nodes = (frame.f_locals.get("node") for frame, _ in walk_tb(error.__traceback__))
    lines = [where.user_frame(node.meta.get("stack_trace")) for node in nodes if isinstance(node, fx.Node)]
    return next(filter(None, reversed(lines)), None)


def _is_on_purpose(error: Exception) -> bool:
    return isinstance(error, _ON_PURPOSE) and not isinstance(error, _FAILURES)


def _break(error: Exception) -> NoReturn:
    """Say to Dynamo that it does not know how to trace this."""
    unimplemented(gb_type=FAILED, context="", explanation=first_sentence(error), hints=[], from_exc=error)


def _fail_like_eager(tx: Any) -> None:
    """Raise an error if eager fails on this operator too, and nobody is there to catch it.

    Raises:
        AccumulateError: AC036.
    """
    if _is_caught(tx):
        return
    tried = stand_ins.tried(tx.output.graph)
    if tried is not None:
        line = where.of_summaries(torch._guards.TracingContext.extract_stack())
        reason = f"{type(tried.error).__name__}: {tried.error}"
        raise errors.error("AC036", line, reason=reason, given=tried.given) from None


def _is_caught(tx: Any) -> bool:
    """Whether an exception on this line may be caught within the step."""
    while tx is not None:
        entry = getattr(tx.current_instruction, "exn_tab_entry", None)
        if tx.active_generic_context_managers or (entry is not None and not _is_with(tx, entry.target)):
            return True
        tx = tx.parent
    return False


def _is_with(tx: Any, target: Any) -> bool:
    """Whether an exception's handler is the end of a ``with``."""
    after = tx.instructions[tx.instructions.index(target) + 1 :]
    return bool(after) and after[0].opname == "WITH_EXCEPT_START"
