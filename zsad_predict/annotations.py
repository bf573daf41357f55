"""Labels and masks that somebody has for a folder of images, and the metrics that become possible.

A metric without a value, because one class is missing, is said to be undefined and never left out.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
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
from zsad_predict.files import ImageFile, find_files
from zsad_predict.result import Result, ScoredImage, silent

GOOD = ("good", "ok", "normal")
"""Names of folders of normal images."""
WORDS = {
    **dict.fromkeys(("0", "normal", "good", "ok", "false"), 0),
    **dict.fromkeys(("1", "anomalous", "anomaly", "abnormal", "defect", "defective", "bad", "ng", "true"), 1),
}
"""What a label may be called in a CSV file, in any case."""


@dataclass(frozen=True)
class Annotations:
    """What is known of the images.

    files: the files to score, when the folder is a prepared one; else None. source: where labels come from,
    for the reader. labels: by file name; None: by the names of folders. masks: of a prepared folder, by the
    image's name; of a folder of masks, by the path there without suffix and without "_mask". An image
    without a mask has nothing anomalous in it.
    """

    files: list[ImageFile] | None = None
    source: str = ""
    labels: Mapping[str, int] | None = field(default_factory=dict)
    masks: Mapping[str, Path] | None = None

    def labels_of(self, names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
        """Labels of the images that have one, and the names with a label that are no image's, or
        several's."""
        if self.labels is None:
            parents = {name: [part.casefold() for part in PurePosixPath(name).parts[:-1]] for name in names}
            return {name: int(not set(GOOD) & set(own)) for name, own in parents.items() if own}, []
        by_bare_name = defaultdict(list)
        for name in names:
            by_bare_name[PurePosixPath(name).name].append(name)
        known, found, lost = set(names), {}, []
        for name, label in self.labels.items():
            owners = [name] if name in known else by_bare_name[name]
            if len(owners) == 1:
                found[owners[0]] = label
            else:
                lost.append(name)
        return found, sorted(lost)

    def masks_of(self, names: Sequence[str]) -> dict[str, Path | BadImage]:
        """The mask of each image that has one, or why it is unclear which.

        `crack/001.png` has the mask `crack/001.png`, `crack/001_mask.png` or, if no other image is called
        001, `001.png` or `001_mask.png`.
        """
        if self.files is not None:
            return {name: self.masks[name] for name in names if name in self.masks}
        times = Counter(PurePosixPath(name).stem for name in names)
        owners = defaultdict(list)
        for name in names:
            stem = PurePosixPath(name).with_suffix("")
            path = self.masks.get(str(stem))
            if path is None and times[stem.name] == 1:
                path = self.masks.get(stem.name)
            owners[path].append(name)
        owners.pop(None, None)
        found: dict[str, Path | BadImage] = {}
        for path, own in owners.items():
            both = f"the mask {path.name} could belong to {' or '.join(own)}: rename one"
            found |= dict.fromkeys(own, path if len(own) == 1 else BadImage("", both))
        return found


def read_annotations(
    folder: Path, labels: str | Path | None = None, masks: str | Path | None = None
) -> Annotations:
    """What is known of the images below a folder.

    labels: "folders": below a folder called good, ok or normal an image is normal, below any other it is
        anomalous, and directly in the folder it has no label. Or a CSV file with the columns file (the path
        below the folder, or the bare name where that is unique) and label (0 or 1, or a word of `WORDS`).
    masks: a folder of masks, see `Annotations.masks_of`; anomalous where they are not black. Without labels
    an
        image is anomalous if its mask marks anything.
    A prepared folder, one with this book's meta.csv, has both for its test split, and is scored on that.
    """
    known = None if masks is None else _masks_below(masks)
    if str(labels) == "folders":
        return Annotations(None, "the names of the sub-folders", None, known)
    if labels is not None:
        return Annotations(None, f"the file {Path(labels).name}", read_labels(Path(labels)), known)
    if known is not None:
        return Annotations(None, "the masks", {}, known)
    if not _is_prepared(folder):
        return Annotations()
    part = load_dataset(folder).select(split="test")
    names = part.meta["image"].tolist()
    files = [ImageFile(name, folder / name) for name in sorted(names)]
    paths = {name: folder / mask for name, mask in zip(names, part.meta["mask"], strict=True) if mask}
    by_name = dict(zip(names, part.labels.tolist(), strict=True))
    return Annotations(files, "meta.csv, its test split", by_name, paths if part.has_masks else None)


def read_labels(file: Path) -> dict[str, int]:
    """Labels by file name. Raises ValueError for other columns, unknown words, or a file that is listed with
    two labels; FileNotFoundError."""
    if not file.is_file():
        raise FileNotFoundError(f"no file of labels {file}: give a CSV file, or the word folders")
    try:
        table = pd.read_csv(
            file, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True
        )
    except ValueError as error:  # of pandas, or an encoding that is not UTF-8
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


