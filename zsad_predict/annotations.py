"""Labels and masks that somebody has for a folder of images, and the metrics that become possible.

A metric without a value, because one class is missing, is said to be undefined and never left out.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from sklearn.exceptions import UndefinedMetricWarning
from tqdm import tqdm

from zsad_core.datasets import COLUMNS, load_dataset, stretched_mask
from zsad_core.images import BadImage, read_mask
from zsad_core.maps import scaled_size
from zsad_core.metrics import aupr, auroc, f1_max
from zsad_core.pixel_metrics import PixelHistogram
from zsad_predict.files import Entry, find_files
from zsad_predict.result import Look, Result, silent

GOOD = ("good", "ok", "normal")
"""Names of folders of normal images."""
WORDS = {
    **dict.fromkeys(("0", "normal", "good", "ok", "false"), 0),
    **dict.fromkeys(("1", "anomalous", "anomaly", "abnormal", "defect", "defective", "bad", "ng", "true"), 1),
}
"""What a label may be called in a CSV file, in any case."""


@dataclass(frozen=True)
class Truth:
    """What is known of the images.

    entries: the files to score, when the folder is a prepared one; else None. source: where labels come from,
    for the reader. labels: by file name; None: by the names of folders. masks: their folder's, by the path
    without suffix and without "_mask"; or, of a prepared folder, by the image's own name. An image without a
    mask has nothing anomalous in it.
    """

    entries: list[Entry] | None = None
    source: str = ""
    labels: Mapping[str, int] | None = field(default_factory=dict)
    masks: Mapping[str, Path] | None = None

    def label(self, name: str) -> int | None:
        if self.labels is not None:
            return self.labels.get(name)
        folders = [part.casefold() for part in PurePosixPath(name).parts[:-1]]
        return int(not any(part in GOOD for part in folders)) if folders else None

    def masks_of(self, names: Sequence[str]) -> dict[str, Path | BadImage]:
        """The mask of each image that has one, or why it cannot be told which.

        `crack/001.png` has the mask `crack/001.png`, `crack/001_mask.png` or, if no other image is called
        001, `001.png` or `001_mask.png`.
        """
        if self.entries is not None:
            return {name: self.masks[name] for name in names if name in self.masks}
        times = Counter(PurePosixPath(name).stem for name in names)
        owners: dict[Path, list[str]] = {}
        for name in names:
            stem = PurePosixPath(name).with_suffix("")
            path = self.masks.get(str(stem))
            if path is None and times[stem.name] == 1:
                path = self.masks.get(stem.name)
            if path is not None:
                owners.setdefault(path, []).append(name)
        found: dict[str, Path | BadImage] = {}
        for path, own in owners.items():
            both = f"the mask {path.name} could belong to {' or '.join(own)}: rename one"
            found |= {name: path if len(own) == 1 else BadImage("", both) for name in own}
        return found


def read_truth(folder: Path, labels: str | Path | None = None, masks: str | Path | None = None) -> Truth:
    """What is known of the images below a folder.

    labels: "folders": below a folder called good, ok or normal an image is normal, below any other it is
        anomalous, and directly in the folder it has no label. Or a CSV file with the columns file (the path
        below the folder, or the bare name where that is unique) and label (0 or 1, or a word of `WORDS`).
    masks: a folder of masks, see `Truth.masks_of`; anomalous where they are not black. Without labels an
        image is anomalous if its mask marks anything.
    A prepared folder, one with this book's meta.csv, has both for its test split, and is scored on that.
    """
    known = None if masks is None else _masks_below(masks)
    if labels is not None:
        if str(labels) == "folders":
            return Truth(None, "the names of the sub-folders", None, known)
        return Truth(None, f"the file {Path(labels).name}", read_labels(Path(labels)), known)
    if known is not None:
        return Truth(None, "the masks", {}, known)
    if not _is_prepared(folder):
        return Truth()
    part = load_dataset(folder).select(split="test")
    entries = [Entry(name, folder / name) for name in sorted(part.meta["image"])]
    marked = part.meta[part.meta["mask"] != ""]
    paths = {name: folder / mask for name, mask in zip(marked["image"], marked["mask"], strict=True)}
    labels = dict(zip(part.meta["image"], part.labels.tolist(), strict=True))
    return Truth(entries, "meta.csv, its test split", labels, paths if part.has_masks else None)


def read_labels(file: Path) -> dict[str, int]:
    """Labels by file name. Raises ValueError for other columns, unknown words, or a file that is listed with
    two labels; FileNotFoundError."""
    if not file.is_file():
        raise FileNotFoundError(f"no file of labels {file}: give a CSV file, or the word folders")
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a CSV file with the columns file and label: {error}") from None
    if not {"file", "label"} <= set(table.columns):
        raise ValueError(f"{file} has the columns {', '.join(table.columns)}: expected file and label")
    words = table["label"].str.strip().str.casefold()
    unknown = sorted(set(words) - set(WORDS))
    if unknown:
        raise ValueError(
            f"{file}: unknown labels {', '.join(unknown[:5])}: expected 0 (normal) and 1 (anomalous)"
        )
    found: dict[str, int] = {}
    for name, word in zip(table["file"].str.replace("\\", "/").str.removeprefix("./"), words, strict=True):
        if found.setdefault(name, WORDS[word]) != WORDS[word]:
            raise ValueError(f"{file}: {name} is listed as normal and as anomalous")
    return found


def with_metrics(result: Result, truth: Truth, map_size: int | None, *, progress: bool = True) -> Result:
    """The result with labels, metrics and, of masks that do not fit, errors in their image's row."""
    if truth.labels == {} and truth.masks is None:
        return result
    table = result.table.copy()
    ok = table["status"] == "scored"
    labels, lost = _matched(truth, table["file"].tolist())
    messages = list(result.messages)
    if lost:
        messages.append(
            f"{len(lost)} labels belong to no file in the folder, the first is {sorted(lost)[0]}."
        )
    histogram = None
    if truth.masks is not None:
        histogram = PixelHistogram()
        paths = truth.masks_of(table["file"].tolist())
        unused = len(truth.masks) - len({path for path in paths.values() if isinstance(path, Path)})
        if unused and truth.entries is None:
            messages.append(f"{unused} masks belong to no image, by name.")
        for look in tqdm(result.looks(), total=int(ok.sum()), desc="masks", **silent(progress)):
            name, size = table["file"][look.place], tuple(look.dense.sizes[look.number].tolist())
            try:
                mask = _mask(paths.get(name), size)
                if truth.labels == {}:
                    labels[name] = int(mask is not None and mask.any())
                if labels.get(name) == 1 and mask is None:
                    raise BadImage("", "it is labelled anomalous and has no mask")
                if result.has_maps:
                    _add(histogram, mask, result, look, size, map_size)
            except BadImage as error:
                table.loc[look.place, "error"] = f"not among the pixel metrics: {error}"
    table["label"] = table["file"].map(labels).astype("Int64")
    own = table[ok & table["label"].notna()]
    without = int(ok.sum()) - len(own)
    if without:
        messages.append(f"{without} scored images have no label, and do not count in the metrics.")
    rows = _image_metrics(own, truth.source) + ([] if histogram is None else _pixel_metrics(histogram))
    return replace(result, table=table, metrics=pd.DataFrame(rows), messages=tuple(messages))


