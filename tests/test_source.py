"""The command line that all dataset scripts share, on a made-up dataset of one category."""

import errno
import hashlib
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import contents, saved, written
from PIL import Image

from data_scripts.folders import find_root
from data_scripts.layouts import add_mvtec_layout
from data_scripts.prepare import prepared_folder
from data_scripts.source import Archive, Known, Source, run
from zsad_core.datasets import load_dataset

TOY = Source(
    name="toy",
    title="Toy parts",
    home="https://example.org/toys",
    terms="a form has to be filled in",
    how="fetch toys.zip from the home page",
    archives=(Archive("toys.zip"),),
    categories={"screw": (1, 2, 1)},
    known=(Known(3, 1, "the second edition has one image more"),),
)


def write(root, out, arguments):
    add_mvtec_layout(find_root(root, "screw/test/good"), out, above=arguments.mask_above)


@pytest.fixture(autouse=True)
def published(monkeypatch):
    table = "dataset,n_normal,n_anomalous,has_pixel_masks\ntoy,2,1,1\n"
    file = SimpleNamespace(open=lambda **_: io.StringIO(table))
    monkeypatch.setattr("data_scripts.source.PUBLISHED", file)


@pytest.fixture
def raw(tmp_path):
    """An extracted download: one training image, two normal and one anomalous test image."""
    for i, name in enumerate(("train/good/0", "test/good/0", "test/good/1", "test/dent/0")):
        saved(tmp_path / f"raw/screw/{name}.png", Image.fromarray(np.full((3, 4), i, np.uint8)))
    mask = Image.fromarray(np.eye(3, 4, dtype=np.uint8) * 100)
    saved(tmp_path / "raw/screw/ground_truth/dent/0_mask.png", mask)
    return tmp_path / "raw"


@pytest.fixture
def archive(raw):
    packed = shutil.make_archive(str(raw.parent / "packed"), "zip", raw)
    shutil.rmtree(raw)
    raw.mkdir()
    return Path(packed).rename(raw / "toys.zip")


@pytest.fixture
def prepare(tmp_path, capsys):
    """prepare(*options): exit code, stdout, stderr. The download never changes, and nothing lies about."""

    def call(*options, source=TOY, write=write):
        before = contents(tmp_path / "raw")
        code = 0
        folders = ["--raw", f"{tmp_path}/raw", "--out", f"{tmp_path}/toy"]
        try:
            run(source, write, [*folders, *options], doc="Toys.")
        except SystemExit as exit:
            code = exit.code
        assert contents(tmp_path / "raw") == before
        assert {p.name for p in tmp_path.iterdir()} <= {"raw", "toy"}
        return code, *capsys.readouterr()

    return call


def record(tmp_path):
    return json.loads((tmp_path / "toy/prepared.json").read_text())


def test_from_a_folder(raw, prepare, tmp_path):
    code, printed, errors = prepare()
    assert (code, errors) == (0, "")
    dataset = load_dataset(tmp_path / "toy")
    assert dataset.meta[["split", "defect"]].value_counts().to_dict() == {
        ("train", "good"): 1, ("test", "good"): 2, ("test", "dent"): 1}  # fmt: skip
    anomalous = int(np.flatnonzero(dataset.labels)[0])
    assert np.array_equal(dataset.mask(anomalous), np.eye(3, 4, dtype=bool))
    assert "screw         1       2          1" in printed
    assert "2 normal and 1 anomalous found, 2 and 1 published" in printed
    assert "byte-identical images: none" in printed and "above 0" in printed
    linked = tmp_path / "toy/screw/test/good/0.png"
    assert linked.samefile(raw / "screw/test/good/0.png")
    assert record(tmp_path)["test images found"] == [2, 1]
    assert prepare("--copy")[0] == 0, "an older prepared folder is replaced"
    assert not linked.samefile(raw / "screw/test/good/0.png")


def test_from_an_archive(archive, prepare, tmp_path):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    code, printed, errors = prepare(source=replace(TOY, archives=(Archive("toys.zip", sha256=digest),)))
    assert (code, errors) == (0, "")
    assert f"toys.zip: sha256 {digest}, as published" in printed
    assert len(load_dataset(tmp_path / "toy")) == 4
    kept = {"name": "toys.zip", "bytes": archive.stat().st_size, "sha256": digest, "as published": True}
    assert record(tmp_path)["archives"] == [kept]
    run(TOY, write, ["--raw", str(archive), "--out", str(tmp_path / "toy")], doc="")  # the file itself


