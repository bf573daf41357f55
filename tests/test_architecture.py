"""The shape of the code: imports run one way, files stay short, each paper has the same files."""

import ast
import re
from statistics import median

from importlinter import cli

from benchmarks import sizes
from benchmarks.sizes import PRODUCT, READ_FIRST, function_lines, lines_of, modules_of, package_lines
from zsad_papers import all_papers

LONGEST_MODULE, MEDIAN_FUNCTION = 400, 12  # lines
LARGEST = {"zsad_core": 4_000, "read first": 2_200, "product": 13_500, "tests": 9_500}  # lines
THREE = ("rwda", "winclip", "anomalyclip")  # whose lines LARGEST counts; a new paper adds its own
NAMES = ("paper", "profile", "key", "PAPER", "PROFILE")  # what holds a paper's or a profile's name


def trees(*packages):
    for package in packages:
        for path in modules_of(package):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def name_of(node):
    return getattr(node, "id", None) or getattr(node, "attr", None)


def branches_on_a_name(tree):
    """The lines that compare a paper's or profile's name with one that is written out."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.Match):
            sides = [node.subject, *(case.pattern for case in node.cases)]
        else:
            continue
        parts = [part for side in sides for part in ast.walk(side)]
        literals = {part.value for part in parts if isinstance(part, ast.Constant)}
        if set(map(name_of, sides)) & set(NAMES) and literals & {*all_papers(), "mini", "paper"}:
            found.append(node.lineno)
    return found


def private_to_the_encoder(tree):
    """Each `encoder._name` and `something.encoder._name`."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return [n.attr for n in nodes if re.match(r"_[a-z]", n.attr) and name_of(n.value) == "encoder"]


def test_imports_run_one_way(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    broken = cli.lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert not broken, capsys.readouterr().out


def test_modules_functions_and_packages_are_short():
    modules = [path for package in PRODUCT for path in modules_of(package)]
    long = {path.name: lines for path in modules if (lines := lines_of(path)) > LONGEST_MODULE}
    assert len(modules) > 80, "the packages lie elsewhere"
    assert not long
    for package in PRODUCT:
        lengths = [lines for path in modules_of(package) for lines in function_lines(path)]
        assert median(lengths) <= MEDIAN_FUNCTION, package
    assert package_lines("zsad_core") <= LARGEST["zsad_core"]
    assert sizes.student_lines() <= LARGEST["read first"]
    new = [f"zsad_papers/{paper}" for paper in all_papers() if paper not in THREE]
    assert sum(map(package_lines, PRODUCT)) - sum(map(package_lines, new)) <= LARGEST["product"]


def test_the_tests_are_few_lines():
    lines, advice = package_lines("tests"), "drop what another test holds, make near-duplicates one's rows"
    advice += ", and take the helpers of tests/helpers.py and conftest.py; see `python -m benchmarks.sizes`"
    assert lines <= LARGEST["tests"], f"{lines:,} lines of tests, at most {LARGEST['tests']:,}: {advice}"


def test_each_paper_has_the_same_files(root):
    shared = {"__init__", "claims", "contradictions", "experiments", "settings", "tables"}
    for folder in (root / "zsad_papers" / paper for paper in all_papers()):
        own = {path.stem for path in folder.glob("*.py")}
        assert shared <= own <= shared | {"analysis", "costs", "figures", "learning"}
        tables = ("claims.csv", "claim_tests.csv", "claim_reasons.csv", "published.csv")
        assert all((folder / name).is_file() for name in tables)


def test_no_import_is_for_type_checking_alone_and_only_the_encoder_reaches_into_itself():
    named = {path.name: set(map(name_of, ast.walk(tree))) for path, tree in trees("zsad_core")}
    assert not [name for name, names in named.items() if "TYPE_CHECKING" in names]
    parts = [(path, tree) for path, tree in trees(*PRODUCT) if path.name != "encoders.py"]
    assert private_to_the_encoder(ast.parse("self.encoder._tower(encoder.__class__)")) == ["_tower"]
    assert not {str(path): found for path, tree in parts if (found := private_to_the_encoder(tree))}


def test_nothing_branches_on_the_name_of_a_paper_or_profile(root):
    for code in ("settings.profile == 'mini'", "paper in ('rwda', 'x')", "'paper' != PAPER"):
        assert branches_on_a_name(ast.parse(code)), code
    found = {str(path): lines for path, tree in trees(*PRODUCT) if (lines := branches_on_a_name(tree))}
    assert not found
    snakefile = (root / "workflow" / "Snakefile").read_text(encoding="utf-8")
    assert not [paper for paper in all_papers() if paper in snakefile]


def test_the_readme_lists_every_file_of_the_core_and_first_what_is_read_first(root):
    readme = (root / "zsad_core" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^[|*-] *\[`(\w+)`\]", readme, re.M)
    modules = {path.stem for path in modules_of("zsad_core")} - {"__init__"}
    assert listed[: len(READ_FIRST)] == list(READ_FIRST)
    assert sorted(listed) == sorted(modules)