def _matched(truth: Truth, names: list[str]) -> tuple[dict[str, int], set[str]]:
    """Labels by the folder's names, and names of labels that found no file."""
    if truth.labels is None:
        return {name: label for name in names if (label := truth.label(name)) is not None}, set()
    bare: dict[str, list[str]] = {}
    for name in names:
        bare.setdefault(PurePosixPath(name).name, []).append(name)
    known, lost = set(names), set()
    found = {}
    for name, label in truth.labels.items():
        same = [name] if name in known else bare.get(name, [])
        if len(same) == 1:
            found[same[0]] = label
        else:
            lost.add(name)
    return found, lost


def _masks_below(folder: str | Path) -> dict[str, Path]:
    """Raises as `files.find_files`, and ValueError if there are none."""
    paths: dict[str, Path] = {}
    for entry in find_files(folder).entries:
        if not entry.status:
            stem = PurePosixPath(entry.name).with_suffix("")
            key = str(stem.with_name(stem.name.removesuffix("_mask") or stem.name))
            if key in paths:
                raise ValueError(f"two masks of {key}: {paths[key].name} and {entry.path.name}; keep one")
            paths[key] = entry.path
    if not paths:
        raise ValueError(f"no masks in {folder}: expected images, each called like the one it belongs to")
    return paths