def test_from_both(archive, prepare, tmp_path):
    """One of two archives extracted by hand, a list beside them, and an archive that is none of it."""
    raw = archive.parent
    shutil.unpack_archive(archive, tmp_path / "whole")
    (tmp_path / "whole/screw/train").rename(raw / "train")
    shutil.make_archive(str(raw / "toys"), "zip", tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole")
    (raw / "list.csv").write_text("listed")
    (raw / "photos.rar").write_bytes(b"Rar!\x1a\x07\x01\x00")

    def write_both(root, out, arguments):
        assert (root / "list.csv").read_text() == "listed"
        write(root, out, arguments)
        image = root / "train/good/0.png"
        out.add(image, category="screw", split="train", defect="good", name="0.png")

    assert prepare(write=write_both)[0] == 0
    (raw / "list.csv").unlink()
    (raw / "list.csv").symlink_to(__file__)
    assert "list.csv is a link to" in prepare()[2]


def test_without_download_it_says_how_to_get_one(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for raw in ([], ["--raw", f"{tmp_path}/none"], ["--raw", f"{tmp_path}/empty"]):
        with pytest.raises(SystemExit) as exit:
            run(TOY, write, [*raw, "--out", f"{tmp_path}/toy"], doc="Toys.")
        printed, errors = capsys.readouterr()
        assert exit.value.code == 2 and errors.startswith("error: ")
        assert all(word in printed for word in (TOY.home, TOY.terms, TOY.how, "toys.zip"))
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_counts_that_differ(raw, prepare, tmp_path):
    assert prepare()[0] == 0
    whole = contents(tmp_path / "toy")
    kept = (raw / "screw/test/good/1.png").read_bytes()
    (raw / "screw/test/good/1.png").unlink()
    code, _, errors = prepare()
    assert code == 1 and contents(tmp_path / "toy") == whole, "what was prepared before stays"
    assert "found 1 and 1, published 2 and 1" in errors and "--counts warn" in errors
    assert "category screw, test normal: found 1, published 2" in errors
    code, _, errors = prepare("--counts", "warn")
    assert code == 0 and "warning: category screw" in errors and record(tmp_path)["differences"]
    for i in (1, 2):
        (raw / f"screw/test/good/{i}.png").write_bytes(kept)
    code, printed, errors = prepare()
    assert (code, errors) == (0, "") and "The difference is known: the second edition" in printed
    assert record(tmp_path)["known reason of the difference"] == TOY.known[0].reason
    assert "byte-identical images: 1, the first is screw/test/good/2.png" in printed
    repeated = ["screw/test/good/2.png", "screw/test/good/1.png"]
    assert record(tmp_path)["repeated images, and as which"] == [repeated]
    (raw / "screw/test/good/2.png").unlink()
    categories = {"screw": (1, 2, 1), "nut": (None, None, 0)}
    assert "category nut: missing" in prepare(source=replace(TOY, categories=categories))[2]
    shutil.copytree(raw / "screw", raw / "bolt")
    assert "category bolt: not expected" in prepare()[2]
    shutil.rmtree(raw / "bolt")
    shutil.rmtree(raw / "screw/ground_truth")
    assert "1 anomalous test images have no mask" in prepare()[2]


def test_the_masks_threshold(raw, prepare, tmp_path):
    code, printed, _ = prepare("--mask-above", "100")
    dataset = load_dataset(tmp_path / "toy")
    assert code == 0 and "above 100" in printed and not dataset.mask(int(dataset.labels.argmax())).any()
    for wrong in ("-1", "255", "half"):
        code, _, errors = prepare("--mask-above", wrong)
        assert code == 2 and f"{wrong}: expected a grey value from 0 to 254" in errors


def test_wrong_checksum(archive, prepare, tmp_path):
    for known in (Archive("toys.zip", sha256="0" * 64), Archive("TOYS.zip", md5="0" * 32)):
        source = replace(TOY, archives=(known,))
        code, _, errors = prepare(source=source)
        assert code == 1 and not (tmp_path / "toy").exists()
        assert "expected 0000" in errors and "--checksum warn" in errors
    code, printed, errors = prepare("--checksum", "warn", source=source)
    assert code == 0 and "warning: " in errors and "another than published" in printed
    assert record(tmp_path)["archives"][0]["as published"] is False
    prepare()
    assert record(tmp_path)["archives"][0]["as published"] is None


def test_archives_that_are_none_or_others(archive, prepare, tmp_path):
    whole = archive.read_bytes()
    shutil.make_archive(str(archive.with_suffix("")), "zip", Path(__file__).parent, "conftest.py")
    code, _, errors = prepare()
    assert code == 1 and "nothing like `screw/test/good`" in errors and "toys.zip of Toy parts" in errors
    archive.unlink()
    for name in ("TOYS.ZIP", "another.tar"):
        archive.with_name(name).write_bytes(b"<html>please log in</html>")
        code, _, errors = prepare()
        assert code == 1 and f"{name} is no archive" in errors
        archive.with_name(name).unlink()
    archive.write_bytes(whole[:-100])
    code, _, errors = prepare()
    assert code == 1 and "toys.zip is cut off or damaged" in errors and not (tmp_path / "toy").exists()
    archive.write_bytes(whole)  # the archive is checked to be whole, a folder beside it is not
    written(archive.parent / "toys/screw/test/good/0.png", b"half")
    assert prepare("--quick")[0] == 0
    assert (tmp_path / "toy/screw/test/good/0.png").read_bytes() != b"half"


@pytest.mark.parametrize(
    ("place", "spoil", "message"),
    [
        ("test/dent/0.png", lambda path: path.write_bytes(path.read_bytes()[:50]), "cannot be read"),
        ("test/good/0.png", lambda path: path.rename(path.with_name(os.fsdecode(b"caf\xe9.png"))), "UTF-8"),
        ("test/good/0.png", lambda path: path.rename(path.with_name("a,b.png")), "a plain name"),
        ("ground_truth/dent/0_mask.png", lambda path: Image.new("L", (3, 4)).save(path), "shape (4, 3)"),
        ("test/good/1.png", lambda path: (path.unlink(), path.symlink_to(__file__)), "is a link to"),
    ],
)
def test_files_that_cannot_be_used(raw, prepare, tmp_path, place, spoil, message):
    spoil(raw / "screw" / place)
    code, _, errors = prepare()
    assert code == 1 and message in errors and f"{raw / 'screw'}" in errors
    assert not (tmp_path / "toy").exists()


def test_links_inside_the_download(raw, prepare, tmp_path):
    image = raw / "screw/test/good/1.png"
    image.unlink()
    image.symlink_to("0.png")  # as some tools store files
    for name, target in (("a", "b"), ("b", "a"), ("up", "..")):  # in circles
        (raw / f"screw/{name}").symlink_to(target)
    assert prepare()[0] == 0
    made = tmp_path / "toy/screw/test/good/1.png"
    assert made.read_bytes() == image.read_bytes() and not made.is_symlink()


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted: an older toy is as it was; run this again\n"),
        (PermissionError(13, "Permission denied", "raw/x"), 1, "Permission denied: 'raw/x': let this user"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "is full"),
    ],
)
def test_stopped_in_the_middle(raw, prepare, tmp_path, error, code, message):
    """Also by a kill, which leaves half of what it made."""
    for leftover in ("toy.partial/screw/test/good/9.png", "toy.unpacked/toys/9.png", "toy.lock"):
        written(tmp_path / leftover, b"half")
    assert prepare()[0] == 0
    before = contents(tmp_path / "toy")
    assert len(load_dataset(tmp_path / "toy")) == 4

    def interrupt(root, out, arguments):
        write(root, out, arguments)
        with pytest.raises(BlockingIOError, match="another preparation"), prepared_folder(tmp_path / "toy"):
            pytest.fail("a second script worked at the same time")
        raise error

    found, _, errors = prepare(write=interrupt)
    assert found == code and message in errors
    assert contents(tmp_path / "toy") == before


def test_download_and_prepared_folder_lie_apart(raw, tmp_path, capsys):
    """An extracted download looks much like a prepared folder, and that would be replaced."""

    def refuse(source, out, message):
        before = contents(tmp_path)
        with pytest.raises(SystemExit):
            run(source, write, ["--raw", str(raw), "--out", str(out)], doc="")
        assert message in capsys.readouterr().err and contents(tmp_path) == before

    shutil.copytree(raw, tmp_path / "other")
    refuse(TOY, raw, "lie in each other")
    refuse(TOY, raw / "toy", "lie in each other")
    refuse(TOY, tmp_path, "lie in each other")
    refuse(TOY, tmp_path / "other", "other has no prepared.json of this script")
    refuse(TOY, Path(".."), "give the prepared folder a name")
    run(TOY, write, ["--raw", str(raw), "--out", str(tmp_path / "toy")], doc="")
    refuse(replace(TOY, name="nuts"), tmp_path / "toy", "was made of toy")
    (tmp_path / "toy/prepared.json").unlink()  # as in a folder made by hand
    refuse(TOY, tmp_path / "toy", "has no prepared.json")
