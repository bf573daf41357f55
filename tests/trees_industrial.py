"""Fabricated downloads of the industrial datasets: few, tiny images, in the layouts and with their traps."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def image(path: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> None:
    """Noise that depends on the path below the folder `raw`; size is (W, H)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(path.as_posix().split("/raw/")[-1].encode())
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def mask_of(size: tuple[int, int] = (6, 4), value: int = 255, top: int = 1, bottom: int = 3) -> np.ndarray:
    """`value` in the rows from top to bottom, not in the first column; 0 elsewhere."""
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[top:bottom, 1:] = value
    return pixels


def mask(path: Path, pixels: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask_of() if pixels is None else pixels).save(path)


def mvtec_category(root: Path, defects: tuple[str, ...], mode: str = "RGB", suffix: str = "_mask") -> None:
    """One training and one normal test image, and one image of each defect; all are called 000.png."""
    for folder in ("train/good", "test/good", *(f"test/{defect}" for defect in defects)):
        image(root / folder / "000.png", mode)
    for defect in defects:
        mask(root / f"ground_truth/{defect}/000{suffix}.png")


def mvtec(root: Path) -> Path:
    """No outer folder, a grey category, text files at both levels."""
    mvtec_category(root / "bottle", ("broken_large", "contamination"))
    mvtec_category(root / "metal_nut", ("bent", "flip"), mode="L")
    for name in ("readme.txt", "license.txt", "bottle/readme.txt"):
        (root / name).write_text("terms")
    return root


def mpdd(root: Path) -> Path:
    mvtec_category(root / "MPDD/tubes", ("anomalous", "flattening"))
    return root


def dtd(root: Path, suffix: str = "_mask", lower: bool = False) -> Path:
    for name, mode in (("Woven_001", "RGB"), ("Blotchy_099", "L")):
        mvtec_category(root / "DTD-Synthetic" / (name.lower() if lower else name), ("bad",), mode, suffix)
    image(root / "DTD-Synthetic/extra.png")
    return root


def btad(root: Path) -> Path:
    """Three pairs of extensions, a gap in the numbers, masks that are 128 only or empty, not square."""
    for category, extension, of_mask in (("01", "bmp", "png"), ("02", "png", "png"), ("03", "bmp", "bmp")):
        product = root / "BTech_Dataset_transformed" / category
        size = (8, 6) if category == "03" else (6, 6)
        for name in ("train/ok/0000", "test/ok/0000", "test/ko/0020", "test/ko/0022"):
            image(product / f"{name}.{extension}", size=size)
        mask(product / f"ground_truth/ko/0020.{of_mask}", mask_of(size, value=128))
        mask(product / f"ground_truth/ko/0022.{of_mask}", mask_of(size, value=0))
    return root


def visa(root: Path) -> Path:
    """Two categories with normal names of 4 and 3 digits, index masks 1 and 3, a list with CRLF ends."""
    lines = ["object,split,label,image,mask"]
    for category, digits in (("candle", 4), ("capsules", 3)):
        for i, split in enumerate(("train", "test")):
            name = f"{category}/Data/Images/Normal/{i:0{digits}d}.JPG"
            image(root / name, size=(9, 7))
            lines.append(f"{category},{split},normal,{name},")
        for i, index in enumerate((1, 3)):
            name = f"{category}/Data/Images/Anomaly/{i:03d}.JPG"
            label = f"{category}/Data/Masks/Anomaly/{i:03d}.png"
            image(root / name, size=(9, 7))
            mask(root / label, mask_of((9, 7), value=index))
            lines.append(f"{category},test,anomaly,{name},{label}")
        (root / category / "image_anno.csv").write_text('image,label,mask\nx,"melt, scratch",y\n')
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode())
    (root / "split_csv/2cls_fewshot.csv").write_text("object,split,label,image,mask\n")
    return root


def visa_reorganised(root: Path) -> Path:
    for category in ("candle", "capsules"):
        for folder in ("train/good", "test/good", "test/bad"):
            image(root / "1cls" / category / folder / "000.JPG")
        mask(root / "1cls" / category / "ground_truth/bad/000.png")
    return root


def sdd(root: Path) -> Path:
    """Items of 8 and 7 parts, height 25. One defect crosses the middle, one is in the lower half only."""
    for item, parts in (("kos01", 8), ("kos21", 7)):
        for part in range(parts):
            image(root / item / f"Part{part}.jpg", "L", (10, 25))
            rows = {("kos01", 2): (10, 15), ("kos21", 3): (12, 14)}.get((item, part), (0, 0))
            mask(root / item / f"Part{part}_label.bmp", mask_of((10, 25), 255, *rows))
    return root


def sdd_of_the_papers(root: Path, blank: str = " ") -> Path:
    folder = root / "SDD" / f"electrical{blank}commutators"
    for kind, name in (("train/good", 0), ("test/good", 1), ("test/defect", 5), ("ground_truth/defect", 5)):
        write = mask if kind.startswith("ground_truth") else image
        write(folder / kind / f"kos01_Part{name}_0.png")
    return root


def dagm(root: Path, outer: str = "DAGM_KaggleUpload/{0}") -> Path:
    """Class10 beside Class9; one defective image in each split, listed; a file that is no image."""
    for category in ("Class1", "Class9", "Class10"):
        for split, numbers in (("Train", (4, 5, 6)), ("Test", (1, 2, 3))):
            folder = root / outer.format(category) / split
            rows = ["1"]
            for number in numbers:
                image(folder / f"{number:04d}.PNG", "L", (8, 8))
                rows.append(f"{number}\t0\t{number:04d}.PNG\t0\t0")
            rows[-1] = f"{number}\t1\t{number:04d}.PNG\t0\t{number:04d}_label.PNG"
            mask(folder / f"Label/{number:04d}_label.PNG", mask_of((8, 8)))
            (folder / "Label/Labels.txt").write_text("\n".join(rows) + "\n")
            (folder / "Thumbs.db").write_bytes(b"no image")
    return root


def pack(make: Callable[[Path], Path], folder: Path, name: str) -> Path:
    """The tree as an archive `folder`/`name`, zip, tar or tar.xz; returns `folder`."""
    tree = make(folder)
    kind = {"zip": "zip", "tar": "tar", "xz": "xztar"}[name.rsplit(".", 1)[1]]
    packed = shutil.make_archive(str(folder.with_name("packed")), kind, tree)
    shutil.rmtree(tree)
    folder.mkdir()
    Path(packed).rename(folder / name)
    return folder
