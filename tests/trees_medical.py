"""Small fabricated downloads with the layouts and traps of the medical sets, Sewer-ML and COCO's captions.

Each builder writes a tree below `root` and returns what the prepared folder must hold: for each image its
path below the category and its mask (H, W) bool, None for images without one. Sizes are (W, H), as in PIL.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

Expected = dict[str, np.ndarray | None]


def picture(path: Path, seed: int, size: tuple[int, int] = (9, 7), mode: str = "RGB", **save) -> None:
    """Noise, a different one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, **save)


def outline(
    path: Path, seed: int, size: tuple[int, int] = (9, 7), mode: str = "L", above: int = 0
) -> np.ndarray:
    """Writes a mask with one filled rectangle; a JPEG blurs its edge. Returns what is above the threshold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[1 + seed % 3 : 5, 2 : 5 + seed % 3] = 255
    Image.fromarray(mask).convert(mode).save(path)
    with Image.open(path) as written:
        return np.asarray(written.convert("L")) > above


def pairs(
    images: Path, masks: Path, names: dict[str, str], defect: str, *, mode: str = "L", above: int = 0
) -> Expected:
    """One image and one mask for each pair of file names, all of different sizes."""
    expected: Expected = {}
    for i, (image, mask) in enumerate(names.items()):
        size = (17 + i, 12 + 2 * i)
        picture(images / image, i, size)
        expected[f"test/{defect}/{image}"] = outline(masks / mask, i, size, mode, above)
    return expected


# Lesions and polyps: masks, no normal image


def isic(root: Path, *, papers: bool = False) -> Expected:
    """Unequal sizes, another case in a mask's suffix, EXIF asking for a rotation, the other task's CSV."""
    images, masks = "ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"
    folders = (
        (root / "ISBI/skin/test" / images, root / "ISBI/skin" / masks)
        if papers
        else (root / images, root / masks)
    )
    names = {
        "ISIC_0000003.jpg": "ISIC_0000003_Segmentation.png",
        "ISIC_0000012.jpg": "ISIC_0000012_segmentation.PNG",
    }
    expected = pairs(*folders, names, "lesion")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(folders[0] / "ISIC_0000012.jpg", 1, (18, 14), exif=exif)
    (folders[1].parent / f"{masks}.csv").write_text("ISIC_0000003,0.0\nISIC_0000012,1.0\n")
    picture(
        root / "ISBI2016_ISIC_Part1_Training_Data/ISIC_0000000.jpg", 9
    )  # of another part of the challenge
    return expected


def polyps(
    root: Path, *, images: str = "images", masks: str = "masks", suffix: str = ".png", mask_suffix: str = ""
) -> Expected:
    """1, 2 and 10, which a lexical order takes apart."""
    names = {f"{n}{suffix}": f"{n}{mask_suffix or suffix}" for n in (1, 2, 10)}
    return pairs(root / images, root / masks, names, "polyp")


def clinicdb(root: Path) -> Expected:
    """The original: tif, and a blank in the name of the masks' folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "README.txt").write_text("terms")
    return polyps(root, images="Original", masks="Ground Truth", suffix=".tif")


def clinicdb_twice(root: Path) -> Expected:
    """The same images as PNG and as tif in one download."""
    polyps(root / "TIF", images="Original", masks="Ground Truth", suffix=".tif")
    return polyps(root / "PNG", images="Original", masks="Ground Truth", suffix=".png")


def figshare(root: Path, name: str) -> Expected:
    """A bundle with a folder for each polyp set; the named one has three images."""
    for other in ("CVC-ClinicDB", "CVC-ColonDB", "Kvasir"):
        polyps(root / "Polyp_DataSet" / other)
        picture(root / "Polyp_DataSet" / other / "images/4.png", 4)  # would not pair
    shutil.rmtree(root / "Polyp_DataSet" / name)
    return polyps(root / "Polyp_DataSet" / name)


def pranet(root: Path, name: str, n: int) -> None:
    """The reduced sets of a bundle that many polyp segmentation repositories share."""
    folder = root / "TestDataset" / name
    for i in range(n):
        picture(folder / f"images/{i}.png", i, (4, 3))
        (folder / "masks").mkdir(exist_ok=True)
        Image.new("L", (4, 3), 255).save(folder / f"masks/{i}.png")


