"""The house: rooms on floors. A room imports from those above it in the list, and no two files import each other."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest

import accumcompile.passes

PACKAGE, PASSES = (Path(m.__file__).parent for m in (accumcompile, accumcompile.passes))
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
FLOORS = (
    ("diagnostics",),
    ("ir",),
    ("session", "rules"),
    ("propagation", "printing", "capture.batch"),
    ("planning", "capture.dynamo", "verify"),
    ("program", "report"),
    ("passes",),
    ("lowering", "capture", "oracle"),
    ("step",),
    ("",),  # the face: what a user imports
)
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
# Rooms and files that may import PyTorch's private names. Each says on which versions that was checked.
ADAPTERS = {
    "capture.aot",
    "capture.dynamo",
    "diagnostics.raised",
    "ir.torch_api",
    "lowering.inductor",
    "lowering.tracing",
    "oracle",
    "report.trace",
}
VERSIONS = re.compile(r"[Cc]hecked (?:on|in) torch 2\.1\d")


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
    return next((room for room in _prefixes(name) if room in FLOOR), "")


def _prefixes(name: str) -> Iterator[str]:
    """A file's name, and those of the folders it is in, the innermost first."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def private_names(name: str) -> set[str]:
    """What a file imports or reads of PyTorch that is private: ``torch._x``, ``torch.x._y``; no operator is."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
    return {f for f in found if re.match(r"torch\.(?!ops\.)(\w+\.)*(_(?!_)|experimental\.)", f) and "(" not in f}


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


@pytest.mark.parametrize("name", sorted(MODULES))
def test_private_names_of_torch_stand_in_adapters_alone(name):
    assert ADAPTERS.intersection(_prefixes(name)) or not private_names(name)


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_an_adapter_says_on_which_versions_it_was_checked(adapter):
    assert VERSIONS.search(ast.get_docstring(ast.parse(MODULES[adapter].read_text())) or "")


def test_every_folder_is_in_the_wheel():
    """The list is written by hand: see pyproject.toml."""
    listed = tomllib.loads(PROJECT.read_text())["tool"]["setuptools"]["packages"]
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(listed) == {f"accumcompile.{name}".removesuffix(".") for name in folders}
