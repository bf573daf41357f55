"""The files around the code agree with each other: pins, commands, checks."""

import json
import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def pinned(lines):
    found = [re.fullmatch(r"([\w.-]+)==([\w.!+]+)", line.strip()) for line in lines]
    return {canonicalize_name(m[1]): Version(m[2]) for m in found if m}


def environment_pins(root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    lists = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    return pinned(lists[0])


def requirements(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]


def test_conda_pins_are_the_verified_versions_and_lie_in_the_ranges(root):
    lock = pinned((root / "requirements.lock").read_text().splitlines())
    environment, wanted = environment_pins(root), requirements(root)
    assert environment and environment == {name: lock[name] for name in environment}
    assert set(environment) == {canonicalize_name(requirement.name) for requirement in wanted}
    for requirement in wanted:
        assert environment[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert (root / "binder" / "environment.yml").read_text() == (root / "environment.yml").read_text()


def test_commands_that_are_promised_exist(root):
    """`make ...` in the README, the book and the workflow file; .ci/run calls the README's test command."""
    targets = set(re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.M))
    pages = [root / "README.md", *(root / "book").glob("*.md"), root / ".github" / "workflows" / "book.yml"]
    promised = {
        name
        for page in pages
        for name in re.findall(r"^(?:\s*- run: )?make ([\w-]+)", page.read_text(), re.M)
    }
    assert {"book", "test"} <= promised <= targets
    commands = [line for line in (root / ".ci" / "run").read_text().splitlines() if line.startswith("make")]
    assert commands == ["make test"]


def test_packages_take_their_data_along(root):
    """Every data file of a package matches a pattern of package-data: a copy without it would not run."""
    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = [
        f"{'*/**' if package == '*' else package.replace('.', '/')}/{pattern}"
        for package, own in tool["package-data"].items()
        for pattern in own
    ]
    taken = {path for pattern in patterns for path in root.glob(pattern)}
    for package in ("zsad_core", "zsad_papers", "zsad_predict", "data_scripts", "profiles"):
        assert any(package == name.rstrip("*") for name in tool["packages"]["find"]["include"])
        data = {
            p for p in (root / package).rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc", ".tmp")
        }
        assert data <= taken, data - taken


def test_weights_fit_their_limit_and_their_checksum_file(root):
    from zsad_core.cache import sha256_of

    weights = root / "zsad_core" / "weights" / "zsad-mini.safetensors"
    assert weights.stat().st_size <= 24e6
    digest = sha256_of(weights)
    assert weights.with_suffix(".sha256").read_text().split()[0] == digest
    assert digest in (weights.parent / "README.md").read_text(), "the model card names other weights"
    assert json.loads(weights.with_suffix(".json").read_text())["text_cfg"]["vocab_size"] == 49408
