"""The Kubernetes settings, against a stand-in for kubectl: it reads a Job like a cluster, and runs it here.

A real cluster's images, volumes and nodes are not tested.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow
PROFILE = Path("workflow/profiles/kubernetes")
KUBECTL = """
import json, os, re, signal, subprocess, sys
from pathlib import Path
import yaml

folder = Path(os.environ["STANDIN"])
verb, arguments = sys.argv[1], sys.argv[2:]
if verb == "create":
    job = yaml.safe_load(sys.stdin)
    name = f"{job['metadata']['generateName']}{len(list(folder.glob('*.json')))}"
    pod = job["spec"]["template"]["spec"]
    command, where = pod["containers"][0]["command"], pod["containers"][0]["workingDir"]
    (folder / f"{name}.json").write_text(json.dumps(job))
    body = f'"$@"; echo $? > {folder}/{name}.code'
    out = (folder / f"{name}.out").open("w")
    options = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out, "start_new_session": True}
    process = subprocess.Popen(["sh", "-c", body, "sh", *command], cwd=where, **options)
    (folder / f"{name}.pid").write_text(str(process.pid))
    print(name, end="")
elif verb == "get" and arguments[0] == "job":
    name = arguments[1]
    if not (folder / f"{name}.json").exists():
        assert "--ignore-not-found" in arguments
        sys.exit()
    code = folder / f"{name}.code"
    done = code.read_text().strip() if code.exists() else ""
    types = {"": "", "0": "SuccessCriteriaMet Complete"}.get(done, "FailureTarget Failed")
    print(f"{name}:{types}", end="")
elif verb == "delete" and arguments[0] == "job":
    for name in (each for each in arguments[1:] if not each.startswith("--")):
        os.killpg(int((folder / f"{name}.pid").read_text()), signal.SIGKILL)
        (folder / f"{name}.json").unlink()
else:
    sys.exit(f"error: {sys.argv[1:]}")
"""


@pytest.fixture
def standin(tmp_path):
    """The environment in which kubectl is the stand-in; what it knows lies in tmp_path/jobs."""
    for name in ("bin", "jobs"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "kubectl"
    program.write_text(f"#!{sys.executable}{KUBECTL}")
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    yield {**os.environ, "PATH": path, "STANDIN": str(tmp_path / "jobs")}
    for pid in (tmp_path / "jobs").glob("*.pid"):
        with suppress(ProcessLookupError):
            os.killpg(int(pid.read_text()), signal.SIGKILL)


def ask(root, environment, name, *arguments):
    command = [root / PROFILE / name, *map(str, arguments)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_job_is_submitted_watched_and_cancelled(root, tmp_path, standin):
    def submit(script):
        (tmp_path / "job.sh").write_text(script)
        return ask(root, standin, "submit", 2, 8000, 90, 1, tmp_path / "job.sh")

    def end_of(job):
        deadline = time.monotonic() + 60
        while (state := ask(root, standin, "status", job)) == "running":
            assert time.monotonic() < deadline
        return state

    good, bad, long = submit("exit 0"), submit("exit 3"), submit("sleep 600")
    job = yaml.safe_load((tmp_path / "jobs" / f"{good}.json").read_text())
    pod = job["spec"]["template"]["spec"]
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["backoffLimit"]) == (5400, 0)
    assert pod["containers"][0]["resources"]["requests"] == {"cpu": "2", "memory": "8000M"}
    assert pod["containers"][0]["resources"]["limits"] == {"memory": "8000M", "nvidia.com/gpu": "1"}
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}

    assert (end_of(good), end_of(bad)) == ("success", "failed")
    assert ask(root, standin, "status", long) == "running"
    ask(root, standin, "cancel", long)
    assert ask(root, standin, "status", long) == "failed", "a deleted job would be awaited for ever"
