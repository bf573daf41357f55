"""The files around the code agree with each other: pins, commands, checks."""

import re
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def pinned(lines):
    found = [re.fullmatch(r"([\w.-]+)==([\w.!+]+)", line.strip()) for line in lines]
    return {canonicalize_name(m[1]): Version(m[2]) for m in found if m}


def requirements(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["dev"]]


def test_conda_pins_are_the_verified_versions_and_lie_in_the_ranges(root):
    lock = pinned((root / "requirements.lock").read_text().splitlines())
    entries = yaml.safe_load((root / "environment.yml").read_text())["dependencies"]
    (pips,) = [entry["pip"] for entry in entries if isinstance(entry, dict)]
    environment, wanted = pinned(pips), requirements(root)
    assert environment and environment == {name: lock[name] for name in environment}
    assert set(environment) == {canonicalize_name(requirement.name) for requirement in wanted}
    for requirement in wanted:
        assert environment[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert (root / "binder" / "environment.yml").read_text() == (root / "environment.yml").read_text()


def test_commands_that_are_promised_exist(root):
    targets = set(re.findall(r"^([\w-]+):", (root / "Makefile").read_text(), re.M))
    pages = [root / "README.md", *(root / "book").glob("*.md"), root / ".github" / "workflows" / "book.yml"]
    text = "\n".join(page.read_text() for page in pages)
    promised = set(re.findall(r"^(?:\s*- run: )?make ([\w-]+)", text, re.M))
    assert {"book", "test"} <= promised <= targets
    commands = [line for line in (root / ".ci" / "run").read_text().splitlines() if line.startswith("make")]
    assert commands == ["make test"]


def test_packages_take_their_data_along(root):
    tool = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    taken = set()
    for package, patterns in tool["package-data"].items():
        folder = "*/**" if package == "*" else package.replace(".", "/")
        taken |= {path for pattern in patterns for path in root.glob(f"{folder}/{pattern}")}
    for package in ("zsad_core", "zsad_papers", "zsad_predict", "data_scripts", "profiles"):
        assert any(package == name.rstrip("*") for name in tool["packages"]["find"]["include"])
        files = (path for path in (root / package).rglob("*") if path.is_file())
        data = {path for path in files if path.suffix not in (".py", ".pyc", ".tmp")}
        assert data <= taken, data - taken


def test_the_model_card_names_the_shipped_weights(root):
    folder = root / "zsad_core" / "weights"
    assert (folder / "zsad-mini.sha256").read_text().split()[0] in (folder / "README.md").read_text()
