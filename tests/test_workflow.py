"""What `make book` does with what an earlier run has left, in a copy of the checkout, at small settings."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import yaml
from helpers import written

pytestmark = pytest.mark.slow
FOLDERS = ("zsad_core", "zsad_papers", "zsad_predict", "data_scripts", "workflow", "profiles", "benchmarks")
DATASETS = {"mvtec": None, "visa": None, "sewerml": "textile/textile"}  # a category: its folder is made
PROFILE = {"datasets": DATASETS, "weights": "random", "limit_images": 1, "seeds": 1, "profile": "tiny"}
PROFILE |= {"n_pairs": 4, "pool_pairs": 4, "pair_counts": [4], "batch_size": 4}
STAMP = Path("cache/embedded/tiny/textile.txt")
TABLE = Path("data/textile/meta.csv")


def copy_checkout(root, folder):
    """What the workflow needs of the checkout, with the profile `tiny`."""
    skip = shutil.ignore_patterns("__pycache__", "_build", ".ipynb_checkpoints")
    for name in (*FOLDERS, "notebooks", "book"):
        shutil.copytree(root / name, folder / name, ignore=skip)
    shutil.copy(root / "_config.yml", folder)
    shutil.rmtree(folder / "book" / "notebooks", ignore_errors=True)
    profile = yaml.safe_load((root / "profiles" / "mini.yaml").read_text())
    (folder / "profiles" / "tiny.yaml").write_text(yaml.safe_dump({**profile, **PROFILE}))
    return folder


@pytest.fixture
def checkout(root, tmp_path):
    """In a place whose name a shell would cut."""
    return copy_checkout(root, tmp_path / "My Docs (ä)")


@contextmanager
def workflow():
    """run(checkout, *options): the workflow, in a process group of its own that ends with the block."""
    processes = []

    def run(checkout, *options, output=subprocess.PIPE, environment=os.environ):
        process = subprocess.Popen(
            [sys.executable, "workflow/run.py", "--profile", "tiny", *options],
            cwd=checkout,
            env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # a test run in the background ignores Ctrl-C, and its children would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        processes.append(process)
        return process

    try:
        yield run
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def start(checkout):
    """start(*options): the workflow on one core."""
    with workflow() as run:
        yield partial(run, checkout, "--cores", "1")


def finish(process):
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def wait_for(path, process):
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{path} has not appeared"
        time.sleep(0.05)


def test_ctrl_c_in_the_middle_and_the_next_run_goes_on(checkout, start):
    table = checkout / TABLE
    process = start("--until", "embeddings")
    wait_for(checkout / STAMP, process)  # made when its job starts: the dataset is whole by then
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to Snakemake and to its jobs
    process.communicate(timeout=300)
    assert process.returncode != 0
    assert not (checkout / STAMP).exists() or not (checkout / STAMP).read_text()  # it had no time to finish
    made = table.stat().st_mtime_ns
    finish(start("--until", "embeddings"))
    # The line is printed when all is embedded: what the interrupted job left was not taken for whole.
    assert (checkout / STAMP).read_text().startswith("textile: 18 images")
    assert table.stat().st_mtime_ns == made, "the dataset, which was whole, has been made again"
    assert "Nothing to be done" in finish(start("--until", "embeddings"))


def test_a_changed_notebook_is_the_only_one_that_runs_again(checkout, start):
    names = [path.relative_to(checkout / "notebooks") for path in (checkout / "notebooks").rglob("*.ipynb")]
    results = yaml.safe_load((checkout / "profiles" / "tiny.yaml").read_text())["results_dir"]
    outputs = [Path(results, "notebooks") / name for name in names]
    for path in (TABLE, STAMP, STAMP.with_name("texts.txt"), *outputs):
        written(checkout / path, "made")
    finish(start("--until", "sections", "--touch"))
    assert "Nothing to be done" in finish(start("--until", "sections", "--dry-run"))
    changed = checkout / "notebooks" / "rwda" / "31_prompt_guided.ipynb"
    changed.write_text(changed.read_text().replace("{", "{ ", 1))
    plan = finish(start("--until", "sections", "--dry-run"))
    assert re.findall(r"^Job \d+: (.*)", plan, re.M) == ["Notebook rwda/31_prompt_guided"], plan
