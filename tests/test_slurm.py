"""The same graph on a real Slurm, one job killed, one run stopped: the same result files as a local run."""

import os
import re
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from slurm import ask, cluster, missing_programs
from test_workflow import copy_checkout, workflow

pytestmark = pytest.mark.slow
NOTEBOOK = "rwda/46_potential_application"  # datasets, embeddings of images and of prompts, a CSV and a JSON
ON_SLURM = ("--cluster", "workflow/profiles/slurm", "--jobs", "2", "--latency-wait", "10")
ON_SLURM += ("--slurm-init-seconds-before-status-checks", "2")  # the profile's pace is for jobs of minutes
SECONDS = 900  # for one run, on a machine with other work


@pytest.fixture
def slurm():
    if missing := missing_programs():
        pytest.skip(f"no Slurm here, missing: {', '.join(missing)}; apt-get install slurm-wlm munge")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder), cpus=16) as own:
        yield own


@pytest.fixture
def start(tmp_path):
    """start(name, checkout, *options): the workflow up to the notebooks; what it says is in `name`.txt."""
    with workflow() as run:

        def begin(name, checkout, *options, **environment):
            with (tmp_path / f"{name}.txt").open("w") as output:
                return run(checkout, "--until", "sections", *options, output=output, **environment)

        yield begin


def test_after_a_killed_job_and_a_stopped_run_results_are_a_local_run_s(root, tmp_path, slurm, start):
    local, remote = (copy_checkout(root, tmp_path / name) for name in ("local", "remote"))
    for checkout in (local, remote):
        for path in (checkout / "notebooks").rglob("*.ipynb"):
            if path != checkout / "notebooks" / f"{NOTEBOOK}.ipynb":
                path.unlink()
    here = start("here", local, "--cores", "all")
    first = start("first", remote, *ON_SLURM, environment=slurm)

    # somebody, or something, kills a job in the middle: Snakemake submits it again
    killed = job_that_runs("zsad_papers.precompute", slurm, first)
    ask(slurm, "scancel", killed)
    # Ctrl-C when the notebook runs: its job leaves the queue
    job_that_runs("papermill", slurm, first)
    os.killpg(first.pid, signal.SIGINT)
    assert first.wait(SECONDS) != 0
    output = (remote / "logs" / "tiny.log").read_text()
    assert f"SLURM-job '{killed}' failed, SLURM status is: 'CANCELLED'" in output, output
    wait_until(lambda: not ask(slurm, "squeue", "--noheader"), "a job is still in the queue")
    assert not results(remote)

    # the same command goes on
    second = start("second", remote, *ON_SLURM, environment=slurm)
    assert second.wait(SECONDS) == 0, (tmp_path / "second.txt").read_text()
    assert here.wait(SECONDS) == 0, (tmp_path / "here.txt").read_text()
    assert [path.suffix for path in results(local)] == [".csv", ".json"]
    assert results(remote) == results(local)

    # every job of the run was one of Slurm's
    submitted = re.findall(r"SLURM jobid (\d+)", output + (remote / "logs" / "tiny.log").read_text())
    log = Path(slurm["SLURM_CONF"]).with_name("slurmctld.log").read_text()
    done = set(re.findall(r"JobId=(\d+) WEXITSTATUS 0", log))
    assert done and done < set(submitted)
    # and a run on this machine finds its work done
    again = start("again", remote, "--cores", "all", "--dry-run")
    assert again.wait(SECONDS) == 0 and "Nothing to be done" in (tmp_path / "again.txt").read_text()


def results(checkout):
    files = sorted((checkout / "results" / "mini").glob("*.*"))
    return {Path(path.name): path.read_bytes() for path in files if path.suffix in (".csv", ".json")}


def job_that_runs(module, slurm, run):
    """The number of the Slurm job in which this Python module is running, as soon as there is one."""
    found = []

    def look():
        assert run.poll() is None, f"the run has ended before a job has run {module}"
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                command = (process / "cmdline").read_bytes().decode().split("\0")
                variables = (process / "environ").read_bytes().decode().split("\0")
                if ["-m", module] == command[1:3] and f"SLURM_CONF={slurm['SLURM_CONF']}" in variables:
                    found.extend(v.split("=")[1] for v in variables if v.startswith("SLURM_JOB_ID="))
        return bool(found)

    wait_until(look, f"no job runs {module}")
    return found[0]


def wait_until(ready, otherwise):
    deadline = time.monotonic() + SECONDS
    while not ready():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.5)