def colondb(root: Path) -> Expected:
    """Image 2 three times: 5 has the same mask, 10 another one. Image 3 twice, masks alike."""
    folder = root / "CVC-ColonDB"
    expected: Expected = {}
    for name, of, mask in ((1, 1, 1), (2, 2, 2), (3, 3, 0), (5, 2, 2), (9, 3, 0), (10, 2, 1)):
        picture(folder / f"images/{name}.png", of)
        expected[f"test/polyp/{name}.png"] = outline(folder / f"masks/{name}.png", mask)
    return expected


def kvasir(root: Path, *, above: int = 0) -> Expected:
    """JPEG masks in RGB with many grey levels, and the boxes' file, whose name is misspelt."""
    names = {
        f"{stem}.jpg": f"{stem}.jpg" for stem in ("cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4")
    }
    folder = root / "Kvasir-SEG"
    expected = pairs(folder / "images", folder / "masks", names, "polyp", mode="RGB", above=above)
    (folder / "kavsir_bboxes.json").write_text("{}")
    return expected


def endo(root: Path) -> Expected:
    folder = root / "EndoTect_2020_Segmentation_Test_Dataset"
    expected = polyps(folder, suffix=".jpg", mask_suffix=".png")
    (folder / "bbox").mkdir()
    (folder / "bbox/1.csv").write_text("class_name,xmin,ymin,xmax,ymax\npolyp,2,1,5,4\n")
    picture(folder / "bbox/preview.jpg", 8)
    return expected


def tn3k(root: Path, *, above: int = 0) -> Expected:
    """A blank in the path, masks as JPEG, folds, training images, tables, and other sets beside it."""
    thyroid = root / "Thyroid Dataset"
    folder = thyroid / "tn3k"
    names = {f"{n:04d}.jpg": f"{n:04d}.jpg" for n in range(3)}
    expected = pairs(folder / "test-image", folder / "test-mask", names, "nodule", above=above)
    picture(folder / "trainval-image/0000.jpg", 20)
    outline(folder / "trainval-mask/0000.jpg", 0)
    (folder / "tn3k-trainval-fold0.json").write_text('{"train": [0], "val": []}')
    (folder / "label4test.csv").write_text("0000.jpg,0\n0001.jpg,1\n0002.jpg,1\n")
    picture(thyroid / "tg3k/thyroid-image/0000.jpg", 21)
    return expected


# Scans: labels of images, no masks


def headct(root: Path) -> Expected:
    """Doubled folder, a blank in the CSV's header, one image with an alpha channel."""
    names = ("000.png", "001.png", "002.png")
    for i, name in enumerate(names):
        picture(root / "head_ct/head_ct" / name, i, (9 + i, 7), "RGBA" if i == 1 else "RGB")
    (root / "labels.csv").write_text("id, hemorrhage\n0,1\n1,1\n2,0\n")
    return {"test/hemorrhage/000.png": None, "test/hemorrhage/001.png": None, "test/good/002.png": None}


def headct_papers(root: Path) -> Expected:
    folder = root / "HeadCT_anomaly_detection/brain/test"
    picture(folder / "defect/000.png", 0)
    picture(folder / "good/100.png", 1)
    return {"test/hemorrhage/000.png": None, "test/good/100.png": None}


YES = ("Y1.jpg", "Y2.JPG", "Y3.png", "Y10.jpg")
NO = ("1 no.jpeg", "no 1.jpg", "No11.jpg", "N1.JPG", "2no.jpg", "no.jpg")


def brainmri(root: Path, *, both: bool = True) -> Expected:
    """The same images in two trees; blanks in names, PNG called .jpg, grey, alpha, palette, one repeat."""
    for tree in (root, root / "brain_tumor_dataset") if both else (root / "brain_tumor_dataset",):
        for i, name in enumerate(YES):
            picture(tree / "yes" / name, i % 3, mode="L" if i == 2 else "RGB")
        shutil.copyfile(tree / "yes/Y1.jpg", tree / "yes/Y10.jpg")
        for i, name in enumerate(NO):
            kind = {0: {}, 1: {"mode": "RGBA", "format": "PNG"}, 2: {"mode": "P", "format": "PNG"}}.get(i, {})
            picture(tree / "no" / name, 10 + i, **kind)
    return {f"test/tumor/{name}": None for name in YES} | {f"test/good/{name}": None for name in NO}


