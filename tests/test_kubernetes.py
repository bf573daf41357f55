"""The Kubernetes settings, against a stand-in for kubectl: not the images, volumes and nodes of a cluster."""

import os
import subprocess

import pytest
import yaml

KUBECTL = """#!/bin/sh
echo "$@" >> "$STANDIN/calls"
case $1 in
  create) cat > "$STANDIN/job.yaml"; echo zsad-book-1 ;;
  get) printf %s "$ANSWER" ;;
esac
"""


@pytest.fixture
def ask(root, tmp_path):
    """ask(name, ..., answer=...): what a script of the profile prints, where kubectl gives that answer."""
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])

    def call(name, *arguments, answer=""):
        environment = {**os.environ, "PATH": path, "STANDIN": str(tmp_path), "ANSWER": answer}
        command = [root / "workflow" / "profiles" / "kubernetes" / name, *map(str, arguments)]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    return call


def test_a_job_is_submitted_watched_and_cancelled(ask, tmp_path):
    assert ask("submit", 2, 8000, 90, 1, "job.sh") == "zsad-book-1"
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["backoffLimit"]) == (5400, 0)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["/bin/sh", "job.sh"]
    assert container["resources"]["requests"] == {"cpu": "2", "memory": "8000M"}
    assert container["resources"]["limits"] == {"memory": "8000M", "nvidia.com/gpu": "1"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {own["name"] for own in pod["volumes"]}
    assert ask("status", "a", answer="a:") == "running"
    assert ask("status", "a", answer="a:SuccessCriteriaMet Complete") == "success"
    assert ask("status", "a", answer="a:FailureTarget Failed") == "failed"
    assert ask("status", "a", answer="") == "failed", "deleted: it would be awaited for ever"
    ask("cancel", "a", "b")
    assert "delete job a b" in (tmp_path / "calls").read_text()
