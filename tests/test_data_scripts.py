"""The scripts of all datasets, each on fabricated downloads in its original layouts."""

import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import trees
import yaml
from PIL import Image

from data_scripts import covid19, sdd
from data_scripts.source import all_sources
from zsad_core.datasets import load_dataset

TRAIN = {"mvtec": 3629, "visa": 8659, "mpdd": 888, "btad": 1799, "dagm": 16_100 - 6996 - 1054 - 1046}
SCRIPTS = list({download.script: None for download in trees.DOWNLOADS})
INDUSTRIAL = ("mvtec", "visa", "mpdd", "btad", "sdd", "dagm")


@pytest.fixture
def prepare(tmp_path):
    """prepare(script, *options): what the script makes of tmp_path/raw, which it leaves alone."""

    def call(script, *options, counts="warn"):
        raw, before = tmp_path / "raw", sorted((tmp_path / "raw").rglob("*"))
        main = import_module(f"data_scripts.{script}").main
        main(["--raw", str(raw), "--out", f"{tmp_path}/out", "--counts", counts, *options])
        assert sorted(raw.rglob("*")) == before and not list(tmp_path.glob("out.*"))
        return load_dataset(tmp_path / "out")

    return call


@pytest.fixture
def refused(prepare, tmp_path, capsys):
    """refused(script, message, *options): it ends with this error, and nothing is there afterwards."""

    def call(script, message, *options, counts="warn"):
        with pytest.raises(SystemExit) as exit:
            prepare(script, *options, counts=counts)
        assert exit.value.code == 1 and message in capsys.readouterr().err
        assert not list(tmp_path.glob("out*"))

    return call


def write(script, root):
    return next(tree for tree in trees.DOWNLOADS if tree.script == script).write(root)


def check(dataset, expected, above=0):
    found = {image: i for i, image in enumerate(dataset.meta["image"])}
    assert found.keys() == expected.keys()
    for name, (image, mask) in expected.items():
        i, (category, split, defect, _) = found[name], name.split("/")
        row = dataset.meta.iloc[i]
        assert (row["category"], row["split"], row["defect"]) == (category, split, defect)
        assert row["label"] == int(defect != "good") and (row["mask"] == "") == (mask is None)
        assert (dataset.root / name).read_bytes() == image.read_bytes()
        assert dataset.image(i).mode == "RGB"
        if mask:
            with Image.open(mask) as grey:
                np.testing.assert_array_equal(dataset.mask(i), np.asarray(grey.convert("L")) > above)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("download", trees.DOWNLOADS, ids=lambda download: download.script)
def test_layouts(download, packed, tmp_path, prepare):
    tree, raw = tmp_path / "tree", tmp_path / "raw"
    expected = download.write(tree if packed else raw)
    if packed:
        raw.mkdir()
        for path in tree.iterdir() if download.script in ("sewerml", "dagm") else [tree]:
            if path.is_dir():
                shutil.make_archive(str(raw / path.name), "zip", path)
            else:
                shutil.copy(path, raw)
    check(prepare(download.script), expected)


@pytest.mark.parametrize("script", SCRIPTS)
def test_sources_agree_with_the_published_counts_and_name_a_wrong_download(script, tmp_path, refused):
    """The sums over the categories, typed from lists of files, are the totals that the paper prints."""
    source = import_module(f"data_scripts.{script}").SOURCE
    assert source.published and source.name == script
    if script in INDUSTRIAL:  # only there are the numbers of a category known
        train, normal, anomalous = (sum(n or 0 for n in c) for c in zip(*source.categories.values()))
        assert (normal, anomalous) == source.published
        assert train == TRAIN.get(source.name, train)
    trees.draw(tmp_path / "raw/holiday/beach.png", "beach")
    refused(script, source.title)


def test_all_sources():
    sources = {source.name: source for source in all_sources()}
    paper = yaml.safe_load((Path(__file__).parents[1] / "profiles/paper.yaml").read_text())["datasets"]
    assert {name: name for name in sources if name != "coco_captions"} == paper and len(paper) == 18
    for source in sources.values():
        assert source.title and source.home and source.terms and source.how, source.name
    assert len(sources["dtd_synthetic"].categories) == 12


