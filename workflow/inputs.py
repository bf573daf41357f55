"""What a job depends on: the packages that its program imports, read from their text."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGES = ("zsad_core", "zsad_papers", "zsad_predict", "data_scripts", "benchmarks")
SUFFIXES = (".py", ".csv", ".json", ".safetensors", ".sha256", ".html")
PAPERS = Path("zsad_papers")


def files_of(*programs: str) -> list[str]:
    """The files that programs use, sorted: modules, packages or notebooks, as paths below the checkout.

    A package is a folder: whoever imports one of its modules uses all of them. `zsad_papers` is not one
    package but a folder of packages.
    """
    seen: set[str] = set()
    ahead = list(programs)
    while ahead:
        unit = ahead.pop()
        if unit not in seen:
            seen.add(unit)
            ahead += _used_by(unit)
    return sorted({path for unit in seen for path in _files(unit) if path.endswith(SUFFIXES)})


@cache
def _files(unit: str) -> tuple[str, ...]:
    path = Path(unit)
    if not path.is_dir():
        return (unit,)
    return tuple(str(p) for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


@cache
def _used_by(unit: str) -> tuple[str, ...]:
    trees = (_tree(path) for path in _files(unit) if path.endswith((".py", ".ipynb")))
    return tuple(dict.fromkeys(_units(name for tree in trees for name in _imports(tree))))


def _tree(path: str) -> ast.Module:
    text = Path(path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("%", "!")))
    return ast.parse(text)


def _imports(tree: ast.Module) -> Iterator[str]:
    """`a.b` and `a.b.c` of `from a.b import c`: c may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _units(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        parts = name.split(".")
        if parts[0] not in PACKAGES:
            continue
        if Path(parts[0]) != PAPERS:
            yield parts[0]
        elif len(parts) > 1 and (PAPERS / parts[1]).is_dir():
            yield str(PAPERS / parts[1])
        elif len(parts) > 1 and (PAPERS / f"{parts[1]}.py").is_file():
            yield str(PAPERS / f"{parts[1]}.py")
        else:
            yield str(PAPERS / "__init__.py")
