"""The scripts of the medical sets, of Sewer-ML and of COCO's captions, on fabricated downloads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
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


def error_of(
    script: ModuleType, raw: Path, out: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> str:
    """What is said on stderr; nothing may have been written."""
    with pytest.raises(SystemExit) as stopped:
        prepared(script, raw, out, *options)
    assert stopped.value.code == 1
    assert not out.exists()
    return capsys.readouterr().err


def check(dataset: AnomalyDataset, category: str, expected: trees.Expected) -> None:
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
def test_layouts(script: ModuleType, category: str, build: Build, packed: bool, tmp_path: Path) -> None:
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


def test_images_keep_their_bytes_and_masks_their_orientation(tmp_path: Path) -> None:
    trees.isic(tmp_path / "raw")
    dataset = prepared(isic, tmp_path / "raw", tmp_path / "out")
    i = dataset.meta["image"].tolist().index("skin/test/lesion/ISIC_0000012.jpg")
    with Image.open(dataset.root / dataset.meta["image"][i]) as image:
        assert image.getexif()[0x0112] == 6  # rotate it by 90 degrees, says the camera
    assert dataset.size(i) == (18, 14)
    assert dataset.mask(i).shape == (14, 18)


@pytest.mark.parametrize("above", [0, 127, 254])
@pytest.mark.parametrize("script, build", [(tn3k, trees.tn3k), (kvasir, trees.kvasir)])
def test_threshold_of_masks_in_jpeg(script: ModuleType, build: Callable, above: int, tmp_path: Path) -> None:
    expected = build(tmp_path / "raw", above=above)
    dataset = prepared(script, tmp_path / "raw", tmp_path / "out", "--mask-above", str(above))
    check(dataset, dataset.categories[0], expected)
    areas = {a: sum(m.sum() for m in build(tmp_path / f"{a}", above=a).values()) for a in (0, 127, 254)}
    assert areas[0] > areas[127] > areas[254]  # so the test can tell the rules apart


@pytest.mark.parametrize("script, name, n", [(cvc_clinicdb, "CVC-ClinicDB", 62), (kvasir, "Kvasir", 100)])
def test_the_reduced_sets_of_the_pranet_bundle_are_refused(
    script: ModuleType, name: str, n: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.pranet(tmp_path / "raw", name, n)
    error = error_of(script, tmp_path / "raw", tmp_path / "out", capsys)
    assert f"only {n} of" in error and "PraNet" in error


def test_a_rar_called_zip_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/CVC-ClinicDB.zip").write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(100))
    error = error_of(cvc_clinicdb, tmp_path / "raw", tmp_path / "out", capsys)
    assert "CVC-ClinicDB.zip" in error and "unrar" in error


def test_colondb_keeps_repeats_and_reports_masks_that_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = trees.colondb(tmp_path / "raw")
    check(prepared(cvc_colondb, tmp_path / "raw", tmp_path / "out"), "colon", expected)
    said = capsys.readouterr().out
    assert "2.png, 5.png, 10.png are one image, with masks that differ" in said
    assert "3.png, 9.png" not in said
    assert "--normal" in said


def test_colondb_takes_normal_images_for_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = trees.colondb(tmp_path / "raw")
    for i in range(3):
        trees.picture(tmp_path / f"normal/frame {i}.jpg", 50 + i)
        expected[f"train/good/frame {i}.jpg"] = None
    options = ("--normal", str(tmp_path / "normal"))
    check(prepared(cvc_colondb, tmp_path / "raw", tmp_path / "out", *options), "colon", expected)
    said = capsys.readouterr().out
    assert "3 images, AnomalyCLIP used 163" in said and "not established" in said
    (tmp_path / "empty").mkdir()
    options = ("--normal", str(tmp_path / "empty"))
    assert "holds no images" in error_of(cvc_colondb, tmp_path / "raw", tmp_path / "other", capsys, *options)


def test_masks_must_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.endo(tmp_path / "raw")
    folder = tmp_path / "raw/EndoTect_2020_Segmentation_Test_Dataset"
    trees.outline(folder / "masks/2.png", 0, (6, 8))
    assert "2.jpg has shape (8, 6)" in error_of(endo, tmp_path / "raw", tmp_path / "out", capsys)
    (folder / "masks/2.png").unlink()
    (folder / "images/10.jpg").unlink()
    error = error_of(endo, tmp_path / "raw", tmp_path / "out", capsys)
    assert "2.jpg" in error and "10.png" in error  # an image without mask, a mask without image


def test_isic_from_its_two_archives(tmp_path: Path) -> None:
    """Each unpacks to a folder of its own name, in which lies one that is called so again."""
    expected = trees.isic(tmp_path / "tree")
    (tmp_path / "raw").mkdir()
    for name in (isic.IMAGES, isic.MASKS):
        shutil.make_archive(str(tmp_path / "raw" / name), "zip", tmp_path / "tree", name)
    check(prepared(isic, tmp_path / "raw", tmp_path / "out"), "skin", expected)


def test_isic_without_outlines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.isic(tmp_path / "raw")
    shutil.rmtree(tmp_path / f"raw/{isic.MASKS}")
    error = error_of(isic, tmp_path / "raw", tmp_path / "out", capsys)
    assert "classification task" in error and f"fetch {isic.MASKS}.zip" in error


def test_headct_table_and_images_must_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.headct(tmp_path / "raw")
    (tmp_path / "raw/head_ct/head_ct/001.png").rename(tmp_path / "raw/head_ct/head_ct/003.png")
    error = error_of(headct, tmp_path / "raw", tmp_path / "out", capsys)
    assert "1 row(s) without image [1], 1 image(s) without row [3]" in error
    (tmp_path / "raw/labels.csv").rename(tmp_path / "raw/Labels.CSV")
    assert "1 row(s) without image" in error_of(headct, tmp_path / "raw", tmp_path / "out", capsys)
    (tmp_path / "raw/Labels.CSV").rename(tmp_path / "raw/labels.csv")
    (tmp_path / "raw/labels.csv").write_text("id,label\n0,1\n")
    assert "expected the columns id and hemorrhage" in error_of(
        headct, tmp_path / "raw", tmp_path / "out", capsys
    )
    (tmp_path / "raw/labels.csv").unlink()
    assert "labels.csv" in error_of(headct, tmp_path / "raw", tmp_path / "out", capsys)


def test_brainmri_says_which_tree_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.brainmri(tmp_path / "raw")
    prepared(brainmri, tmp_path / "raw", tmp_path / "out")
    assert "brain_tumor_dataset/ is left out: it has the same images again" in capsys.readouterr().out
    (tmp_path / "raw/brain_tumor_dataset/no/no.jpg").unlink()
    prepared(brainmri, tmp_path / "raw", tmp_path / "out")
    assert "with OTHER file names" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "raw/no")
    shutil.rmtree(tmp_path / "raw/brain_tumor_dataset/no")
    error = error_of(brainmri, tmp_path / "raw", tmp_path / "new", capsys)
    assert "yes" in error and "no" in error


@pytest.mark.parametrize(("build", "flat"), [(trees.covid_first, True), (trees.covid_present, False)])
def test_covid19_sees_whether_images_have_folders_of_their_own(
    build: Build,
    flat: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(covid19, "release", lambda *_, flat: f"flat {flat}")
    build(tmp_path / "raw")
    prepared(covid19, tmp_path / "raw", tmp_path / "out")
    assert f"release: flat {flat}" in capsys.readouterr().out


def test_covid19_as_re_packed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As AnomalyCLIP's script wants it: the present root's name, NORMAL in capitals, one other folder."""
    expected = trees.covid_first(tmp_path / "tree")
    (tmp_path / "raw").mkdir()
    folder = tmp_path / "raw/COVID-19_Radiography_Dataset"
    (tmp_path / "tree/COVID-19 Radiography Database").rename(folder)
    (folder / "COVID-19").rename(folder / "COVID")
    shutil.rmtree(folder / "Viral Pneumonia")
    check(prepared(covid19, tmp_path / "raw", tmp_path / "out"), "chest", expected)