@pytest.mark.parametrize("above", [0, 127, 254])
@pytest.mark.parametrize("script", ["tn3k", "kvasir"])
def test_threshold_of_masks_in_jpeg(script, above, tmp_path, prepare):
    expected = write(script, tmp_path / "raw")
    check(prepare(script, "--mask-above", str(above)), expected, above)


def remove(place):
    return lambda raw: shutil.rmtree(raw / place) if (raw / place).is_dir() else (raw / place).unlink()


def copy(place, to):
    return lambda raw: (shutil.copytree if (raw / place).is_dir() else shutil.copy)(raw / place, raw / to)


def put(place, text):
    return lambda raw: (raw / place).write_bytes(text.encode() if isinstance(text, str) else text)


def listed(*change):
    return put("split_csv/1cls.csv", trees.VISA_LIST.replace(*change))


def reduced(script, name, n):
    """The first n images of a polyp set, as in PraNet's bundle."""
    numbers = ",".join(map(str, range(n)))
    images, masks = (f"TestDataset/{name}/{kind}/{{{numbers}}}.png" for kind in ("images", "masks"))
    return lambda raw: (shutil.rmtree(raw), trees.Download(script, f"{images} & {masks}").write(raw))


ENDO, HEAD, LABEL = "EndoTect_2020_Segmentation_Test_Dataset", "head_ct/head_ct", "Class1/Test/Label"
SPLIT, VALID, BTAD = "split_csv/1cls.csv", "SewerML_Val.csv", "BTech_Dataset_transformed/02/test/ko/0020"


@pytest.mark.parametrize(
    ("script", "spoil", "message"),
    [
        ("mvtec", remove("bottle/ground_truth/broken/000_mask.png"), "1 without mask in"),
        ("visa", listed("candle/Data/Images/Normal/0001.JPG", "../../etc/passwd"), "names '../../etc"),
        ("visa", listed(",normal,", ",Normal,"), "is not as expected"),
        ("visa", listed("candle/Data/Masks/Anomaly/000.png", ""), "is not as expected"),
        ("visa", put(SPLIT, trees.VISA_LIST[:70]), "is not as expected"),
        ("visa", listed("label", "class"), "has the columns"),
        ("visa", remove("candle/Data/Masks/Anomaly/001.png"), "lists 1 files that are not there"),
        ("visa", remove(SPLIT), "has to lie beside"),
        ("btad", copy(f"{BTAD}.png", f"{BTAD}.bmp"), "differ only in case and ends"),
        ("dagm", remove(f"{LABEL}/0003_label.PNG"), "1 defective images of Labels.txt without mask: 0003"),
        ("dagm", copy(f"{LABEL}/0003_label.PNG", f"{LABEL}/0002_label.PNG"), "does not list: 0002"),
        ("dagm", copy(f"{LABEL}/0003_label.PNG", f"{LABEL}/0077_label.PNG"), "1 masks without image: 0077"),
        ("dagm", remove(LABEL), "has no folder Label"),
        ("dagm", put(f"{LABEL}/Labels.txt", "1\n3\tyes\t0003.PNG\n"), "is not as expected"),
        ("dagm", copy("Class9", "Class09"), "are both Class9"),
        ("dagm", lambda raw: (raw / LABEL).rename(raw / "Class1/Test/good"), "re-packed copy"),
        ("endo", lambda raw: trees.draw_mask(raw / ENDO / "masks/2.png", "", size=(6, 8)), "2.jpg has shape"),
        ("endo", remove(f"{ENDO}/images/10.jpg"), "10.png"),
        ("isic", remove(trees.MASKS), f"fetch {trees.MASKS}.zip"),
        ("headct", remove(f"{HEAD}/001.png"), "without image [1]"),
        ("headct", copy(f"{HEAD}/001.png", f"{HEAD}/003.png"), "without row [3]"),
        ("headct", put("labels.csv", "id,label\n0,1\n"), "id and hemorrhage"),
        ("headct", put("labels.csv", "id,hemorrhage\n0,2\n"), "id and hemorrhage"),
        ("sewerml", copy("valid01/00000111.png", "valid00/00000111.png"), "there twice"),
        ("sewerml", put(VALID, "Filename\n00000048.png\n"), "no columns Filename and Defect"),
        ("sewerml", put(VALID, "Filename,Defect\n00000048.png,\n"), "line 2: '00000048.png' with Defect ''"),
        ("sewerml", put(VALID, "Filename,Defect\n1.png,1\n1.png,0\n"), "line 3"),
        ("sewerml", put(VALID, b"\xff\xfeF"), "SewerML_Val.csv is no table"),
        ("sewerml", remove(VALID), VALID),
        ("cvc_clinicdb", reduced("cvc_clinicdb", "CVC-ClinicDB", 62), "only 62 of"),
        ("kvasir", reduced("kvasir", "Kvasir", 100), "only 100 of"),
    ],
)
def test_bad_downloads(script, spoil, message, tmp_path, refused):
    write(script, tmp_path / "raw")
    spoil(tmp_path / "raw")
    refused(script, message)


