"""`zsad check`: what it notices before a long run."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import yaml
from click.testing import CliRunner
from helpers import written

from workflow import preflight
from workflow.preflight import check_datasets, check_weights
from zsad_core import checkpoints
from zsad_core.datasets import load_dataset
from zsad_papers.common.settings import read_settings

FEW = {"shots": [1, 2], "ablation_shots": [1, 2]}  # of three training images a category
PINNED = {"model": "ViT-B-16-plus-240", "weights": "laion400m_e32"}


@pytest.fixture
def settings(small_data, tmp_path):
    folders = {"data_dir": str(small_data), "cache_dir": str(tmp_path / "cache")}
    return read_settings({**folders, **FEW, "results_dir": str(tmp_path / "results"), "device": "cpu"})


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The requested addresses; none answers. No weights are kept."""
    requested = []

    def urlopen(request, timeout):
        assert request.get_method() == "HEAD" and timeout <= 10
        requested.append(request.full_url)
        raise URLError("no network")

    monkeypatch.setattr(preflight.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(preflight, "CLIP_CACHE", tmp_path / "weights")
    return requested


def test_weights_that_are_not_there_yet(settings, offline, monkeypatch, tmp_path):
    paper, url = replace(settings, **PINNED), checkpoints.PINNED[*PINNED.values()][0]
    assert "trained on drawings of parts" in next(check_weights(settings)).note
    check = next(check_weights(paper))
    assert check.state == "error" and url in check.note and "weights/vit_b" in check.note
    assert offline == [url]
    written(tmp_path / "weights" / url.rsplit("/", 1)[1], "half a file")
    check = next(check_weights(paper))
    assert check.state == "error" and "is damaged" in check.note
    shutil.rmtree(tmp_path / "weights")
    monkeypatch.setattr(preflight, "size_of", lambda url: "834 MB")
    check = next(check_weights(paper))
    assert check.state == "ok" and "834 MB will be downloaded" in check.note and "drawings" not in check.note


def test_wrong_weights(settings, offline):
    for model, weights, words in (
        ("ViT-L-14-336", "openai", "QuickGELU"),
        ("ViT-B-16-plus-240", "laion2b", "its tags"),
        ("ViT-B-17", "openai", "unknown model"),
    ):
        found = list(check_weights(replace(settings, model=model, weights=weights)))
        assert any(check.state == "error" and words in check.note for check in found), found
        assert not offline


def test_a_missing_dataset_is_a_warning_and_says_how_to_get_it(settings):
    checks = list(check_datasets(replace(settings, datasets={"visa": "visa", "mvtec": "mini_mvtec"})))
    missing, there = sorted(checks, key=lambda check: check.state, reverse=True)
    assert (missing.what, missing.state) == ("dataset visa", "warning")
    assert (there.what, there.state) == ("dataset mini_mvtec", "ok") and "zsad prepare visa" in missing.note


def test_a_published_dataset_without_its_masks_is_a_warning(settings, small_data, tmp_path):
    shutil.copytree(small_data / "mini_medical_image", tmp_path / "data" / "isic")
    mine = replace(settings, data_dir=str(tmp_path / "data"), datasets={"isic": "isic"})
    assert {check.what: check.state for check in check_datasets(mine)}["masks of isic"] == "warning"


@pytest.mark.parametrize("cut", ["table", "image"])
def test_a_broken_dataset_is_an_error(settings, small_data, tmp_path, cut):
    root = tmp_path / "data" / "mine"
    shutil.copytree(small_data / "mini_visa", root)
    image = root / load_dataset(root).select(split="test").meta["image"].iloc[-1]
    if cut == "table":
        (root / "meta.csv").write_text("image,label\nx.png,0\n")
    else:
        image.write_bytes(image.read_bytes()[:200])
    mine = replace(settings, data_dir=str(tmp_path / "data"), datasets={"visa": "mine"})
    errors = [check for check in check_datasets(mine) if check.state == "error"]
    assert len(errors) == 1, errors


def test_command(settings, tmp_path, monkeypatch, offline):
    profile = tmp_path / "mine.yaml"
    values = yaml.safe_load(Path("profiles/mini.yaml").read_text())
    folders = {name: getattr(settings, name) for name in ("data_dir", "cache_dir", "results_dir")}
    profile.write_text(yaml.safe_dump({**values, **folders, **FEW}))

    def call(*more):
        found = CliRunner().invoke(preflight.main, ["--profile", str(profile), *more])
        return found.exit_code, found.output

    assert call("--quiet") == (0, "") and not offline, "the mini profile has all it needs"
    assert not Path(settings.cache_dir).exists()
    for options, words in (
        (("-p", "device", "cuda:9"), "error   device"),
        (("-p", "n_pears", "5"), "did you mean"),
        (("-p", "seeds", "[1"), "error   profile"),
        (("--profile", "no"), "error   profile"),
    ):
        code, output = call(*options)
        assert code == 1 and words in output, output
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    code, output = call()
    assert code == 1 and "free some space" in output
