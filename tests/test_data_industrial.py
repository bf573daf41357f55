"""The scripts of the industrial datasets, each on a fabricated download in its original layout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import trees_industrial as trees
import yaml
from PIL import Image

from data_scripts import btad, dagm, dtd_synthetic, mpdd, mvtec, sdd, visa
from data_scripts.source import all_sources
from zsad_core.datasets import AnomalyDataset, load_dataset

MODULES = (mvtec, visa, mpdd, btad, sdd, dagm, dtd_synthetic)
SDD_PART = "test/defect/kos01_Part5_0.png"
TRAIN = {"mvtec": 3629, "visa": 8659, "mpdd": 888, "btad": 1799, "dagm": 16_100 - 6996 - 1054 - 1046}


@pytest.fixture
def prepare(tmp_path) -> Callable[..., AnomalyDataset]:
    """prepare(script, *options): what the script makes of tmp_path/raw."""

    def call(script: ModuleType, *options: str, counts: str = "warn") -> AnomalyDataset:
        out = tmp_path / script.SOURCE.name
        checks = ("--counts", counts, "--checksum", "warn")
        script.main(["--raw", f"{tmp_path}/raw", "--out", str(out), *checks, *options])
        assert {path.name for path in tmp_path.iterdir()} == {"raw", out.name}
        return load_dataset(out)

    return call


@pytest.fixture
def refused(prepare, tmp_path, capsys) -> Callable[..., None]:
    """refused(script, message, *options): it ends with this error, and nothing is there afterwards."""

    def call(script: ModuleType, message: str, *options: str, counts: str = "warn") -> None:
        with pytest.raises(SystemExit) as exit:
            prepare(script, *options, counts=counts)
        assert exit.value.code == 1 and message in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["raw"]

    return call


def names(dataset: AnomalyDataset) -> list[str]:
    return dataset.meta["image"].tolist()


def masks(dataset: AnomalyDataset) -> dict[str, np.ndarray]:
    """Masks of the anomalous images; those of the others are empty."""
    found = {row.image: dataset.mask(i) for i, row in enumerate(dataset.meta.itertuples())}
    assert not any(mask.any() for name, mask in found.items() if "/good/" in name)
    return {name: mask for name, mask in found.items() if "/good/" not in name}


@pytest.mark.parametrize(
    ("script", "make", "archive"),
    [
        (mvtec, trees.mvtec, "mvtec_anomaly_detection.tar.xz"),
        (visa, trees.visa, "VisA_20220922.tar"),
        (mpdd, trees.mpdd, "MPDD.zip"),
        (btad, trees.btad, "btad.zip"),
        (sdd, trees.sdd, "KolektorSDD.zip"),
        (dagm, trees.dagm, "archive.zip"),
        (dtd_synthetic, trees.dtd, "DTD-Synthetic.zip"),
    ],
)  # fmt: skip
def test_folder_and_archive_give_the_same(tmp_path, prepare, script, make, archive):
    make(tmp_path / "raw")
    from_folder = prepare(script)
    fingerprint, columns = from_folder.fingerprint, from_folder.meta
    assert columns["label"].nunique() == 2 and from_folder.has_masks
    shutil.rmtree(tmp_path / "raw")
    shutil.rmtree(tmp_path / script.SOURCE.name)
    trees.pack(make, tmp_path / "raw", archive)
    from_archive = prepare(script)
    assert from_archive.meta.equals(columns)
    assert from_archive.fingerprint == fingerprint
    record = json.loads((tmp_path / script.SOURCE.name / "prepared.json").read_text())
    assert [entry["name"] for entry in record["archives"]] == [archive]


@pytest.mark.parametrize("script", MODULES)
def test_sources_agree_with_the_published_counts_and_name_a_wrong_download(tmp_path, refused, script):
    """The sums over the categories, typed from lists of files, are the totals that the paper prints."""
    source = script.SOURCE
    assert source.has_masks and source.name == script.__name__.rsplit(".", 1)[1]
    if script is dtd_synthetic:
        assert len(source.categories) == 12, "numbers of a category are not known"
    else:
        train, normal, anomalous = (sum(n or 0 for n in c) for c in zip(*source.categories.values()))
        assert (normal, anomalous) == source.published
        assert train == TRAIN.get(source.name, train)
    trees.image(tmp_path / "raw/holiday/beach.png")
    refused(script, source.title)


def test_all_sources():
    """The nineteen of the book's table, each with a command and the answers that a reader needs."""
    sources = {source.name: source for source in all_sources()}
    paper = yaml.safe_load((Path(__file__).parents[1] / "profiles/paper.yaml").read_text())["datasets"]
    assert {name: name for name in sources if name != "coco_captions"} == paper and len(paper) == 18
    for source in sources.values():
        assert source.title and source.home and source.terms and source.how, source.name


