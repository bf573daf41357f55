"""Fabricated downloads of every dataset: few tiny images, in the real layouts, with their traps."""

import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from helpers import saved, written
from PIL import Image


@dataclass
class Download:
    """Each line of `files`: an image, `& its mask`, `-> its name in the prepared folder`.

    Braces stand for several names, = for the same name. texts: other files. outer: a folder around
    everything. values: of the masks' marked pixels, one after the other.
    """

    script: str
    files: str
    texts: dict[str, str] = field(default_factory=dict)
    outer: str = ""
    values: tuple[int, ...] = (255,)

    def write(self, root):
        """Returns {what the prepared folder calls an image: (the image's file, its mask's or None)}."""
        expected = {}
        for line in filter(None, map(str.strip, self.files.splitlines())):
            sources, _, target = line.partition(" -> ")
            image, _, mask = sources.partition(" & ")
            targets = expand(image if target == "=" else target)
            for i, name in enumerate(expand(image)):
                path, mask_path = root / self.outer / name, None
                draw(path, name)
                if mask:
                    mask_path = root / self.outer / expand(mask)[i]
                    draw_mask(mask_path, name, self.values[i % len(self.values)])
                if target:
                    expected[targets[i]] = path, mask_path
        for name, text in self.texts.items():
            written(root / self.outer / name, text)
        return expected


def expand(pattern):
    """All names that a pattern with braces stands for."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [name for part in found[1].split(",") for name in expand(head + part + tail)]


def size_of(name):
    """(W, H), never square."""
    seed = zlib.crc32(name.encode())
    return 12 + seed % 5, 7 + seed // 5 % 4


def draw(path, name, size=None):
    """Noise, different for each name. EXIF data of a JPEG ask for a rotation, a PNG may be of any mode."""
    seed, (width, height) = zlib.crc32(name.encode()), size or size_of(name)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    if path.suffix == ".png":
        saved(path, image.convert(("RGB", "L", "RGBA", "P")[seed % 4]))
    else:
        saved(path, image, **({"exif": exif} if path.suffix.lower() == ".jpg" else {}))


def draw_mask(path, name, value=255, size=None):
    """One rectangle, different for each name; a JPEG blurs its edge."""
    seed, (width, height) = zlib.crc32(name.encode()), size or size_of(name)
    pixels = np.zeros((height, width), np.uint8)
    pixels[1 + seed % 3 : 6, 2 : 6 + seed % 5] = value
    saved(path, Image.fromarray(pixels))


def mvtec_files(category, defect, name, suffix="_mask"):
    """The lines of one category: training, normal and anomalous test image are called alike."""
    return f"""
        {category}/{{train,test}}/good/000.png -> {name}/{{train,test}}/good/000.png
        {category}/test/{defect}/000.png & {category}/ground_truth/{defect}/000{suffix}.png -> \
{name}/test/{defect}/000.png"""


def btad_files(category, image, mask):
    return f"""
        {category}/{{train,test}}/ok/0000.{image} -> {category}/{{train,test}}/good/0000.{image}
        {category}/test/ko/{{0020,0022}}.{image} & {category}/ground_truth/ko/{{0020,0022}}.{mask} -> \
{category}/test/ko/{{0020,0022}}.{image}"""


def dagm_files(category):
    """One defective image in each split; the one of Train is left out."""
    return f"""
        {category}/Train/0004.PNG -> {category}/train/good/0004.PNG
        {category}/Train/0005.PNG & {category}/Train/Label/0005_label.PNG
        {category}/Test/0002.PNG -> {category}/test/good/0002.PNG
        {category}/Test/0003.PNG & {category}/Test/Label/0003_label.PNG -> {category}/test/defect/0003.PNG"""


def dagm_lists(*categories):
    rows = {"Train": (4, 5), "Test": (2, 3)}
    return {
        f"{category}/{split}/Label/Labels.txt": f"1\n{whole}\t0\t000{whole}.PNG\t0\t0\n"
        f"{defective}\t1\t000{defective}.PNG\t0\t000{defective}_label.PNG\n"
        for category in categories
        for split, (whole, defective) in rows.items()
    } | {f"{categories[0]}/Test/Thumbs.db": "no image"}


def polyp_files(images, masks):
    """1, 2 and 10, which a lexical order takes apart."""
    names = [f"/{{1,2,10}}{Path(folder).suffix}" for folder in (images, masks)]
    image, mask = (str(Path(folder).with_suffix("")) for folder in (images, masks))
    return f"{image}{names[0]} & {mask}{names[1]} -> colon/test/polyp{names[0]}"


def bundle(name):
    """A folder for each polyp set; of the others an image would not pair."""
    others = {"CVC-ClinicDB", "CVC-ColonDB", "Kvasir"} - {name}
    lines = [f"{other}/images/{{1,4}}.png\n{other}/masks/1.png" for other in sorted(others)]
    return "\n".join([*lines, polyp_files(f"{name}/images.png", f"{name}/masks.png")])


VISA_LIST = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0001.JPG,
candle,test,normal,candle/Data/Images/Normal/0000.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
candle,test,anomaly,candle/Data/Images/Anomaly/001.JPG,candle/Data/Masks/Anomaly/001.png
""".replace("\n", "\r\n")
VISA = """
    candle/Data/Images/Normal/0000.JPG -> candle/test/good/0000.JPG
    candle/Data/Images/Normal/0001.JPG -> candle/train/good/0001.JPG
    candle/Data/Images/Anomaly/{000,001}.JPG & candle/Data/Masks/Anomaly/{000,001}.png -> \
candle/test/bad/{000,001}.JPG"""
IMAGES, MASKS = "ISBI2016_ISIC_Part1_Test_Data", "ISBI2016_ISIC_Part1_Test_GroundTruth"
ELECTRICAL = "electrical commutators"
SKIN = (
    f"{IMAGES}/ISIC_{{03,12}}.jpg & {MASKS}/ISIC_{{03_Segmentation,12_segmentation}}.png"
    " -> skin/test/lesion/ISIC_{03,12}.jpg\nISBI2016_ISIC_Part1_Training_Data/ISIC_00.jpg"
)
YES, NO = "{Y1.jpg,Y2.JPG,Y3.png,Y10.jpg}", "{1 no.jpeg,no 1.jpg,No11.jpg}"
BRAIN = f"yes/{YES} -> brain/test/tumor/{YES}\nno/{NO} -> brain/test/good/{NO}"
FIRST = """
    COVID/{COVID-19 (1),1-s2.0-S1684118220300682-main.f2-p1}.png -> \
chest/test/covid19/{COVID-19 (1),1-s2.0-S1684118220300682-main.f2-p1}.png
    NORMAL/NORMAL ({1,2,10}).png -> chest/test/good/NORMAL ({1,2,10}).png"""
