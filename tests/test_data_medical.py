"""The scripts of the medical sets, of Sewer-ML and of COCO's captions, on fabricated downloads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import trees_medical as trees
from PIL import Image

from data_scripts import (
    br35h,
    brainmri,
    coco_captions,
    covid19,
    cvc_clinicdb,
    cvc_colondb,
    endo,
    headct,
    isic,
    kvasir,
    sewerml,
    tn3k,
)
from data_scripts.prepare import only_one
from zsad_core.datasets import AnomalyDataset, load_dataset
from zsad_papers.rwda.figures import load_captions

Build = Callable[[Path], trees.Expected]
ENDO, HEAD, BRAIN = "EndoTect_2020_Segmentation_Test_Dataset", "head_ct/head_ct", "brain_tumor_dataset"
COCO = "captions_val2017.json"
LABELS, VALID, TWICE = "labels.csv", "SewerML_Val.csv", ("valid00/00000048.png", "valid01")

LAYOUTS: tuple[tuple[ModuleType, str, Build], ...] = (
    (isic, "skin", trees.isic),
    (isic, "skin", partial(trees.isic, papers=True)),
    (cvc_clinicdb, "colon", trees.clinicdb),
    (cvc_clinicdb, "colon", trees.clinicdb_twice),
    (cvc_clinicdb, "colon", partial(trees.figshare, name="CVC-ClinicDB")),
    (cvc_colondb, "colon", trees.colondb),
    (cvc_colondb, "colon", partial(trees.figshare, name="CVC-ColonDB")),
    (kvasir, "colon", trees.kvasir),
    (kvasir, "colon", partial(trees.figshare, name="Kvasir")),
    (endo, "colon", trees.endo),
    (tn3k, "thyroid", trees.tn3k),
    (headct, "brain", trees.headct),
    (headct, "brain", trees.headct_papers),
    (brainmri, "brain", trees.brainmri),
    (brainmri, "brain", partial(trees.brainmri, both=False)),
    (br35h, "brain", trees.br35h),
    (covid19, "chest", trees.covid_first),
    (covid19, "chest", trees.covid_present),
    (sewerml, "sewer", trees.sewerml),
    (sewerml, "sewer", partial(trees.sewerml, bom=False, folder="valAll")),
)


def prepared(script: ModuleType, raw: Path, out: Path, *options: str) -> AnomalyDataset:
    script.main(["--raw", str(raw), "--out", str(out), "--counts", "warn", *options])
    return load_dataset(out)


@pytest.fixture
def error_of(tmp_path, capsys) -> Callable[..., str]:
    """error_of(script, *options): what is said on stderr; nothing may have been written."""

    def call(script: ModuleType, *options: str) -> str:
        with pytest.raises(SystemExit) as stopped:
            prepared(script, tmp_path / "raw", tmp_path / "out", *options)
        assert stopped.value.code == 1 and not (tmp_path / "out").exists()
        return capsys.readouterr().err

    return call


def check(dataset: AnomalyDataset, category: str | None, expected: trees.Expected) -> None:
    category = category or dataset.categories[0]
    assert dataset.categories == [category]
    found = {image.removeprefix(f"{category}/"): i for i, image in enumerate(dataset.meta["image"])}
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        split, defect, _ = name.split("/")
        row = dataset.meta.iloc[found[name]]
        assert (row["split"], row["defect"], row["label"]) == (split, defect, int(defect != "good"))
        assert (row["mask"] == "") == (mask is None)
        if mask is not None:
            assert mask.any()
            np.testing.assert_array_equal(dataset.mask(found[name]), mask)
        assert dataset.image(found[name]).mode == "RGB"


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize(
    "script, category, build", LAYOUTS, ids=[f"{s.SOURCE.name}{i}" for i, (s, *_) in enumerate(LAYOUTS)]
)
def test_layouts(script, category, build, packed, tmp_path):
    raw = tmp_path / "raw"
    expected = build(tmp_path / "tree" if packed else raw)
    if packed:
        raw.mkdir()
        pack(tmp_path / "tree", raw)
    before = sorted(raw.rglob("*"))
    check(prepared(script, raw, tmp_path / "out"), category, expected)
    assert sorted(raw.rglob("*")) == before
    assert script.SOURCE.published  # or nothing would be compared


def pack(tree: Path, raw: Path) -> None:
    """As shipped: Sewer-ML has its table beside two archives, the others one archive."""
    parts = sorted(tree.glob("valid*"))
    for part in parts:
        shutil.make_archive(str(raw / part.name), "zip", part)
    for table in tree.glob("SewerML*.csv") if parts else ():
        shutil.copy(table, raw)
    if not parts:
        shutil.make_archive(str(raw / "download"), "zip", tree)


def test_images_keep_their_bytes_and_masks_their_orientation(tmp_path):
    trees.isic(tmp_path / "raw")
    dataset = prepared(isic, tmp_path / "raw", tmp_path / "out")
    i = dataset.meta["image"].tolist().index("skin/test/lesion/ISIC_0000012.jpg")
    with Image.open(dataset.root / dataset.meta["image"][i]) as image:
        assert image.getexif()[0x0112] == 6  # rotate it by 90 degrees, says the camera
    assert dataset.size(i) == (18, 14)
    assert dataset.mask(i).shape == (14, 18)


@pytest.mark.parametrize("above", [0, 127, 254])
@pytest.mark.parametrize("script, build", [(tn3k, trees.tn3k), (kvasir, trees.kvasir)])
def test_threshold_of_masks_in_jpeg(script, build, above, tmp_path):
    expected = build(tmp_path / "raw", above=above)
    dataset = prepared(script, tmp_path / "raw", tmp_path / "out", "--mask-above", str(above))
    check(dataset, dataset.categories[0], expected)
    areas = {a: sum(m.sum() for m in build(tmp_path / f"{a}", above=a).values()) for a in (0, 127, 254)}
    assert areas[0] > areas[127] > areas[254]  # so the test can tell the rules apart


@pytest.mark.parametrize("script, name, n", [(cvc_clinicdb, "CVC-ClinicDB", 62), (kvasir, "Kvasir", 100)])
def test_the_reduced_sets_of_the_pranet_bundle_are_refused(script, name, n, tmp_path, error_of):
    trees.pranet(tmp_path / "raw", name, n)
    error = error_of(script)
    assert f"only {n} of" in error and "PraNet" in error


def test_what_is_said(tmp_path, capsys):
    """Repeats with other masks, folders that are left out, rows and images without partner."""
    for script, build, said in (
        (
            cvc_colondb,
            trees.colondb,
            ["2.png, 5.png, 10.png are one image, with masks that differ", "--normal"],
        ),
        (br35h, trees.br35h, ["pred/ is left out", "Br35H-Mask-RCNN/ is left out"]),
        (brainmri, trees.brainmri, ["brain_tumor_dataset/ is left out: it has the same images again"]),
        (covid19, trees.covid_present, ["called so in the present one", "Viral Pneumonia/ is left out"]),
        (
            sewerml,
            partial(trees.sewerml, whole=False),
            [
                "1 row(s) of SewerML_Val.csv without an image: 01299740.png",
                "(s) without a row in SewerML_Val",
            ],
        ),
    ):
        folder = tmp_path / script.SOURCE.name
        expected = build(folder / "raw")
        check(prepared(script, folder / "raw", folder / "out"), None, expected)
        printed = capsys.readouterr().out
        assert all(part in printed for part in said) and "3.png, 9.png" not in printed
    (tmp_path / "brainmri/raw/brain_tumor_dataset/no/no.jpg").unlink()
    prepared(brainmri, tmp_path / "brainmri/raw", tmp_path / "brainmri/out")
    assert "with OTHER file names" in capsys.readouterr().out


def test_colondb_takes_normal_images_for_training(tmp_path, error_of, capsys):
    expected = trees.colondb(tmp_path / "raw")
    for i in range(3):
        trees.picture(tmp_path / f"normal/frame {i}.jpg", 50 + i)
        expected[f"train/good/frame {i}.jpg"] = None
    (tmp_path / "empty").mkdir()
    assert "holds no images" in error_of(cvc_colondb, "--normal", str(tmp_path / "empty"))
    options = ("--normal", str(tmp_path / "normal"))
    check(prepared(cvc_colondb, tmp_path / "raw", tmp_path / "out", *options), "colon", expected)
    assert "3 images, AnomalyCLIP used 163" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "build", "spoil", "message"),
    [
        (
            endo,
            trees.endo,
            lambda raw: trees.outline(raw / ENDO / "masks/2.png", 0, (6, 8)),
            "2.jpg has shape",
        ),
        (endo, trees.endo, lambda raw: (raw / ENDO / "masks/2.png").unlink(), "2.jpg"),
        (endo, trees.endo, lambda raw: (raw / ENDO / "images/10.jpg").unlink(), "10.png"),
        (isic, trees.isic, lambda raw: shutil.rmtree(raw / isic.MASKS), f"fetch {isic.MASKS}.zip"),
        (headct, trees.headct, lambda raw: (raw / HEAD / "001.png").unlink(), "without image [1]"),
        (headct, trees.headct, lambda raw: trees.picture(raw / HEAD / "003.png", 0), "without row [3]"),
        (headct, trees.headct, lambda raw: (raw / LABELS).write_text("id,label\n0,1\n"), "id and hemorrhage"),
        (headct, trees.headct, lambda raw: (raw / LABELS).unlink(), LABELS),
        (brainmri, partial(trees.brainmri, both=False), lambda raw: shutil.rmtree(raw / BRAIN / "no"), "no"),
        (sewerml, trees.sewerml, lambda raw: shutil.copy(raw / TWICE[0], raw / TWICE[1]), "there twice"),
        *(
            (sewerml, trees.sewerml, lambda raw, rows=rows: (raw / VALID).write_bytes(rows), message)
            for rows, message in (
                (b"Filename\n00000048.png\n", "no columns Filename and Defect"),
                (b"Filename,Defect\n00000048.png,\n", "line 2: '00000048.png' with Defect ''"),
                (b"Filename,Defect\n00000048.png,1\n00000048.png,0\n", "line 3"),
                (b"\xff\xfeF", "SewerML_Val.csv is no table"),
            )
        ),
        (sewerml, trees.sewerml, lambda raw: (raw / VALID).unlink(), VALID),
    ],
)
def test_bad_downloads(script, build, spoil, message, tmp_path, error_of):
    build(tmp_path / "raw")
    spoil(tmp_path / "raw")
    assert message in error_of(script)


def test_covid19_as_re_packed(tmp_path):
    """As AnomalyCLIP's script wants it: the present root's name, NORMAL in capitals, one other folder."""
    expected = trees.covid_first(tmp_path / "tree")
    (tmp_path / "raw").mkdir()
    folder = tmp_path / "raw/COVID-19_Radiography_Dataset"
    (tmp_path / "tree/COVID-19 Radiography Database").rename(folder)
    (folder / "COVID-19").rename(folder / "COVID")
    shutil.rmtree(folder / "Viral Pneumonia")
    check(prepared(covid19, tmp_path / "raw", tmp_path / "out"), "chest", expected)


def test_covid19_names_the_release():
    for covid, normal, n_covid, flat, said in (
        ("COVID-19", 1341, 219, True, "the first, as in the paper"),
        ("covid", 1341, 219, True, "the first, as in the paper"),  # re-packed, under another name
        ("COVID-19", 1341, 1200, True, "the first update"),
        ("COVID", 10192, 3616, False, "the present one"),
        ("COVID", 1341, 219, False, "none that is known"),  # chosen by hand: which ones is not marked
    ):
        assert covid19.release(covid, normal, n_covid, flat=flat).startswith(said)


def test_coco_captions(tmp_path, capsys):
    trees.coco(tmp_path / "raw")
    found = tmp_path / "captions.json"
    options = ["--raw", str(tmp_path / "raw"), "--out", str(found)]
    with only_one(found), pytest.raises(SystemExit):
        coco_captions.main(options)
    assert "captions.json is running" in capsys.readouterr().err
    coco_captions.main(options)
    assert load_captions(found, "normal") == ["A normal street."]
    assert load_captions(found, "damage") == ["Storm DAMAGE on a roof"]
    assert json.loads(found.read_text())["match"] == "word"
    coco_captions.main([*options, "--match", "prefix", "--split", "train"])
    assert load_captions(found, "damage") == ["Damaged bus at a stop.", "Storm DAMAGE on a roof"]
    assert load_captions(found, "damage", "word") == ["Storm DAMAGE on a roof"]
    coco_captions.main([*options, "--match", "substring"])
    assert "An abnormal clock on a wall" in load_captions(found, "normal")
    found.unlink()
    annotations = tmp_path / "raw/annotations"
    for change, message in (
        (lambda: (annotations / COCO).unlink(), COCO),
        (
            lambda: (annotations / "instances_val2017.json").rename(annotations / COCO),
            "no COCO captions file",
        ),
    ):
        change()
        with pytest.raises(SystemExit):
            coco_captions.main(options)
        assert message in capsys.readouterr().err and not found.exists()


def test_coco_captions_from_the_archive(tmp_path, capsys):
    trees.coco(tmp_path / "tree")
    (tmp_path / "raw").mkdir()
    shutil.make_archive(str(tmp_path / "raw/annotations_trainval2017"), "zip", tmp_path / "tree")
    options = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "captions.json")]
    with pytest.raises(SystemExit):
        coco_captions.main(options)
    assert "expected 252,907,541" in capsys.readouterr().err
    coco_captions.main([*options, "--checksum", "warn"])
    assert load_captions(tmp_path / "captions.json", "normal") == ["A normal street."]
    assert {path.name for path in tmp_path.iterdir()} == {"tree", "raw", "captions.json"}
    with pytest.raises(SystemExit):
        coco_captions.main([])
    assert "annotations_trainval2017.zip" in capsys.readouterr().out