@pytest.mark.parametrize("outer", ["", "mvtec_anomaly_detection", "a/MVTecAD"])
def test_mvtec(tmp_path, prepare, outer):
    trees.mvtec(tmp_path / "raw" / outer)
    dataset = prepare(mvtec)
    assert dataset.categories == ["bottle", "metal_nut"]
    folders = ("test/good", "test/broken_large", "test/contamination", "train/good")
    assert names(dataset)[:4] == [f"bottle/{folder}/000.png" for folder in folders]
    assert all(np.array_equal(mask, trees.mask_of() > 0) for mask in masks(dataset).values())
    assert len(masks(dataset)) == 4
    grey = tmp_path / "mvtec/metal_nut/test/bent/000.png"
    assert Image.open(grey).mode == "L" and dataset.image(5).mode == "RGB"


def test_mvtec_half_extracted(tmp_path, refused):
    trees.mvtec(tmp_path / "raw")
    refused(mvtec, "found 2 and 4, published 467 and 1258", counts="stop")
    (tmp_path / "raw/bottle/ground_truth/contamination/000_mask.png").unlink()
    refused(mvtec, "1 without mask in")


def test_visa(tmp_path, prepare):
    trees.visa(tmp_path / "raw/VisA")
    dataset = prepare(visa)
    assert names(dataset) == [
        f"{category}/{name}.JPG"
        for category, digits in (("candle", "0"), ("capsules", ""))
        for name in (f"test/good/{digits}001", "test/bad/000", "test/bad/001", f"train/good/{digits}000")
    ]
    assert dataset.size(0) == (9, 7)
    assert all(np.array_equal(mask, trees.mask_of((9, 7)) > 0) for mask in masks(dataset).values())


@pytest.mark.parametrize(
    ("script", "make", "n", "category", "anomalous"),
    [
        (visa, trees.visa_reorganised, 6, "candle", "test/bad/000.JPG"),
        (mpdd, trees.mpdd, 4, "tubes", "test/anomalous/000.png"),
        *(
            (
                dtd_synthetic,
                partial(trees.dtd, suffix=suffix, lower=lower),
                6,
                "Woven_001",
                "test/bad/000.png",
            )
            for suffix, lower in (("_mask", False), ("", False), ("_mask", True))
        ),
        *(
            (sdd, partial(trees.sdd_of_the_papers, blank=blank), 3, "electrical commutators", SDD_PART)
            for blank in " _"
        ),
    ],
)
def test_other_layouts(tmp_path, prepare, script, make, n, category, anomalous):
    """Prompts use the categories' names of the papers."""
    make(tmp_path / "raw")
    dataset = prepare(script, *(["--mask-above", "127"] if script is visa else []))
    assert len(dataset) == n and category in dataset.categories
    np.testing.assert_array_equal(masks(dataset)[f"{category}/{anomalous}"], trees.mask_of() > 0)


def test_visa_bad_input(tmp_path, refused):
    raw = trees.visa(tmp_path / "raw")
    refused(visa, "from 1 to 9, not greys", "--mask-above", "127")
    split = raw / "split_csv/1cls.csv"
    listed = split.read_bytes()
    split.write_bytes(listed.replace(b"candle/Data/Images/Normal/0001.JPG", b"../../etc/passwd"))
    refused(visa, "names '../../etc/passwd'")
    for faulty in (
        listed.replace(b",normal,", b",Normal,"),
        listed.replace(b"candle/Data/Masks/Anomaly/000.png", b""),
        listed[:150],
    ):
        split.write_bytes(faulty)
        refused(visa, "is not as expected: normal without mask, or anomaly with one")
    split.write_bytes(listed.replace(b"label", b"class"))
    refused(visa, "has the columns")
    split.write_bytes(listed)
    (raw / "candle/Data/Masks/Anomaly/001.png").unlink()
    refused(visa, "lists 1 files that are not there: candle/Data/Masks/Anomaly/001.png")
    split.rename(split.with_name("1CLS.CSV"))
    refused(visa, "lists 1 files that are not there")
    split.with_name("1CLS.CSV").unlink()
    refused(visa, "split_csv/1cls.csv, which says what is for the test, has to lie beside")


def test_btad(tmp_path, prepare, refused, capsys):
    raw = trees.btad(tmp_path / "raw")
    for path in list(raw.rglob("*.bmp")):
        Image.open(path).save(path.with_suffix(".png"))
    refused(btad, "differ only in case and ends")  # both would count
    shutil.rmtree(raw)
    trees.btad(raw)
    dataset = prepare(btad)
    assert names(dataset)[:4] == [
        f"01/{name}.bmp" for name in ("test/good/0000", "test/ko/0020", "test/ko/0022", "train/good/0000")
    ]
    assert dataset.categories == ["01", "02", "03"] and dataset.size(8) == (8, 6)
    for name, mask in masks(dataset).items():
        size = (8, 6) if name.startswith("03") else (6, 6)
        assert np.array_equal(mask, trees.mask_of(size) * ("0020" in name) > 0), "128 is anomalous as well"
    assert (
        "masks that mark nothing: 3, the first is 01/ground_truth/ko/0022_mask.png" in capsys.readouterr().out
    )


