"""Labels and masks for a folder of images, and the metrics that need them, undefined without both classes."""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from zsad_core.datasets import stretched_mask
from zsad_core.images import BadImage, read_mask
from zsad_core.metrics import UndefinedMetricWarning, aupr, auroc, f1_max
from zsad_core.pixel_metrics import PixelHistogram, scaled_size
from zsad_predict.files import find_files
from zsad_predict.result import Result, silent

GOOD = ("good", "ok", "normal")  # folders of normal images
WORDS = {  # for labels in a CSV file, in any case
    **dict.fromkeys(("0", "normal", "good", "ok", "false"), 0),
    **dict.fromkeys(("1", "anomalous", "anomaly", "abnormal", "defect", "defective", "bad", "ng", "true"), 1),
}


class Annotations(NamedTuple):
    """Labels and masks by image name. source: where labels come from, for the reader.
    labels: None if they follow from the masks. masks: None without any; else a path, or the reason why the
    mask is unclear. An image without a mask has no anomalous pixel. messages: for the user."""

    source: str
    labels: Mapping[str, int] | None
    masks: Mapping[str, Path | BadImage] | None
    messages: Sequence[str] = ()


def read_annotations(
    names: Sequence[str], labels: str | Path | None = None, masks: str | Path | None = None
) -> Annotations | None:
    """Read labels and masks; None without both. names: the images' paths below the folder.

    labels: "folders": below a folder called good, ok or normal an image is normal, below any other it is
        anomalous, and directly in the folder it has no label. Or a CSV file with the columns file (the path
        below the folder, or the bare name where that is unique) and label (0 or 1, or a word of `WORDS`).
    masks: a folder of masks, anomalous where they are not black. `crack/001.png` has the mask
        `crack/001.png`, `crack/001_mask.png`, or `001.png` or `001_mask.png` if no other image is called 001.
        Without labels an image is anomalous if its mask marks anything."""
    found, messages = None, []
    if masks is not None:
        paths, found = _masks_below(masks), {}
        stems = {name: str(PurePosixPath(name).with_suffix("")) for name in names}
        for key, own in _owners(paths, stems).items():
            both = f"the mask {paths[key].name} could belong to {' or '.join(own)}: rename one"
            found |= dict.fromkeys(own, paths[key] if len(own) == 1 else BadImage("", both))
        unused = len(paths) - sum(isinstance(mask, Path) for mask in found.values())
        messages += [f"{unused} masks belong to no image, by name."] if unused else []
    if labels is None:
        return None if masks is None else Annotations("the masks", None, found, messages)
    if str(labels) == "folders":
        folders = {name: PurePosixPath(name.casefold()).parts[:-1] for name in names}
        known = {name: int(not set(GOOD) & set(own)) for name, own in folders.items() if own}
        return Annotations("the names of the sub-folders", known, found, messages)
    listed = read_labels(Path(labels))
    owners = _owners(listed, dict(zip(names, names, strict=True)))
    if lost := sorted(name for name, own in owners.items() if len(own) != 1):
        messages.append(f"{len(lost)} labels belong to no file in the folder, the first is {lost[0]}.")
    known = {own[0]: listed[name] for name, own in owners.items() if len(own) == 1}
    return Annotations(f"the file {Path(labels).name}", known, found, messages)


def _owners(keys: Iterable[str], names: Mapping[str, str]) -> dict[str, list[str]]:
    """The images that each key belongs to: by path, else by bare name. names: by image, to compare with."""
    by_path, by_bare_name = defaultdict(list), defaultdict(list)
    for image, name in names.items():
        by_path[name].append(image)
        by_bare_name[PurePosixPath(name).name].append(image)
    return {key: by_path[key] or by_bare_name[key] for key in keys}


def _masks_below(folder: str | Path) -> dict[str, Path]:
    """By the path without suffix and without "_mask". Raises ValueError for none, and as `find_files`."""
    paths: dict[str, Path] = {}
    for file in find_files(folder)[0]:
        key = str(PurePosixPath(file.name).with_suffix("")).removesuffix("_mask")
        if file.problem is None and paths.setdefault(key, file.path) != file.path:
            raise ValueError(f"two masks of {key}: {paths[key].name} and {file.path.name}; keep one")
    if not paths:
        raise ValueError(f"no masks in {folder}: expected images, each called like the one it belongs to")
    return paths


