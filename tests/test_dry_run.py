"""The dry run: what it notices, how it extrapolates, what it leaves behind."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import yaml

from workflow import dry_run, preflight
from workflow.preflight import answer, check_datasets, check_device, check_folders, check_weights
from workflow.run_samples import Estimate, Run, Sample, extrapolate, sample_dataset
from zsad_core import checkpoints
from zsad_core.datasets import load_dataset
from zsad_papers.common.settings import Settings, read_settings

FEW = {"shots": [1, 2], "ablation_shots": [1, 2]}  # of three training images a category
Usage = namedtuple("Usage", "total used free")
NONE = dict.fromkeys(("mvtec", "visa", "sewerml"), None)


@pytest.fixture
def settings(small_data: Path, tmp_path: Path) -> Settings:
    folders = {"data_dir": str(small_data), "cache_dir": str(tmp_path / "cache")}
    return read_settings({**folders, **FEW, "results_dir": str(tmp_path / "results"), "device": "cpu"})


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The addresses that were asked; none answers."""
    asked = []

    def urlopen(request, timeout):
        assert request.get_method() == "HEAD" and timeout <= 10
        asked.append(request.full_url)
        raise URLError("no network")

    monkeypatch.setattr(preflight.urllib.request, "urlopen", urlopen)
    return asked


def changed(settings: Settings, **values) -> Settings:
    return Settings(**{**settings.__dict__, **values})


def states(checks) -> set[tuple[str, str]]:
    return {(check.what, check.state) for check in checks}


def test_the_mini_profile_has_all_it_needs(settings, offline):
    weights = check_weights(settings)
    checks = [*check_device(settings), *(w.check for w in weights.values()), *check_datasets(settings)]
    assert {check.state for check in checks} == {"ok"}, [str(check) for check in checks]
    assert all(w.present for w in weights.values()) and not offline


def test_unknown_device(settings):
    assert [c.state for c in check_device(changed(settings, device="cuda:7"))] == ["error"]


def test_an_address_that_does_not_answer_says_what_to_fetch_and_where_to_put_it(
    settings, offline, monkeypatch
):
    monkeypatch.setattr(checkpoints, "CLIP_CACHE", Path("nowhere"))
    paper = changed(settings, model="ViT-B-16-plus-240", weights="laion400m_e32")
    check = check_weights(paper)["ViT-B-16-plus-240", "laion400m_e32"].check
    url = checkpoints.PINNED["ViT-B-16-plus-240", "laion400m_e32"][0]
    assert check.state == "error" and url in check.note and "nowhere/vit_b" in check.note
    assert offline == [url]


def test_weights_to_be_downloaded_are_no_error(settings, monkeypatch):
    monkeypatch.setattr(preflight, "answer", lambda url, timeout: 834_000_000)
    paper = changed(settings, model="ViT-B-16-plus-240", weights="laion400m_e32")
    found = check_weights(paper)["ViT-B-16-plus-240", "laion400m_e32"]
    assert (found.check.state, found.present, found.bytes) == ("ok", False, 834_000_000)
    assert "834 MB" in found.check.note
    assert (
        dry_run.with_weights_at_hand(paper, {("ViT-B-16-plus-240", "laion400m_e32"): found}).weights
        == "random"
    )


def test_a_file_with_another_checksum_is_no_weights(settings, offline, monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "CLIP_CACHE", tmp_path)
    url = checkpoints.PINNED["ViT-B-16-plus-240", "laion400m_e32"][0]
    (tmp_path / url.rsplit("/", 1)[1]).write_bytes(b"half a file")
    paper = changed(settings, model="ViT-B-16-plus-240", weights="laion400m_e32")
    check = check_weights(paper)["ViT-B-16-plus-240", "laion400m_e32"].check
    assert check.state == "error" and "is damaged" in check.note


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "ViT-L-14-336", "weights": "openai"}, "QuickGELU"),
        ({"model": "ViT-B-16-plus-240", "weights": "laion2b"}, "its tags"),
        ({"weights": "away.safetensors"}, "does not exist"),
        ({"model": "ViT-B-17", "weights": "openai"}, "unknown model"),
    ],
)
def test_wrong_weights(settings, offline, values, words):
    found = [w.check for w in check_weights(changed(settings, **values)).values()]
    assert any(check.state == "error" and words in check.note for check in found), found
    assert not offline