def test_sdd(tmp_path, prepare, capsys):
    raw = trees.sdd(tmp_path / "raw")
    trees.image(raw / "kos21/Part7.jpg", "L", (10, 25))  # its authors skip it
    trees.mask(raw / "kos21/Part7_label.bmp", trees.mask_of((10, 25)))
    dataset = prepare(sdd)
    printed = capsys.readouterr().out
    assert "30 halves, 3 with label pixels, 27 without; 798, 74 and 724 are expected" in printed
    assert "6 of the 27 normal halves, drawn with seed 0" in printed and "cannot be made again" in printed
    assert "kos21_Part7 is left out" in printed
    folder = "electrical commutators/test/defect"
    found = masks(dataset)
    assert list(found) == [
        f"{folder}/{name}.png" for name in ("kos01_Part2_0", "kos01_Part2_1", "kos21_Part3_1")
    ]
    whole = trees.mask_of((10, 25), 255, 10, 15) > 0
    assert np.array_equal(found[f"{folder}/kos01_Part2_0.png"], whole[:12])
    assert np.array_equal(found[f"{folder}/kos01_Part2_1.png"], whole[12:])
    halves = [np.asarray(Image.open(tmp_path / f"sdd/{folder}/kos01_Part2_{i}.png")) for i in (0, 1)]
    assert np.array_equal(
        np.concatenate(halves), np.asarray(Image.open(raw / "kos01/Part2.jpg").convert("RGB"))
    )
    assert dataset.meta.groupby(["split", "label"]).size().to_dict() == {
        ("test", 0): 6, ("test", 1): 3, ("train", 0): 21}  # fmt: skip
    tested = names(dataset.select(split="test"))
    assert names(prepare(sdd).select(split="test")) == tested
    assert names(prepare(sdd, "--seed", "1").select(split="test")) != tested


def test_sdd_that_is_whole_may_have_other_halves(tmp_path, prepare, capsys, monkeypatch):
    """Where the papers cut is not known, so other counts stop the script only when images are missing."""
    raw = trees.sdd(tmp_path / "raw")
    monkeypatch.setattr(sdd, "HALVES", 30)
    prepare(sdd, counts="stop")
    assert "The difference is known: all images are there" in capsys.readouterr().out
    for name in ("Part1.jpg", "Part1_label.bmp"):
        (raw / "kos01" / name).unlink()
    with pytest.raises(SystemExit):
        prepare(sdd, counts="stop")
    assert "found 6 and 3, published 181 and 74" in capsys.readouterr().err


def test_sdd_bad_input(tmp_path, refused):
    raw = trees.sdd(tmp_path / "raw")
    label = raw / "kos01/Part3_label.bmp"
    trees.mask(label, trees.mask_of((10, 24)))
    refused(sdd, "Part3_label.bmp cannot be read: it is 10 x 24 (W x H), its image 10 x 25")
    label.unlink()
    refused(sdd, "1 without mask in")
    (raw / "kos01/Part3.jpg").unlink()
    trees.mask(raw / "kos01/Part9_label.bmp")
    refused(sdd, "Part9_label.bmp")


@pytest.mark.parametrize("outer", ["DAGM_KaggleUpload/{0}", "{0}", "{0}/{0}"])
def test_dagm(tmp_path, prepare, outer, capsys):
    trees.dagm(tmp_path / "raw", outer)
    dataset = prepare(dagm)
    assert dataset.categories == ["Class1", "Class9", "Class10"]
    places = ["test/good/0001", "test/good/0002", "test/defect/0003", "train/good/0004", "train/good/0005"]
    assert names(dataset)[:5] == [f"Class1/{name}.PNG" for name in places]
    assert len(dataset) == 15 and dataset.image(0).mode == "RGB"
    assert all(np.array_equal(mask, trees.mask_of((8, 8)) > 0) for mask in masks(dataset).values())
    assert "3 defective images of Train are left out" in capsys.readouterr().out
    if outer == "{0}/{0}":  # an archive for each class
        for folder in list((tmp_path / "raw").iterdir()):
            shutil.make_archive(str(folder), "zip", folder)
            shutil.rmtree(folder)
        assert prepare(dagm).fingerprint == dataset.fingerprint


def test_dagm_bad_input(tmp_path, refused):
    raw = trees.dagm(tmp_path / "raw")
    label = raw / "DAGM_KaggleUpload/Class1/Test/Label"
    mask = label / "0003_label.PNG"
    kept = mask.read_bytes()
    mask.unlink()  # without the list its image would pass for a normal one
    refused(dagm, "1 defective images of Labels.txt without mask: 0003")
    mask.write_bytes(kept)
    shutil.copyfile(mask, label / "0002_label.PNG")
    refused(dagm, "1 masks that Labels.txt does not list: 0002")
    (label / "0002_label.PNG").rename(label / "0077_label.PNG")
    refused(dagm, "1 masks without image: 0077")
    shutil.rmtree(label)
    refused(dagm, "has no folder Label")
    shutil.copytree(raw / "DAGM_KaggleUpload/Class9", raw / "DAGM_KaggleUpload/more/Class09")
    refused(dagm, "are both Class9")
    shutil.rmtree(raw)
    trees.mvtec_category(raw / "DAGM_anomaly_detection/Class1", ("defect",))
    refused(dagm, "re-packed copy")