def br35h(root: Path) -> Expected:
    """Two folders that are no class: unlabelled images, and copies for another task."""
    expected: Expected = {}
    for i, name in enumerate(("y0.jpg", "y1.jpg", "y10.jpg")):
        picture(root / "yes" / name, i)
        expected[f"test/tumor/{name}"] = None
    for i, name in enumerate(("no0.jpg", "No12.jpg")):
        picture(root / "no" / name, 10 + i, format="PNG" if i else "JPEG")
        expected[f"test/good/{name}"] = None
    picture(root / "pred/pred0.jpg", 20)
    (root / "Br35H-Mask-RCNN/TRAIN").mkdir(parents=True)
    shutil.copyfile(root / "yes/y0.jpg", root / "Br35H-Mask-RCNN/TRAIN/y0.jpg")
    (root / "Br35H-Mask-RCNN/annotations_all.json").write_text("{}")
    return expected


def covid_first(root: Path, *, n_covid: int = 2) -> Expected:
    """Names with blanks and brackets, one that looks like DICOM; a third class that the papers leave out."""
    folder = root / "COVID-19 Radiography Database"
    covid = [f"COVID-19 ({i}).png" for i in range(1, n_covid)] + ["1-s2.0-S1684118220300682-main.f2-p1.png"]
    normal = ["NORMAL (1).png", "NORMAL (2).png", "NORMAL (10).png"]
    for kind, names in (
        ("COVID-19", covid),
        ("NORMAL", normal),
        ("Viral Pneumonia", ["Viral Pneumonia (1).png"]),
    ):
        for i, name in enumerate(names):
            picture(folder / kind / name, hash_of(kind, i))
        with zipfile.ZipFile(
            folder / f"{kind}.metadata.xlsx", "w"
        ) as sheet:  # an archive that is no download
            sheet.writestr("[Content_Types].xml", "<Types/>")
    return {f"test/covid19/{n}": None for n in covid} | {f"test/good/{n}": None for n in normal}


def covid_present(root: Path) -> Expected:
    """Images and the lungs' masks, which are no anomalies, in folders of their own."""
    folder = root / "COVID-19_Radiography_Dataset"
    for kind in ("COVID", "Normal", "Lung_Opacity", "Viral Pneumonia"):
        for i in (1, 2):
            picture(folder / kind / f"images/{kind}-{i}.png", hash_of(kind, i), mode="L")
            outline(folder / kind / f"masks/{kind}-{i}.png", i)
    (folder / "README.md.txt").write_text("terms")
    return {
        f"test/{d}/{k}-{i}.png": None for d, k in (("covid19", "COVID"), ("good", "Normal")) for i in (1, 2)
    }


def hash_of(text: str, i: int) -> int:
    return sum(text.encode()) * 100 + i


# Sewer-ML and COCO

SEWER_ROWS = (("00000048", 1), ("00000059", 0), ("00000111", 0), ("01299740", 1))


def sewerml(root: Path, *, bom: bool = True, folder: str = "", whole: bool = True) -> Expected:
    """Two parts; not whole: one row has no image, one image no row. folder: prefix inside the parts."""
    root.mkdir(parents=True, exist_ok=True)
    header = "Filename,WaterLevel,VA,RB,ND,Defect"
    lines = [header, *(f"{number}.png,5,1,{label},{1 - label},{label}" for number, label in SEWER_ROWS)]
    (root / "SewerML_Val.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig" if bom else "utf-8")
    (root / "SewerML_Train.csv").write_text(f"{header}\n00000001.png,5,1,0,1,0\n")
    expected: Expected = {}
    for i, (number, label) in enumerate(SEWER_ROWS if whole else SEWER_ROWS[:3]):
        picture(root / f"valid0{i % 2}" / folder / f"{number}.png", i, (12 - i, 8))
        expected[f"test/{'defect' if label else 'good'}/{number}.png"] = None
    if not whole:
        picture(root / "valid01" / folder / "00000002.png", 30)
    return expected


CAPTIONS = [
    "A normal street. ",
    "An abnormal  clock\non a wall\n",
    "Damaged bus at a stop.",
    "Storm DAMAGE on a roof\n",
    "A normal street.",
    "A dog.",
]


def coco(root: Path) -> None:
    folder = root / "annotations"
    folder.mkdir(parents=True)
    annotations = [{"image_id": 1, "id": i, "caption": caption} for i, caption in enumerate(CAPTIONS)]
    for split in ("train", "val"):
        content = {"info": {}, "licenses": [], "images": [], "annotations": annotations}
        (folder / f"captions_{split}2017.json").write_text(json.dumps(content))
        (folder / f"instances_{split}2017.json").write_text(
            json.dumps({"annotations": [{"bbox": [0, 0, 1, 1]}]})
        )
