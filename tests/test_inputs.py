"""What a change of a file makes run again: the jobs whose programs use it, and no others."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from workflow.inputs import experiments_read, files_of
from zsad_papers import anomalyclip, winclip


@pytest.fixture(autouse=True)
def in_checkout(root, monkeypatch):
    monkeypatch.chdir(root)


def jobs(path):
    """Of all programs of the workflow, those that use a file."""
    notebooks = map(str, Path("notebooks").rglob("*.ipynb"))
    programs = {name: (name,) for name in notebooks}
    for paper in ("winclip", "anomalyclip"):
        programs[paper] = ("zsad_papers/run.py", f"zsad_papers/{paper}")
    programs["embeddings"] = ("zsad_papers/precompute.py",)
    return {name for name, own in programs.items() if path in files_of(*own)}


def test_an_edit_runs_what_uses_the_file_and_nothing_else():
    for path in ("zsad_predict/report.html", "zsad_predict/run.py"):
        assert jobs(path) == {"notebooks/your_images.ipynb"}
    assert {Path(name).parent.name for name in jobs("zsad_papers/rwda/tables.py")} <= {"rwda", "notebooks"}
    assert not {"embeddings", "anomalyclip", "winclip"} & jobs("zsad_papers/rwda/tables.py")
    assert {"winclip", "anomalyclip"} <= jobs("zsad_papers/winclip/experiments.py")
    for path in ("zsad_core/encoders.py", "zsad_papers/common/settings.py"):
        page = "notebooks/rwda/46_potential_application.ipynb"
        assert {"embeddings", "winclip", "anomalyclip", page} <= jobs(path)
    found = files_of("zsad_papers/winclip")
    assert {"zsad_core/weights/zsad-mini.safetensors", "zsad_papers/winclip/published.csv"} <= set(found)
    assert not [path for path in found if "__pycache__" in path]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("rwda/43_state_of_the_art", {"winclip-mvtec", "winclip-visa"}),
        ("anomalyclip/42_medical", {"anomalyclip-mvtec", "anomalyclip-visa", "anomalyclip-others"}),
        ("anomalyclip/32_prompts", {"anomalyclip-mvtec", "anomalyclip-visa", "anomalyclip-others"}),
        ("speed", set()),
    ],
)
def test_a_page_waits_for_the_experiments_that_it_reads(page, expected):
    """Without a list of datasets in the text, for all of its paper; WinCLIP's come before AnomalyCLIP's."""
    experiments = {}
    for paper in (winclip, anomalyclip):
        experiments |= {f"{paper.PAPER.key}-{target}": own for target, own in paper.EXPERIMENTS.items()}
    found = set(experiments_read(f"notebooks/{page}.ipynb", experiments))
    assert {name for name in found if page.startswith((name.split("-")[0], "rwda"))} == expected


def test_a_page_runs_after_its_experiments_and_also_without_some_datasets(root, tmp_path):
    places = {name: str(tmp_path / name) for name in ("data_dir", "cache_dir", "results_dir")}
    profile, mini = tmp_path / "own.yaml", yaml.safe_load((root / "profiles" / "mini.yaml").read_text())
    profile.write_text(yaml.safe_dump(mini | places))
    page = f"{places['results_dir']}/notebooks/rwda/43_state_of_the_art.ipynb"
    options = ["--snakefile", "workflow/Snakefile", "--config", f"profile={profile}", "--cores", "1"]
    command = [sys.executable, "-m", "snakemake", *options, "--nolock", "--dry-run", "--printshellcmds"]
    done = subprocess.run([*command, "--", page], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    *before, last = re.findall(r"^Job \d+: (.*)", done.stdout, re.M)
    assert {f"Experiments of winclip: {dataset}" for dataset in ("mvtec", "visa")} <= set(before)
    assert last == "Notebook rwda/43_state_of_the_art" and "-p allow_missing True" in done.stdout