SEWER = """
    valid00/valAll/00000048.png -> sewer/test/defect/00000048.png
    valid00/valAll/00000059.png -> sewer/test/good/00000059.png
    valid01/00000111.png -> sewer/test/good/00000111.png"""
SEWER_LIST = "Filename,WaterLevel,Defect\n00000048.png,5,1\n00000059.png,5,0\n00000111.png,5,0\n"

BOTTLE = mvtec_files("bottle", "broken", "bottle")
MVTEC = BOTTLE + mvtec_files("metal_nut", "bent", "metal_nut")
BTAD = btad_files("01", "bmp", "png") + btad_files("02", "png", "png") + btad_files("03", "bmp", "bmp")
DAGM = ("Class1", "Class10", "Class9")
TN3K = """
    tn3k/test-image/{0000,0001}.jpg & tn3k/test-mask/{0000,0001}.jpg -> thyroid/test/nodule/{0000,0001}.jpg
    tn3k/trainval-image/0000.jpg & tn3k/trainval-mask/0000.jpg
    tg3k/thyroid-image/0000.jpg"""
HEADS = "head_ct/head_ct/{000,001,002}.png -> brain/test/{hemorrhage/000,hemorrhage/001,good/002}.png"
REPACKED = "{defect/000,good/100}.png -> brain/test/{hemorrhage/000,good/100}.png"
ENDO = polyp_files("images.jpg", "masks.png") + "\nbbox/preview.jpg"
UPDATE = FIRST.replace("COVID/", "COVID-19/") + "\nViral Pneumonia/Viral Pneumonia (1).png"
PRESENT = """
    COVID/images/COVID-{1,2}.png -> chest/test/covid19/COVID-{1,2}.png
    Normal/images/Normal-{1,2}.png -> chest/test/good/Normal-{1,2}.png
    {COVID,Normal,Viral Pneumonia}/masks/1.png
    Viral Pneumonia/images/1.png"""

