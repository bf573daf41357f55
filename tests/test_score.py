"""`zsad predict`: exit codes for each outcome, errors in one line, and a run that can be stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zsad_predict import __main__


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> list[str]:
    """Options for a CLIP of 3 x 3 patches with random weights."""
    folder = tmp_path_factory.mktemp("model")
    vision = {"image_size": 24, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"width": 32, "heads": 2, "layers": 1}}
    (folder / "tiny.json").write_text(json.dumps(config))
    options = ["--model", folder / "tiny.json", "--weights", "random", "--cache", folder / "cache"]
    return [*map(str, options), "--device", "cpu"]


def fill(folder: Path, n: int, first: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + n):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def run(tiny, tmp_path, monkeypatch, capsys):
    """run(arguments): exit code, standard output, standard error; in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        try:
            __main__.main(["predict", *tiny, *map(str, arguments)])
        except SystemExit as exited:
            code = exited.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_exit_0_when_every_file_was_scored(run, tmp_path):
    folder, normal = fill(tmp_path / "photos", 3), fill(tmp_path / "good", 2, first=50)
    code, out, err = run(folder, "--method", "winclip_plus", "--normal", normal, "--object", "nut")
    assert code == 0 and "3 files, 3 scored" in out and "each scored against the others" in out
    assert "3/3" in err, "progress"
    table = pd.read_csv(tmp_path / "photos-scores" / "scores.csv")
    assert len(table) == 3 and (table["status"] == "scored").all()
    assert json.loads((tmp_path / "photos-scores" / "run.json").read_text())["object"] == "nut"
    assert run(folder, "--quiet")[1:] == ("", "")


def test_exit_3_names_the_files_that_were_not_scored(run, tmp_path):
    folder = fill(tmp_path / "photos", 2)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    code, out, _ = run(folder)
    assert code == 3 and "3 files, 2 scored" in out and "1 with a problem: broken.jpg (" in out


def test_exit_1_with_one_line_and_no_traceback(run, tmp_path):
    photos = fill(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((tmp_path / "nowhere",), "correct the path"),
        ((tmp_path / "empty",), "no file in it"),
        ((photos, "--method", "winclip_plus"), "give a folder of some"),
        ((photos, "--threshold-from", "references"), "there are none"),
        ((photos, "--labels", tmp_path / "no.csv"), "no file of labels"),
        ((photos, "--out", photos), "would replace"),
    ):
        code, _, err = run(*arguments)
        assert code == 1 and message in err
        assert err.startswith("error: ") and err.count("\n") == 1, "nothing was begun"


def test_exit_2_for_a_wrong_command_line(run, tmp_path):
    photos = fill(tmp_path / "photos", 1)
    for arguments in (
        (),
        (photos, "--method", "patchcore"),
        (photos, "--threshold", "high"),
        (photos, "--profile", "no"),
        (photos, "--image-size", "24"),
        (photos, "--device", "gpu"),
    ):
        code, _, err = run(*arguments)
        assert code == 2 and "Usage:" in err


def test_ctrl_c_in_a_process_and_the_same_command_goes_on(tiny, tmp_path, root):
    folder, cache = fill(tmp_path / "photos", 130), tmp_path / "cache"
    command = [sys.executable, "-m", "zsad_predict", "predict", str(folder), *tiny]
    command += ["--out", str(tmp_path / "out"), "--cache", str(cache)]  # the last one counts
    options = {"cwd": root, "stderr": subprocess.PIPE, "text": True}
    options["env"] = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    # a test run in the background ignores Ctrl-C, and its children would inherit that
    awake = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    process = subprocess.Popen(command, **options, **awake)
    deadline = time.monotonic() + 240
    while not list(cache.glob("your_images/winclip-*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "The same command goes on" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("your_images/*.safetensors")}
    assert 1 <= len(kept) < 5
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "out" / "scores.csv")) == 130
    assert kept == {path: path.stat().st_mtime_ns for path in kept}, "what was there is not made again"
