"""The house: rooms on floors. A room imports from those above it in the list, and no two files import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

import accumcompile.passes

PACKAGE, PASSES = (Path(m.__file__).parent for m in (accumcompile, accumcompile.passes))
FLOORS = (
    ("diagnostics",),
    ("ir",),
    ("session", "rules"),
    ("propagation", "printing"),
    ("planning",),
    ("program", "report"),
    ("passes", "verify"),
    ("lowering", "capture", "oracle"),
    ("step",),
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Every file by its name below ``accumcompile``."""
    files = {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")}
    files |= {f"passes.{p.stem}": p for p in PASSES.glob("*.py")}
    return {name.removesuffix("__init__").removesuffix("."): path for name, path in files.items()}


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """The files that a file imports, late imports and those for types among them."""
    path = MODULES[name]
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                module = package[: len(package) - node.level + 1] + module
            elif module[:1] == ["accumcompile"]:
                module = module[1:]
            else:
                continue
            for alias in node.names:
                whole = ".".join([*module, alias.name]).removeprefix(".")
                yield whole if whole in MODULES else ".".join(module)


def room_of(name: str) -> str:
    room = name.split(".")[0]
    return room if room in FLOOR else ""


@pytest.mark.parametrize("room", FLOOR)
def test_a_room_imports_only_from_floors_below_it(room):
    inside = [name for name in MODULES if room_of(name) == room]
    assert inside
    up = {(n, i) for n in inside for i in imports(n) if room_of(i) != room and FLOOR[room_of(i)] >= FLOOR[room]}
    assert not up


def test_no_two_files_import_each_other():
    graph = networkx.DiGraph((name, other) for name in MODULES for other in imports(name))
    circles = [c for c in networkx.strongly_connected_components(graph) if len(c) > 1]
    assert not circles