def read_labels(file: Path) -> dict[str, int]:
    """By file name. Raises ValueError for other columns, unknown words or two labels; FileNotFoundError."""
    if not file.is_file():
        raise FileNotFoundError(f"no file of labels {file}: give a CSV file, or the word folders")
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # of pandas, or of an encoding that is not UTF-8
        raise ValueError(f"{file} is not a CSV file with the columns file and label: {error}") from None
    if not {"file", "label"} <= set(table.columns):
        raise ValueError(f"{file} has the columns {', '.join(table.columns)}: expected file and label")
    labels = table["label"].str.strip().str.casefold().map(WORDS)
    if labels.isna().any():
        unknown = ", ".join(table["label"][labels.isna()].unique()[:5])
        raise ValueError(f"{file}: unknown labels {unknown}: expected 0 (normal) and 1 (anomalous)")
    names = table["file"].str.replace("\\", "/").str.removeprefix("./")
    found = labels.astype(int).groupby(names, sort=False).agg(["first", "nunique"])
    for name in found.index[found["nunique"] > 1]:
        raise ValueError(f"{file}: {name} is listed as normal and as anomalous")
    return found["first"].to_dict()


def with_metrics(result: Result, known: Annotations | None, map_size: int | None, progress: bool) -> Result:
    """The result with labels and metrics; the row of an image has an error if its mask does not fit."""
    if known is None:
        return result
    table, labels, histogram = result.table.copy(), dict(known.labels or {}), PixelHistogram()
    ok = table["status"] == "scored"
    images = () if known.masks is None else result.scored_images()
    bar = silent(progress and known.masks is not None)
    for row, image in tqdm(images, total=int(ok.sum()), desc="masks", **bar):
        name = table["file"][row]
        try:
            height, width = image.sizes[0].tolist()
            mask = _mask(known.masks.get(name), (height, width))
            if known.labels is None:
                labels[name] = int(mask.any())
            if labels.get(name) == 1 and name not in known.masks:
                raise BadImage("", "it is labelled anomalous and has no mask")
            if result.has_maps:
                size = scaled_size(height, width, map_size)
                histogram.add(stretched_mask(mask, size), result.map(image, size))
        except BadImage as error:
            table.loc[row, "error"] = f"not among the pixel metrics: {error}"
    table["label"] = table["file"].map(labels).astype("Int64")
    own = table[ok & table["label"].notna()]
    messages = [*result.messages, *known.messages]
    if number := int(ok.sum()) - len(own):
        messages.append(f"{number} scored images have no label, and do not count in the metrics.")
    rows = _image_metrics(own, known.source) + ([] if known.masks is None else _pixel_metrics(histogram))
    metrics = pd.DataFrame(rows, columns=["task", "metric", "value", "note"])
    return replace(result, table=table, metrics=metrics, messages=tuple(messages))


def _mask(mask: Path | BadImage | None, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool; nothing marked without a mask. Raises BadImage for one that cannot be used."""
    if mask is None:
        return np.zeros(size, bool)
    if isinstance(mask, BadImage):
        raise mask
    try:
        return read_mask(mask, size=size[::-1], upright=True)
    except (BadImage, OSError) as error:
        reason = error.reason if isinstance(error, BadImage) else str(error.strerror or error)
        raise BadImage("", reason, f"its mask {mask.name}") from None


def _image_metrics(own: pd.DataFrame, source: str) -> list[tuple]:
    labels, scores, found = own["label"].to_numpy(int), own["score"].to_numpy(), (math.nan,) * 3
    flagged, normal, anomalous = (own["decision"] == "anomalous").to_numpy(), labels == 0, labels == 1
    if normal.any() and anomalous.any():
        found = auroc(labels, scores), aupr(labels, scores), f1_max(labels, scores)
        note = f"{normal.sum()} normal and {anomalous.sum()} anomalous images, labels from {source}"
    else:
        kind = "" if own.empty else "anomalous " if normal.any() else "normal "
        note = f"undefined: no {kind}image has a label"
    rows = [("image", name, value, note) for name, value in zip(("auroc", "ap", "f1max"), found)]
    for name, part, whole, missing in (
        ("precision", flagged & anomalous, flagged, "labelled image is above the threshold"),
        ("recall", flagged & anomalous, anomalous, "anomalous image has a label"),
        ("false_alarms", flagged & normal, normal, "normal image has a label"),
    ):
        value, note = math.nan, f"undefined: no {missing}"
        if whole.any():
            value, note = part.sum() / whole.sum(), f"{part.sum()} of {whole.sum()}, at the threshold"
        rows.append(("image", name, value, note))
    return rows


def _pixel_metrics(histogram: PixelHistogram) -> list[tuple]:
    found, note = (math.nan,) * 3, "undefined: no image has a mask that fits"
    if histogram.images:
        with warnings.catch_warnings(action="ignore", category=UndefinedMetricWarning):
            found = histogram.metrics()
        note = "undefined: one kind of pixel only" if math.isnan(found[0]) else f"{histogram.images} images"
    return [("pixel", name, value, note) for name, value in zip(("auroc", "pro", "f1max"), found)]
