"""Where Dynamo fails, plain Python runs: an internal failure becomes an ordinary graph break.

Dynamo breaks a graph, or drops a function, only at what it knows that it cannot trace. Any other failure (a module
whose ``__init__`` it does not follow, a data-dependent number) it raises out of the call, with a page of internals.
Here all become breaks, unless eager fails on that line too: then that error is raised at once. Checked in torch 2.13.
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
from . import eager_errors, replacements, thread_state
from .break_reasons import FAILED, UNTRACEABLE, first_sentence

Handler = Callable[[Any, Any], None]

# What Dynamo raises on purpose, and those of its exceptions that are failures all the same.
_ON_PURPOSE = (TorchDynamoException, symbolic_convert.ReturnValueOp, symbolic_convert.YieldValueOp)
_FAILURES = (InternalTorchDynamoError, TorchRuntimeError, UncapturedHigherOrderOpError)
_TRANSLATORS = (
    symbolic_convert.InstructionTranslator,
    symbolic_convert.InliningInstructionTranslator,
    symbolic_convert.InliningGeneratorInstructionTranslator,
)

# Lines that the backend found untraceable, and why. Keyed by location: a new trace of the frame meets them again.
_untraceable: dict[tuple[str, int], str] = {}


def break_at(line: where.Frame, reason: str) -> bool:
    """Have the graph break at a line whenever it is traced from now on; False if that was asked for before."""
    fresh = (line.file, line.line) not in _untraceable
    _untraceable[line.file, line.line] = reason
    return fresh


@replacements.also
def _every_failure_breaks() -> Callable[[], None]:
    undo = ExitStack()
    for owner, name, breaking in _tracing():
        undo.callback(replacements.put(owner, name, breaking))
    return undo.close


@functools.cache
def _tracing() -> list[tuple[Any, str, Any]]:
    """(owner, attribute, replacement that breaks on failure) of every function that traces an instruction.

    If Dynamo can break the graph at an instruction, the function is in a closure cell of the break's handler.
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
    """``handle``, which traces one instruction, with failures as breaks; ``resumes``: Dynamo can resume after it."""

    @functools.wraps(handle)
    def handles(tx: Any, instruction: Any) -> None:
        reason = _untraceable.get((tx.f_code.co_filename, tx.lineno)) if resumes and _untraceable else None
        if reason is not None and thread_state.is_tracing_for_us():
            unimplemented(gb_type=UNTRACEABLE, context="", explanation=reason, hints=[])
        try:
            handle(tx, instruction)
        except Exception as error:
            if not thread_state.is_tracing_for_us() or _is_on_purpose(error):
                raise
            _fail_like_eager(tx)
            _break(error)

    return handles


@replacements.replaces(convert_frame, "_compile")
def _compile(compile_: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Leave a function to Python if Dynamo fails outside of all its instructions."""
    try:
        return compile_(*args, **kwargs)
    except Exception as error:
        if thread_state.here.call is None or _is_on_purpose(error):
            raise
        _break(error)


@contextmanager
def bugs_named() -> Iterator[None]:
    """Report an unexpected exception in the block as a bug in accumcompile.

    Raises:
        BuildError: AC901.
    """
    try:
        yield
    except (TorchDynamoException, *exceptions_allowed_to_be_fallback):
        raise  # these include our own errors, and what Dynamo handles
    except Exception as error:
        why = "nothing ran, and nothing has changed"
        line = _line_at_hand(error) or where.users_line()
        raise errors.error("AC901", line, what=f"{type(error).__name__}: {error}", why=why) from error


def _line_at_hand(error: Exception) -> where.Frame | None:
    """The user's line of the node that was being processed."""
    nodes = (frame.f_locals.get("node") for frame, _ in walk_tb(error.__traceback__))
    lines = [where.user_frame(node.meta.get("stack_trace")) for node in nodes if isinstance(node, fx.Node)]
    return next(filter(None, reversed(lines)), None)


def _is_on_purpose(error: Exception) -> bool:
    return isinstance(error, _ON_PURPOSE) and not isinstance(error, _FAILURES)


def _break(error: Exception) -> NoReturn:
    """Raise what Dynamo raises for code that it cannot trace."""
    unimplemented(gb_type=FAILED, context="", explanation=first_sentence(error), hints=[], from_exc=error)


def _fail_like_eager(tx: Any) -> None:
    """Raise an error if eager fails on this operator too, and nothing in the step may catch it.

    Raises:
        AccumulateError: AC036.
    """
    if _is_caught(tx):
        return
    tried = eager_errors.tried(tx.output.graph)
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