def test_options_that_do_not_fit_and_half_a_download(tmp_path, refused):
    write("visa", tmp_path / "raw")
    refused("visa", "from 1 to 9, not greys", "--mask-above", "127")
    shutil.rmtree(tmp_path / "raw")
    write("mvtec", tmp_path / "raw")
    refused("mvtec", "found 2 and 2, published 467 and 1258", counts="stop")


@pytest.mark.parametrize(
    ("script", "spoil", "said"),
    [
        ("br35h", None, "pred/ is left out"),
        ("brainmri", None, "brain_tumor_dataset/ is left out: it has the same images again"),
        ("brainmri", remove("brain_tumor_dataset/no/no 1.jpg"), "with OTHER file names"),
        ("covid19", None, "Viral Pneumonia/ is left out"),
        ("sewerml", remove("valid01/00000111.png"), "1 row(s) of SewerML_Val.csv without an image: 0000011"),
        ("sewerml", copy("valid01/00000111.png", "valid01/2.png"), "1 image(s) without a row in SewerML_Val"),
        ("btad", None, "masks that mark nothing: 3, the first is 01/ground_truth/ko/0022_mask.png"),
        ("dagm", None, "3 defective images of Train are left out"),
    ],
)
def test_what_is_said(script, spoil, said, tmp_path, prepare, capsys):
    write(script, tmp_path / "raw")
    if spoil:
        spoil(tmp_path / "raw")
    prepare(script)
    assert said in capsys.readouterr().out


def test_clinicdb_in_two_editions(tmp_path, prepare, capsys):
    for suffix in ("tif", "png"):
        files = trees.polyp_files(f"Original.{suffix}", f"Ground Truth.{suffix}")
        expected = trees.Download("cvc_clinicdb", files, outer=suffix.upper()).write(tmp_path / "raw")
    check(prepare("cvc_clinicdb"), expected)
    assert "TIF/ is left out: PNG/ is the edition taken" in capsys.readouterr().out


def test_colondb_tells_of_repeats_and_takes_normal_images_for_training(tmp_path, prepare, refused, capsys):
    """1 and 2 become one image with the two masks that they had, 10 and 11 with equal ones."""
    expected = write("cvc_colondb", tmp_path / "raw")
    folder = tmp_path / "raw/CVC-ColonDB"
    trees.draw(folder / "images/1.png", "", (12, 8))
    trees.draw_mask(folder / "masks/1.png", "b", size=(12, 8))
    trees.draw_mask(folder / "masks/2.png", "a", size=(12, 8))
    for place, name, again in (("images", 1, 2), ("images", 10, 11), ("masks", 10, 11)):
        shutil.copy(folder / f"{place}/{name}.png", folder / f"{place}/{again}.png")
    expected["colon/test/polyp/11.png"] = tuple(folder / f"{place}/11.png" for place in ("images", "masks"))
    check(prepare("cvc_colondb"), expected)
    printed = capsys.readouterr().out
    assert "1.png, 2.png are one image, with masks that differ" in printed and "10.png, 11" not in printed
    for i in range(3):
        name = f"frame {i}.jpg"
        trees.draw(tmp_path / "normal" / name, name)
        expected[f"colon/train/good/{name}"] = tmp_path / "normal" / name, None
    check(prepare("cvc_colondb", "--normal", str(tmp_path / "normal")), expected)
    assert "3 images, AnomalyCLIP used 163" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    refused("cvc_colondb", "holds no images", "--normal", str(tmp_path / "empty"))


