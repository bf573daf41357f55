"""The inputs of a job, from the text of its program: packages, and experiments whose records a page reads."""

import ast
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from zsad_papers.common.settings import published_datasets

PACKAGES = ("profiles", "zsad_core", "zsad_papers", "zsad_predict", "data_scripts", "benchmarks")
SUFFIXES = (".py", ".csv", ".json", ".safetensors", ".sha256", ".html")
PAPERS = Path("zsad_papers")


def files_of(*programs: str) -> list[str]:
    """The files that programs use, sorted: modules, packages or notebooks, as paths below the checkout.
    An import of a module counts as one of its whole package; `zsad_papers` is a folder of packages."""
    seen, ahead = set(), {*programs}
    while ahead:
        seen |= ahead
        ahead = {used for unit in ahead for used in _used_by(unit)} - seen
    return sorted({path for unit in seen for path in _files(unit) if path.endswith(SUFFIXES)})


def experiments_read(notebook: str, experiments: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The experiments, by `paper-target`, whose records a notebook reads: of its papers, on the datasets that
    it starts its page with. A target that is no dataset means all datasets whose features it needs."""
    papers, named, found = papers_of(notebook), datasets_of(notebook), []
    for name, own in experiments.items():
        paper, target = name.split("-", 1)
        about = {target} if target in published_datasets() else set().union(*own["features"].values())
        if paper in papers and (named is None or about & named):
            found.append(name)
    return found


def papers_of(notebook: str) -> set[str]:
    """The folders of `zsad_papers` that a notebook imports, or a module of `zsad_papers` that it imports."""
    units = _used_by(notebook)
    units = units.union(*(_used_by(unit) for unit in units if unit.endswith(".py")))
    return {Path(unit).name for unit in units if Path(unit).parent == PAPERS}


def datasets_of(notebook: str) -> set[str] | None:
    """The names in `start(globals(), [...])` of a notebook; None: all, or not known from the text."""
    for call in ast.walk(_tree(notebook)):
        match call:
            case ast.Call(func=ast.Name(id="start") | ast.Attribute(attr="start"), args=[_, names, *_]):
                try:
                    return set(ast.literal_eval(names))
                except ValueError:
                    return None
    return None


@cache
def _files(unit: str) -> list[str]:
    path = Path(unit)
    below = [str(p) for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return below if path.is_dir() else [unit]


@cache
def _used_by(unit: str) -> set[str]:
    names = set()
    for path in (path for path in _files(unit) if path.endswith((".py", ".ipynb"))):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Import | ast.ImportFrom):  # `from a.b import c`: c may be a module
                start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                names |= {start + alias.name for alias in node.names}
    return {_unit(*name.split(".")) for name in names if name.split(".")[0] in PACKAGES}


def _tree(path: str) -> ast.Module:
    text = Path(path).read_text(encoding="utf-8")
    if path.endswith(".ipynb"):
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
        text = "\n".join(line for line in text.splitlines() if not line.startswith(("%", "!")))
    return ast.parse(text)


def _unit(package: str, module: str = "__init__", *_: str) -> str:
    """The package that a module belongs to; in `zsad_papers`, the folder or file."""
    if Path(package) != PAPERS:
        return package
    places = (PAPERS / module, PAPERS / f"{module}.py", PAPERS / "__init__.py")
    return str(next(path for path in places if path.exists()))