def _mask(path: Path | BadImage | None, size: tuple[int, int]) -> np.ndarray | None:
    """(h, w) bool; None without a mask. Raises BadImage for one that cannot be used."""
    if path is None:
        return None
    if isinstance(path, BadImage):
        raise path
    try:
        mask = read_mask(path, upright=True)
    except BadImage as error:
        raise BadImage("", error.reason, f"its mask {path.name}") from None
    except OSError as error:
        raise BadImage("", f"its mask {path.name} cannot be opened: {error.strerror or error}") from None
    if mask.shape != size:
        (height, width), (own_height, own_width) = size, mask.shape
        raise BadImage(
            "",
            f"its mask {path.name} is {own_width} x {own_height} (W x H), the image {width} x {height}: "
            "expected equal sizes",
        )
    return mask


def _add(
    histogram: PixelHistogram,
    mask: np.ndarray | None,
    result: Result,
    look: Look,
    size: tuple[int, int],
    map_size: int | None,
) -> None:
    size = scaled_size(*size, map_size)
    mask = np.zeros(size, bool) if mask is None else stretched_mask(mask, size)
    histogram.add(mask, result.map(look, size))


def _image_metrics(own: pd.DataFrame, source: str) -> list[dict]:
    labels, scores = own["label"].to_numpy(int), own["score"].to_numpy()
    flagged = (own["decision"] == "anomalous").to_numpy()
    normal, anomalous = int((labels == 0).sum()), int((labels == 1).sum())
    both = normal > 0 and anomalous > 0
    missing = f"undefined: no {'anomalous' if normal else 'normal'} image has a label"
    if not len(own):
        missing = "undefined: no image has a label"
    counts = f"{normal} normal and {anomalous} anomalous images, labels from {source}"
    rows = []
    for name, metric in (("auroc", auroc), ("ap", aupr), ("f1max", f1_max)):
        value = metric(labels, scores) if both else math.nan
        rows.append(_row("image", name, value, counts if both else missing))
    hits = int((flagged & (labels == 1)).sum())
    shares = (
        ("precision", hits, int(flagged.sum()), "undefined: no labelled image is above the threshold"),
        ("recall", hits, anomalous, "undefined: no anomalous image has a label"),
        (
            "false_alarms",
            int((flagged & (labels == 0)).sum()),
            normal,
            "undefined: no normal image has a label",
        ),
    )
    for name, part, whole, undefined in shares:
        value, note = (
            (part / whole, f"{part} of {whole}, at the threshold") if whole else (math.nan, undefined)
        )
        rows.append(_row("image", name, value, note))
    return rows


def _pixel_metrics(histogram: PixelHistogram) -> list[dict]:
    if not histogram.images:
        found, note = [math.nan] * 3, "undefined: no image has a mask that fits"
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            found = [histogram.pixel_auroc().value, histogram.aupro().value, histogram.f1_max().value]
        note = (
            f"{histogram.images} images" if not math.isnan(found[0]) else "undefined: one kind of pixel only"
        )
    return [
        _row("pixel", name, value, note) for name, value in zip(("auroc", "pro", "f1max"), found, strict=True)
    ]


def _row(task: str, metric: str, value: float, note: str) -> dict:
    return {"task": task, "metric": metric, "value": value, "note": note}


def _is_prepared(folder: Path) -> bool:
    try:
        with (folder / "meta.csv").open(encoding="utf-8-sig") as file:
            return sorted(file.readline().strip().split(",")) == sorted(COLUMNS)
    except (OSError, UnicodeDecodeError):
        return False
