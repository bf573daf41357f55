"""`zsad`: commands are found by name, and each is imported only when it is called."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest
from click import BadParameter
from click.testing import CliRunner
from helpers import refused

from workflow.progress import Progress
from workflow.run import page_of
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


def test_help_errors_workflow_and_pages_that_show_kept_numbers_wait_for_no_torch(root):
    program = """import sys
from zsad_predict.__main__ import main
for arguments in (['--help'], ['predict', '--help'], ['predict'], ['forecast']):
    try: main(arguments)
    except SystemExit: pass
assert not {'torch', 'pandas'} & set(sys.modules)
import workflow.inputs, zsad_papers.anomalyclip, zsad_papers.rwda.claims
from zsad_papers.common import page, plots, tables, verify
assert not {'torch', 'sklearn'} & set(sys.modules)"""
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


START = "dataset 1\nsection 3\nsections 1\ntotal 5\n".splitlines()


def told(progress, lines, now):
    return [said for line in lines if (said := progress.read(line, now))]


@pytest.mark.parametrize("known", [False, True])
def test_a_job_that_ends_is_a_line_with_its_time_and_what_is_left(known):
    progress = Progress({"section": [60.0]} if known else {})
    assert told(progress, [*START, "Job 3: Dataset textile"], 0) == []
    lines = told(progress, ["Finished jobid: 3 (Rule: dataset)"], 30)
    left = "3 min 0 s" if known else "1 min 30 s"  # three pages as in the last run, or as this job
    assert lines == [f"[1 of 4] 30 s, about {left} left: Dataset textile"]
    told(progress, ["Job 1: Notebook a", "Job 2: Notebook b"], 30)
    assert progress.seconds_left(40) == pytest.approx((180 - 20) / 2 if known else (90 - 20) / 2)
    (line,) = told(progress, ["Finished jobid: 1 (Rule: section)"], 80)
    assert line.startswith("[2 of 4] 50 s, about ") and line.endswith(": Notebook a")
    assert progress.seconds == {"dataset": [30], "section": [60, 50] if known else [50]}


def test_a_failed_job_is_named_with_the_end_of_its_log(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("".join(f"line {number}\n" for number in range(40)))
    failed = f"Error in rule section:\n    jobid: 1\n    log: {log} (check log file(s) for error details)"
    name, end = told(Progress(), [*START, "Job 1: Notebook a", *failed.splitlines()], 0)
    assert name == "Failed: Notebook a"
    assert end.endswith("line 39") and "line 24" not in end


def test_the_beginning_of_a_name_is_enough_for_a_page():
    assert page_of("rwda/43") == page_of("rwda/43_state_of_the_art") == "43_state_of_the_art"
    none, eight = "0 pages begin with 'rwda/99'.*\n  anomalyclip/32_prompts\n", "8 pages .*one of\n  rwda/31"
    for name, message in (("rwda/99", none), ("rwda/", eight)):
        refused(message, page_of, name, error=BadParameter)