def with_metrics(
    result: Result, known: Annotations, map_size: int | None, *, progress: bool = True
) -> Result:
    """The result with labels, metrics and, of masks that do not fit, errors in their image's row."""
    if known.labels == {} and known.masks is None:
        return result
    table, messages = result.table.copy(), list(result.messages)
    names, ok = table["file"].tolist(), table["status"] == "scored"
    labels, lost = known.labels_of(names)
    if lost:
        messages.append(f"{len(lost)} labels belong to no file in the folder, the first is {lost[0]}.")
    histogram = PixelHistogram()
    if known.masks is not None:
        paths = known.masks_of(names)
        unused = len(known.masks) - len({path for path in paths.values() if isinstance(path, Path)})
        if unused and known.files is None:
            messages.append(f"{unused} masks belong to no image, by name.")
        for scored in tqdm(result.scored_images(), total=int(ok.sum()), desc="masks", **silent(progress)):
            name = names[scored.row]
            try:
                mask = _mask(paths.get(name), scored.size)
                if known.labels == {}:
                    labels[name] = int(mask.any())
                if labels.get(name) == 1 and name not in paths:
                    raise BadImage("", "it is labelled anomalous and has no mask")
                if result.has_maps:
                    _add(histogram, mask, result, scored, map_size)
            except BadImage as error:
                table.loc[scored.row, "error"] = f"not among the pixel metrics: {error}"
    table["label"] = table["file"].map(labels).astype("Int64")
    own = table[ok & table["label"].notna()]
    if len(own) < ok.sum():
        number = int(ok.sum()) - len(own)
        messages.append(f"{number} scored images have no label, and do not count in the metrics.")
    rows = _image_metrics(own, known.source)
    rows += [] if known.masks is None else _pixel_metrics(histogram)
    metrics = pd.DataFrame(rows, columns=["task", "metric", "value", "note"])
    return replace(result, table=table, metrics=metrics, messages=tuple(messages))


def _masks_below(folder: str | Path) -> dict[str, Path]:
    """Raises as `files.find_files`, and ValueError if there are none."""
    paths: dict[str, Path] = {}
    for file in find_files(folder).files:
        if not file.status:
            stem = PurePosixPath(file.name).with_suffix("")
            key = str(stem.with_name(stem.name.removesuffix("_mask") or stem.name))
            if key in paths:
                raise ValueError(f"two masks of {key}: {paths[key].name} and {file.path.name}; keep one")
            paths[key] = file.path
    if not paths:
        raise ValueError(f"no masks in {folder}: expected images, each called like the one it belongs to")
    return paths


def _mask(path: Path | BadImage | None, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool; nothing marked without a mask. Raises BadImage for one that cannot be used."""
    if path is None:
        return np.zeros(size, bool)
    if isinstance(path, BadImage):
        raise path
    try:
        return read_mask(path, size=size[::-1], upright=True)
    except BadImage as error:
        raise BadImage("", error.reason, f"its mask {path.name}") from None
    except OSError as error:
        raise BadImage("", f"its mask {path.name} cannot be opened: {error.strerror or error}") from None


def _add(
    histogram: PixelHistogram, mask: np.ndarray, result: Result, scored: ScoredImage, map_size: int | None
) -> None:
    size = scaled_size(*scored.size, map_size)
    histogram.add(stretched_mask(mask, size), result.map(scored, size))


def _image_metrics(own: pd.DataFrame, source: str) -> list[tuple]:
    labels, scores = own["label"].to_numpy(int), own["score"].to_numpy()
    flagged, normal, anomalous = (own["decision"] == "anomalous").to_numpy(), labels == 0, labels == 1
    note = f"{normal.sum()} normal and {anomalous.sum()} anomalous images, labels from {source}"
    defined = normal.any() and anomalous.any()
    if not defined:
        kind = "" if own.empty else "anomalous " if normal.any() else "normal "
        note = f"undefined: no {kind}image has a label"
    metrics = {"auroc": auroc, "ap": aupr, "f1max": f1_max}
    rows = [("image", name, f(labels, scores) if defined else math.nan, note) for name, f in metrics.items()]
    for name, part, whole, missing in (
        ("precision", flagged & anomalous, flagged, "labelled image is above the threshold"),
        ("recall", flagged & anomalous, anomalous, "anomalous image has a label"),
        ("false_alarms", flagged & normal, normal, "normal image has a label"),
    ):
        value = part.sum() / whole.sum() if whole.any() else math.nan
        note = (
            f"{part.sum()} of {whole.sum()}, at the threshold" if whole.any() else f"undefined: no {missing}"
        )
        rows.append(("image", name, value, note))
    return rows


def _pixel_metrics(histogram: PixelHistogram) -> list[tuple]:
    names = ("auroc", "pro", "f1max")
    if not histogram.images:
        return [("pixel", name, math.nan, "undefined: no image has a mask that fits") for name in names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        found = histogram.metrics()
    note = "undefined: one kind of pixel only" if math.isnan(found[0]) else f"{histogram.images} images"
    return [("pixel", name, value, note) for name, value in zip(names, found, strict=True)]


def _is_prepared(folder: Path) -> bool:
    try:
        return sorted(pd.read_csv(folder / "meta.csv", nrows=0).columns) == sorted(COLUMNS)
    except (OSError, ValueError):
        return False
