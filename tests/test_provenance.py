"""The line over every page says what was run, and claims no reproduction where there is none."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest

from zsad_papers import all_papers
from zsad_papers.common import provenance
from zsad_papers.common.settings import read_settings


def encoder_called(model_id: str, weights_id: str = "x") -> SimpleNamespace:
    own = {"weights_sha256": "0123" * 16, "device": "cpu", "precision": "fp32"}
    return SimpleNamespace(model_id=model_id, weights_id=weights_id, **own)


ENCODER = encoder_called("zsad-mini", "shipped@0123")
NO_REPRODUCTION = "no number measured here reproduces a published one"


def test_run_line_names_everything_and_the_difference():
    settings = read_settings({"seeds": 2, "seed": 5})
    line = provenance.run_line(settings, ENCODER, ["mini_mvtec"], all_papers()["rwda"])
    for part in (
        "**mini** with seed = 5, seeds = 2",
        "weights shipped@0123",
        "mini_mvtec (stand-in for mvtec)",
    ):
        assert part in line
    assert "seeds 5 to 6" in line and NO_REPRODUCTION in line
    assert "textile" not in line


def test_run_line_of_the_paper_s_own_data_and_weights():
    settings = read_settings({"profile": "paper"})
    line = provenance.run_line(settings, encoder_called("ViT-B-16-plus-240"), paper=all_papers()["rwda"])
    assert NO_REPRODUCTION not in line and "those that the paper names" in line
    few = read_settings({"profile": "paper", "limit_images": 3})
    assert "at most 3 a category" in provenance.run_line(few, ENCODER)
    other = read_settings({"profile": "paper", "datasets": {"mvtec": "mini_mvtec"}})
    assert NO_REPRODUCTION in provenance.run_line(other, ENCODER)


@pytest.mark.parametrize("paper", all_papers())
def test_weights_alone_make_a_difference(paper):
    settings = read_settings({"profile": "paper", "weights": "random", "prompt_weights": "random"})
    assert "the weights" in provenance.run_line(settings, ENCODER, paper=all_papers()[paper])


def test_record_is_plain_json_without_paths_of_this_machine(tmp_path):
    settings = read_settings({"captions_file": str(tmp_path / "coco.json"), "data_dir": str(tmp_path)})
    text = json.dumps(provenance.provenance(settings, ENCODER, {"mini_mvtec": "ab"}))
    assert str(tmp_path) not in text and "coco.json" in text
    assert json.loads(text)["parameters"]["shots"] == [1, 2, 4]


def test_commit_tells_of_changes(tmp_path, monkeypatch):
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "repository_root", lambda: tmp_path)
    assert provenance.commit() == "unknown"
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first")
    clean = provenance.commit()
    assert len(clean) == 12
    (tmp_path / "a").write_text("2")
    assert provenance.commit() == clean + "+changes"
    monkeypatch.setattr(provenance, "repository_root", lambda: tmp_path / "inner")
    (tmp_path / "inner").mkdir()
    assert provenance.commit() == "unknown"  # another project's repository around this copy