def test_a_missing_dataset_is_a_warning_and_says_how_to_get_it(settings):
    checks = check_datasets(changed(settings, datasets={"visa": "visa", "mvtec": "mini_mvtec"}))
    assert states(checks) == {("dataset visa", "warning"), ("dataset mini_mvtec", "ok")}
    assert "python -m data_scripts.visa" in next(c.note for c in checks if c.state == "warning")


@pytest.fixture
def copied(small_data: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_data / "mini_visa", tmp_path / "data" / "mine")
    return tmp_path / "data" / "mine"


@pytest.mark.parametrize("fault", ["table", "image missing", "image cut off", "mask"])
def test_a_broken_dataset_is_an_error(settings, copied, fault):
    dataset = load_dataset(copied).select(split="test")
    if fault == "table":
        (copied / "meta.csv").write_text("image,label\nx.png,0\n")
    elif fault == "image missing":
        (copied / dataset.meta["image"].iloc[0]).unlink()
    elif fault == "image cut off":
        path = copied / dataset.meta["image"].iloc[len(dataset) - 1]
        path.write_bytes(path.read_bytes()[:200])
    else:
        meta = (copied / "meta.csv").read_text()
        first = dataset.meta["mask"][dataset.meta["mask"] != ""].iloc[0]
        (copied / "meta.csv").write_text(meta.replace(first, ""))
    mine = changed(settings, data_dir=str(copied.parent), datasets={"visa": "mine"})
    errors = [check for check in check_datasets(mine) if check.state == "error"]
    assert len(errors) == 1, errors


def test_counts_and_references(settings, copied):
    shutil.move(copied, copied.with_name("visa"))
    mine = changed(settings, data_dir=str(copied.parent), datasets={"visa": "visa"}, shots=(5,))
    found = states(check_datasets(mine))
    assert {("counts of visa", "warning"), ("references of visa", "error")} <= found, found


def test_disk(settings, monkeypatch):
    usage = Usage(10**12, 0, 20 * 10**9)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: usage)
    state = lambda needed: [c.state for c in check_folders(settings, {"cache_dir": needed})]  # noqa: E731
    assert set(state(5e9)) == {"ok"}
    assert set(state(15e9)) == {"warning"}
    assert "error" in state(25e9)