DOWNLOADS = [
    Download("mvtec", MVTEC, {"readme.txt": "terms", "bottle/readme.txt": "terms"}),
    Download("mvtec", BOTTLE, outer="a/b/MVTecAD"),
    Download("mpdd", mvtec_files("tubes", "flattening", "tubes"), outer="MPDD"),
    Download("dtd_synthetic", mvtec_files("Woven_001", "bad", "Woven_001"), outer="DTD-Synthetic"),
    Download("dtd_synthetic", mvtec_files("woven_001", "bad", "Woven_001", ""), outer="DTD-Synthetic"),
    Download("btad", BTAD, outer="BTech_Dataset_transformed", values=(128, 0)),
    Download("visa", VISA, {"split_csv/1cls.csv": VISA_LIST}, values=(1, 3)),
    Download("visa", mvtec_files("candle", "bad", "candle", suffix=""), outer="1cls"),
    Download("sdd", mvtec_files(ELECTRICAL, "defect", ELECTRICAL), outer="SDD"),
    Download("sdd", mvtec_files("electrical_commutators", "defect", ELECTRICAL), outer="SDD"),
    Download("dagm", "".join(map(dagm_files, DAGM)), dagm_lists(*DAGM)),
    Download("dagm", dagm_files("Class1"), dagm_lists("Class1"), outer="DAGM_KaggleUpload"),
    Download("isic", SKIN, {f"{MASKS}.csv": "ISIC_03,0.0\n"}),
    Download("isic", SKIN, outer="ISBI/skin/test"),
    Download("cvc_clinicdb", polyp_files("Original.tif", "Ground Truth.tif"), {"README.txt": "terms"}),
    Download("cvc_clinicdb", bundle("CVC-ClinicDB"), outer="Polyp_DataSet"),
    Download("cvc_colondb", polyp_files("images.png", "masks.png"), outer="CVC-ColonDB"),
    Download("cvc_colondb", bundle("CVC-ColonDB"), outer="Polyp_DataSet"),
    Download("kvasir", polyp_files("images.jpg", "masks.jpg"), {"boxes.json": "{}"}, outer="a/b/Kvasir-SEG"),
    Download("kvasir", bundle("Kvasir"), outer="Polyp_DataSet"),
    Download("endo", ENDO, {"bbox/1.csv": "polyp,2,1,5,4\n"}, "EndoTect_2020_Segmentation_Test_Dataset"),
    Download("tn3k", TN3K, {"tn3k/label4test.csv": "0000.jpg,0\n"}, outer="Thyroid Dataset"),
    Download("headct", HEADS, {"labels.csv": "id, hemorrhage\n0,1\n1,1\n2,0\n"}),
    Download("headct", REPACKED, outer="HeadCT_anomaly_detection/brain/test"),
    Download("brainmri", f"{BRAIN}\nbrain_tumor_dataset/{{yes/{YES},no/{NO}}}"),
    Download("brainmri", BRAIN, outer="brain_tumor_dataset"),
    Download("br35h", f"{BRAIN}\npred/pred0.jpg\nBr35H-Mask-RCNN/TRAIN/y0.jpg"),
    Download("covid19", UPDATE, outer="COVID-19 Radiography Database"),
    Download("covid19", FIRST, outer="COVID-19_Radiography_Dataset"),  # as AnomalyCLIP's code wants it
    Download("covid19", PRESENT, outer="COVID-19_Radiography_Dataset"),
    Download("sewerml", SEWER, {"SewerML_Val.csv": "\ufeff" + SEWER_LIST, "SewerML_Train.csv": "Filename\n"}),
    Download("sewerml", SEWER, {"SewerML_Val.csv": SEWER_LIST}),
]  # fmt: skip
