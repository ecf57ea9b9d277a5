"""What a person sees while something compiles."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import rich.console

from accumcompile.lowering.inductor import progress
from accumcompile.lowering.inductor.progress import Progress


def test_messages_say_what_and_how_far(caplog):
    shown = Progress("train_step")
    shown.expect(2)
    with caplog.at_level(logging.INFO, "accumcompile"):
        for what in ("loop_0, first micro-batch of 4 rows", "loop_0, later micro-batch of 4 rows"):
            with shown.compiling(what):
                pass
    texts = [r.getMessage() for r in caplog.records]
    assert texts[0] == "train_step: compiling loop_0, first micro-batch of 4 rows (1 of 2)"
    assert texts[1].startswith("train_step: compiled loop_0, first micro-batch of 4 rows in 0.0 s")
    assert "(2 of 2)" in texts[2]


def test_nothing_is_shown_where_the_environment_says_so(caplog, monkeypatch):
    monkeypatch.setenv("ACCUMCOMPILE_PROGRESS", "0")
    with caplog.at_level(logging.DEBUG, "accumcompile"), Progress("step").compiling("loop_0"):
        pass
    assert not caplog.records


@pytest.fixture
def lines(monkeypatch):
    """The status lines that are drawn."""
    drawn = []
    monkeypatch.setattr(
        progress, "status_line", lambda text, console: drawn.append(text) or pytest.MonkeyPatch.context()
    )
    return drawn


def test_a_terminal_gets_one_line(monkeypatch, lines):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("step").compiling("loop_0"):
        pass
    assert lines == ["step: compiling loop_0 (1 of 1)"]


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_gets_a_line(monkeypatch, lines, widgets):
    """One that goes away where there are widgets to draw it with, else one that stays."""
    printed = []
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr(progress, "find_spec", lambda name: object() if widgets else None)
    monkeypatch.setattr(rich.console.Console, "print", lambda self, text, **how: printed.append(text))
    with Progress("step").compiling("loop_0"):
        pass
    text = ["step: compiling loop_0 (1 of 1)"]
    assert (lines, printed) == ((text, []) if widgets else ([], text))


def test_the_status_line_can_be_drawn():
    with progress.status_line("step: compiling [loop_0]", rich.console.Console(stderr=True)):
        pass


def test_a_failed_compilation_is_not_counted():
    shown = Progress("step")
    with pytest.raises(ValueError), shown.compiling("loop_0"):
        raise ValueError
    assert shown.done == 0


def test_torch_logs_knows_the_logger():
    code = "import logging, torch, accumcompile as a; print(logging.getLogger(a.__name__).isEnabledFor(10))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env={"TORCH_LOGS": "+accumcompile"}, capture_output=True, text=True)
    assert result.stdout.strip() == "True", result.stderr
