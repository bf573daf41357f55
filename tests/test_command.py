"""`zsad`: commands are found by name, and each is imported only when it is called."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest
from click.testing import CliRunner

from zsad_predict import __main__


@pytest.fixture
def installed(root, monkeypatch):
    """The entry points of pyproject.toml, whatever is installed."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    group = "zsad.commands"
    points = [EntryPoint(name, value, group) for name, value in project["entry-points"][group].items()]
    monkeypatch.setattr(__main__, "entry_points", lambda group, name: [p for p in points if p.name == name])
    return points


def zsad(*arguments):
    found = CliRunner().invoke(__main__.main, arguments)
    return found.exit_code, found.output


def test_every_command_is_one_of_pyproject(installed):
    assert {point.name for point in installed} == set(__main__.OTHERS)
    output = zsad("--help")[1]
    assert all(f"  {name} " in output for name in ("predict", *__main__.OTHERS))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--version",), 0, "zsad, version"),
        (("prepare", "visa", "--help"), 0, "usage: zsad prepare visa"),
        (("prepare", "visage"), 2, "no dataset 'visage'"),
        (("check", "--help"), 0, "Usage: zsad check"),
        (("verify", "nowhere", "elsewhere"), 2, "Error: "),
        (("params", "sedes"), 2, "did you mean"),
        (("forecast",), 2, "No such command 'forecast'"),
    ],
)
def test_commands(installed, arguments, code, words):
    found = zsad(*arguments)
    assert found[0] == code and words in found[1], found


def test_help_and_errors_wait_for_no_torch(root):
    program = """import sys
from zsad_predict.__main__ import main
for arguments in (['--help'], ['predict', '--help'], ['predict'], ['forecast']):
    try: main(arguments)
    except SystemExit: pass
assert not {'torch', 'pandas'} & set(sys.modules)"""
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