def test_br35h_says_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.br35h(tmp_path / "raw")
    prepared(br35h, tmp_path / "raw", tmp_path / "out")
    said = capsys.readouterr().out
    assert "pred/ is left out" in said and "Br35H-Mask-RCNN/ is left out" in said


def test_covid19_names_the_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for covid, normal, n_covid, flat, said in (
        ("COVID-19", 1341, 219, True, "the first, as in the paper"),
        ("covid", 1341, 219, True, "the first, as in the paper"),  # re-packed, under another name
        ("COVID-19", 1341, 1200, True, "the first update"),
        ("COVID", 10192, 3616, False, "the present one"),
        ("COVID", 1341, 219, False, "none that is known"),  # chosen by hand: which ones is not marked
    ):
        assert covid19.release(covid, normal, n_covid, flat=flat).startswith(said)
    trees.covid_present(tmp_path / "raw")
    prepared(covid19, tmp_path / "raw", tmp_path / "out")
    said = capsys.readouterr().out
    assert "called so in the present one" in said and "Viral Pneumonia/ is left out" in said


def test_counts_of_another_release_stop_unless_their_reason_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    trees.covid_present(tmp_path / "raw")
    with pytest.raises(SystemExit) as stopped:
        covid19.main(options)
    assert stopped.value.code == 1 and not (tmp_path / "out").exists()
    assert "found 2 and 2, published 1341 and 219" in capsys.readouterr().err
    present, *_ = covid19.SOURCE.known
    assert (present.normal, present.anomalous) == (10192, 3616)
    small = replace(present, normal=2, anomalous=2)
    monkeypatch.setattr(covid19, "SOURCE", replace(covid19.SOURCE, known=(small,)))
    covid19.main(options)
    assert f"The difference is known: {present.reason}" in capsys.readouterr().out
    assert len(load_dataset(tmp_path / "out")) == 4