def test_folder_that_is_a_file(settings, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    checks = check_folders(settings, {})
    assert ("cache_dir", "error") in states(checks)


def test_prices_never_fall_below_zero():
    """A category costs 2 s and an image 0.5 s; noise that would make the category negative does not."""
    samples = [Sample({"category": 1, "image": n}, 2 + n / 2, 1, 100 * n) for n in (2, 6)]
    found = extrapolate("s", "j", "image", samples, {"category": 15, "image": 1000})
    assert (found.seconds, found.bytes) == pytest.approx((530, 100_000))
    assert found.seconds_per_unit == pytest.approx(0.53)
    noisy = [Sample({"category": 1, "image": n}, s, s, 0) for n, s in ((2, 1.0), (6, 4.0))]
    found = extrapolate("s", "j", "image", noisy, {"category": 0, "image": 100})
    assert 40 < found.seconds < 75


def test_squares_are_told_from_products():
    terms = [{"image": 14.0, "pair": 24.0, "train²": 144.0}, {"image": 6, "pair": 8, "train²": 16}]
    terms.append({"image": 18.0, "pair": 72.0, "train²": 144.0})
    prices = {"image": 0.5, "pair": 0.01, "train²": 0.002}
    samples = [Sample(t, sum(prices[n] * t[n] for n in t), 0, 0) for t in terms]
    whole = {"image": 300, "pair": 20_000, "train²": 40_000}
    assert extrapolate("s", "j", "image", samples, whole).seconds == pytest.approx(150 + 200 + 80, rel=1e-4)


def test_a_sample_is_a_dataset_of_links(small_data, tmp_path):
    dataset = load_dataset(small_data / "mini_visa")
    assert sample_dataset(dataset, tmp_path / "visa", "fuse", 2, 3) == (4, 3)
    sample = load_dataset(tmp_path / "visa")
    assert sample.categories == ["fuse"] and sorted(sample.labels.tolist()) == [0] * 5 + [1] * 2
    assert sample.image(0).size == sample.mask(0).shape[::-1]


def test_a_stage_that_fails_is_named_not_guessed(settings, tmp_path):
    run = Run(settings, tmp_path)
    fine = lambda: (Path(run.at("small").cache_dir) / "x").write_bytes(b"12345")  # noqa: E731
    run.time(("fine", "j", "image"), fine, {"image": 1}, {"image": 10}, "small")
    run.time(("bad", "j", "image"), lambda: int("x"), {"image": 1}, {"image": 10}, "small")
    run.time(("bad", "j", "image"), fine, {"image": 1}, {"image": 10}, "small")
    (found,) = run.estimates()
    assert (found.stage, found.bytes) == ("fine", 50) and list(run.failed) == ["bad"]


def test_command(settings, tmp_path, capsys, monkeypatch, offline):
    """Exit codes, the JSON, and that nothing stays behind."""
    estimate = Estimate("views", "views x", "image", 10, 3600.0, 1.0, 1e9)
    seen = []

    def estimate_run(settings, folder, told):
        (folder / "left").write_text("over")
        seen.append(folder)
        return [estimate], {"book": "not sampled"}

    monkeypatch.setattr(dry_run, "estimate_run", estimate_run)
    monkeypatch.setattr(dry_run.torch.cuda, "is_available", lambda: False)
    profile = tmp_path / "mine.yaml"
    values = yaml.safe_load(Path("profiles/mini.yaml").read_text())
    folders = {"data_dir": settings.data_dir, "cache_dir": settings.cache_dir}
    folders["results_dir"] = settings.results_dir
    profile.write_text(yaml.safe_dump({**values, **folders, **FEW}))
    out = tmp_path / "out.json"
    call: Callable[..., int] = lambda *more: dry_run.main(["--profile", str(profile), *more])  # noqa: E731
    assert call("--json", str(out), "--workers", "4") == 0
    content = json.loads(out.read_text())
    assert content["seconds"] == 3600 and content["bytes"] == 1e9
    assert content["stages"][0]["seconds_per_unit"] == 360
    text = capsys.readouterr().out
    assert "without other work" in text  # 1 s of 3600
    assert "not estimated: book" in text and "60 min" in text and "4 workers" in text
    assert not seen[0].exists() and seen[0].parent == tmp_path
    assert not Path(settings.cache_dir).exists() and not list(tmp_path.glob(".dry_run-*"))

    assert call("--no-sample", "-p", "device", "cuda:9") == 1
    assert "error   device" in capsys.readouterr().out
    assert call("-p", "n_pears", "5") == 1
    assert "did you mean" in capsys.readouterr().out
    assert call("--no-sample", "--quiet") == 0
    assert capsys.readouterr().out == ""
    assert len(seen) == 1
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: Usage(2, 1, 1))
    assert call() == 1
    assert "free some space" in capsys.readouterr().out


def test_address(monkeypatch):
    assert isinstance(answer("https://localhost:1/weights.pt", 0.5), str)
    assert isinstance(answer("no address at all"), str)


def test_the_estimate_of_one_dataset(settings, tmp_path):
    """The real stages, where only a dataset for RWDA is there: views, prompts, networks; no others."""
    from workflow.run_estimate import estimate_run

    few = changed(settings, datasets={**NONE, "sewerml": "textile"}, seeds=2, pool_pairs=8)
    estimates, failed = estimate_run(few, tmp_path / "sample")
    stages = {estimate.stage: estimate for estimate in estimates}
    assert {"views, textile", "random-word prompts", "FNNs of RWDA"} <= set(stages)
    images = len(load_dataset(Path(settings.data_dir) / "textile"))
    views = stages["views, textile"]
    assert views.units == images and views.seconds > 0
    # six views of 192 float32 each, and a header a file
    assert images * 6 * 192 * 4 <= views.bytes < 2 * images * 6 * 192 * 4
    assert stages["random-word prompts"].units == 8 * 8  # eight words
    assert "AnomalyCLIP" in failed