def test_covid19_names_the_release():
    for covid, normal, n_covid, flat, said in (
        ("COVID-19", 1341, 219, True, "the first, as in the paper"),
        ("covid", 1341, 219, True, "the first, as in the paper"),  # re-packed, under another name
        ("COVID-19", 1341, 1200, True, "the first update"),
        ("COVID", 10192, 3616, False, "the present one"),
        ("COVID", 1341, 219, False, "none that is known"),  # chosen by hand: which ones is not marked
    ):
        assert covid19.release(covid, normal, n_covid, flat=flat).startswith(said)


@pytest.fixture
def halves(tmp_path):
    """SDD as it is fetched: 8 and 7 parts, height 25; one defect crosses the middle, one is below it."""
    raw, rows = tmp_path / "raw", {("kos01", 2): (10, 15), ("kos21", 3): (12, 14)}
    for item, parts in (("kos01", 8), ("kos21", 8)):  # the authors skip the eighth of kos21
        for part in range(parts):
            trees.draw(raw / item / f"Part{part}.jpg", f"{item}{part}", (10, 25))
            mask, (top, bottom) = np.zeros((25, 10), np.uint8), rows.get((item, part), (0, 0))
            mask[top:bottom, 1:] = 255
            Image.fromarray(mask).save(raw / item / f"Part{part}_label.bmp")
    return raw


def test_sdd_in_halves(halves, tmp_path, prepare, capsys):
    dataset = prepare("sdd")
    printed = capsys.readouterr().out
    assert "30 halves, 3 with label pixels, 27 without; 798, 74 and 724 are expected" in printed
    assert "6 of the 27 normal halves, drawn with seed 0" in printed and "kos21_Part7 is left out" in printed
    anomalous = dataset.meta[dataset.labels == 1]
    halved = ("kos01_Part2_0", "kos01_Part2_1", "kos21_Part3_1")
    names = [f"{sdd.CATEGORY}/test/defect/{name}.png" for name in halved]
    assert anomalous["image"].tolist() == names
    for name, (top, bottom), size in zip(names, ((10, 12), (0, 3), (0, 2)), (12, 13, 13), strict=True):
        expected = np.zeros((size, 10), bool)
        expected[top:bottom, 1:] = True
        i = dataset.meta["image"].tolist().index(name)
        np.testing.assert_array_equal(dataset.mask(i), expected)
    cut = [np.asarray(Image.open(tmp_path / "out" / name)) for name in names[:2]]
    whole = Image.open(halves / "kos01/Part2.jpg").convert("RGB")
    np.testing.assert_array_equal(np.concatenate(cut), np.asarray(whole))
    sizes = dataset.meta.groupby(["split", "label"]).size().to_dict()
    assert sizes == {("test", 0): 6, ("test", 1): 3, ("train", 0): 21}
    tested = dataset.select(split="test").meta["image"].tolist()
    assert prepare("sdd").select(split="test").meta["image"].tolist() == tested
    assert prepare("sdd", "--seed", "1").select(split="test").meta["image"].tolist() != tested


def test_sdd_stops_for_missing_images_only(halves, prepare, refused, tmp_path, capsys, monkeypatch):
    """Where the papers cut is not known, so that a whole set may have other halves."""
    monkeypatch.setattr(sdd, "HALVES", 30)
    prepare("sdd", counts="stop")
    assert "The difference is known: all images are there" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    (halves / "kos01/Part3.jpg").unlink()
    refused("sdd", "Part3_label.bmp")
    (halves / "kos01/Part3_label.bmp").unlink()
    refused("sdd", "found 6 and 3, published 181 and 74", counts="stop")
    trees.draw_mask(halves / "kos01/Part4_label.bmp", "", size=(10, 24))
    refused("sdd", "it is 10 x 24 (W x H), its image 10 x 25")