def test_sewerml_counts_rows_and_images_without_partner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = trees.sewerml(tmp_path / "raw", whole=False)
    check(prepared(sewerml, tmp_path / "raw", tmp_path / "out"), "sewer", expected)
    said = capsys.readouterr().out
    assert "1 row(s) of SewerML_Val.csv without an image: 01299740.png" in said
    assert "1 image(s) without a row in SewerML_Val.csv: 00000002.png" in said
    assert "68681" in said.replace(",", "") and "61365" in said.replace(",", "")


def test_sewerml_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    trees.sewerml(raw)
    shutil.copy(raw / "valid00/00000048.png", raw / "valid01")
    assert "00000048.png is there twice" in error_of(sewerml, raw, out, capsys)
    (raw / "valid01/00000048.png").unlink()
    for table, message in (
        ("Filename\n00000048.png\n", "no columns Filename and Defect"),
        ("Filename,Defect\n00000048.png,\n", "line 2: '00000048.png' with Defect ''"),
        ("Filename,Defect\n00000048.png,1\n00000048.png,0\n", "line 3"),
    ):
        (raw / "SewerML_Val.csv").write_text(table)
        assert message in error_of(sewerml, raw, out, capsys)
    (raw / "SewerML_Val.csv").write_bytes(b"\xff\xfeF")
    assert "SewerML_Val.csv is no table" in error_of(sewerml, raw, out, capsys)
    (raw / "SewerML_Val.csv").unlink()
    assert "SewerML_Val.csv" in error_of(sewerml, raw, out, capsys)


def test_coco_captions(tmp_path: Path) -> None:
    trees.coco(tmp_path / "raw")
    options = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "captions.json")]
    coco_captions.main(options)
    assert load_captions(tmp_path / "captions.json", "normal") == ["A normal street."]
    assert load_captions(tmp_path / "captions.json", "damage") == ["Storm DAMAGE on a roof"]
    assert json.loads((tmp_path / "captions.json").read_text())["match"] == "word"
    coco_captions.main([*options, "--match", "prefix", "--split", "train"])
    assert load_captions(tmp_path / "captions.json", "damage") == [
        "Damaged bus at a stop.",
        "Storm DAMAGE on a roof",
    ]
    assert load_captions(tmp_path / "captions.json", "damage", "word") == ["Storm DAMAGE on a roof"]
    coco_captions.main([*options, "--match", "substring"])
    assert "An abnormal clock on a wall" in load_captions(tmp_path / "captions.json", "normal")


def test_coco_captions_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.coco(tmp_path / "raw")
    (tmp_path / "raw/annotations/captions_val2017.json").unlink()
    options = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "captions.json")]
    with pytest.raises(SystemExit) as stopped:
        coco_captions.main(options)
    assert stopped.value.code == 1 and "captions_val2017.json" in capsys.readouterr().err
    (tmp_path / "raw/annotations/instances_val2017.json").rename(
        tmp_path / "raw/annotations/captions_val2017.json"
    )
    with pytest.raises(SystemExit):
        coco_captions.main(options)
    assert "no COCO captions file" in capsys.readouterr().err
    assert not (tmp_path / "captions.json").exists()


def test_coco_captions_two_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.coco(tmp_path / "raw")
    options = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "captions.json")]
    with only_one(tmp_path / "captions.json"), pytest.raises(SystemExit) as stopped:
        coco_captions.main(options)
    assert stopped.value.code == 1 and "captions.json is running" in capsys.readouterr().err
    coco_captions.main(options)


def test_coco_captions_from_the_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.coco(tmp_path / "tree")
    (tmp_path / "raw").mkdir()
    shutil.make_archive(str(tmp_path / "raw/annotations_trainval2017"), "zip", tmp_path / "tree")
    options = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "captions.json")]
    with pytest.raises(SystemExit) as stopped:
        coco_captions.main(options)
    assert stopped.value.code == 1 and "expected 252,907,541" in capsys.readouterr().err
    coco_captions.main([*options, "--checksum", "warn"])
    assert load_captions(tmp_path / "captions.json", "normal") == ["A normal street."]
    assert {path.name for path in tmp_path.iterdir()} == {"tree", "raw", "captions.json"}
    with pytest.raises(SystemExit) as stopped:
        coco_captions.main([])
    assert stopped.value.code == 2 and "annotations_trainval2017.zip" in capsys.readouterr().out
