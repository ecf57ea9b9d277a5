"""Files below ``dump=``: their folder and names, and a file that reproduces wrong compiled code."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from ..session.options import Options
from .source import repro_source


def folder_of(options: Options) -> Path | None:
    """The folder that ``dump=`` names now, if any."""
    return None if options.dump is None else Path(os.fsdecode(options.dump))


def safe(name: str) -> str:
    """`name` as a valid file name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "_"


def write_repro(options: Options, name: str, graph: GraphModule, arguments: Sequence[Any]) -> str:
    """Write below `dump=` a Python file that compares `graph` with its compiled code, and its `arguments`.

    Returns a phrase that says how to run it.
    """
    folder = folder_of(options)
    if folder is None:
        return "with dump= set, a file that shows it is written"
    file = folder / f"wrong_{safe(name)}.py"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(repro_source(graph, file.stem), encoding="utf-8")
    torch.save([a.detach() if isinstance(a, torch.Tensor) else a for a in arguments], file.with_suffix(".pt"))
    return f"python {file} shows it"
