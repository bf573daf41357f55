"""How large is the code? A line for each package, and how much of it a student reads first.

    python -m benchmarks.sizes

`tests/test_architecture.py` holds the limits.
"""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("zsad_core", "zsad_papers", "zsad_predict", "workflow")
OTHERS = ("profiles", "data_scripts", "benchmarks", "tests")
# The papers' mathematics, in the order of reading: zsad_core/README.md
READ_FIRST = (
    *("encoders", "prompts", "fnn", "scores", "windows", "references", "dpam"),
    *("learnable_prompts", "prompt_learning", "methods"),
)


def modules_of(package: str) -> list[Path]:
    """The Python files below a folder of the checkout, sorted."""
    return sorted((ROOT / package).rglob("*.py"))


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def function_lines(path: Path) -> list[int]:
    """The lines of each function and method of a file, from `def` to its end, docstring included."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [node.end_lineno - node.lineno + 1 for node in functions]


def package_lines(package: str) -> int:
    return sum(map(lines_of, modules_of(package)))


def student_lines() -> int:
    return sum(lines_of(ROOT / "zsad_core" / f"{name}.py") for name in READ_FIRST)


def main() -> None:
    print(f"{'':14}{'lines':>7}{'files':>7}{'median function':>17}  longest module")
    for package in (*PRODUCT, *OTHERS):
        modules = modules_of(package)
        longest = max(modules, key=lines_of)
        middle = median(n for path in modules for n in function_lines(path))
        counts = f"{package_lines(package):7,}{len(modules):7}{middle:17g}"
        print(f"{package:14}{counts}  {longest.relative_to(ROOT)} ({lines_of(longest)})")
    print(f"the four packages of the product: {sum(map(package_lines, PRODUCT)):,}")
    print(f"read first in zsad_core: {student_lines():,}")


if __name__ == "__main__":
    main()
