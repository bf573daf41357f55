"""A folder of images, nothing else: a score and a decision for each, and no file lost.

result = score_folder("photos", "winclip", normal="a few good ones", out="photos-scores")
result.table
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from zsad_core.cache import content_key
from zsad_core.images import BadImage
from zsad_core.views import Whole
from zsad_predict import report
from zsad_predict.annotations import read_annotations, with_metrics
from zsad_predict.facts import run_facts
from zsad_predict.files import MADE_BY, ImageFile, Reader, digest_of, find_files
from zsad_predict.options import Options, read_options
from zsad_predict.parts import named, score_parts, table_of
from zsad_predict.result import COLUMNS, Result
from zsad_predict.scorers import Scorer, embed, load_scorer
from zsad_predict.thresholds import Rule, Sample, Threshold, choose_threshold

MAX_REFERENCES = 100
"""WinCLIP+ keeps all windows of all references, and scores each reference against the others."""


def score_folder(
    folder: str | Path,
    method: str = "winclip",
    *,
    options: Options | None = None,
    normal: str | Path | None = None,
    object_name: str = "object",
    out: str | Path | None = None,
    labels: str | Path | None = None,
    masks: str | Path | None = None,
    threshold: float | None = None,
    threshold_from: str = "auto",
    threshold_quantile: float | None = None,
    prompts_file: str | Path | None = None,
    heat_maps: int | None = None,
    whole: Whole = "tiles",
    bits: int = 16,
    progress: bool = True,
) -> Result:
    """Score every image below a folder.

    method: clip, rwda, winclip, winclip_plus or anomalyclip. The default needs nothing and draws a map.
    options: encoder, weights, device, precision, cache and the methods' options; None: the profile mini.
    normal: a folder of a few normal images. winclip_plus compares with them; for the others they only set the
        threshold.
    object_name, prompts_file: see `scorers.load_scorer`.
    out: a folder for the results, written whole or not at all; one that holds anything but earlier results is
        refused. None writes nothing.
    labels, masks: see `annotations.read_annotations`. Without them there are no metrics.
    threshold, threshold_from, threshold_quantile: see `thresholds.Rule`.
    heat_maps: how many are written, the highest scores first; None: all, so that none is missed.
    whole: how an image that is not square is seen. "tiles" (WinCLIP's) keeps its shape and loses nothing;
        "squash" is what this book's pages on RWDA and AnomalyCLIP do.
    bits: see `images.read_photo`. progress: whether bars count the images.

    Raises ValueError or OSError with a sentence for the user: options that do not fit, a folder that is not
    there or has no image that can be read, an `out` that holds something else.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    options, folder = options or read_options(), Path(folder)
    rule, reader = Rule(threshold_from, threshold_quantile, threshold), Reader(whole, bits)
    if method == "winclip_plus" and normal is None:
        raise ValueError("winclip_plus compares with normal images: give a folder of some, or take winclip")
    if threshold_from == "references" and normal is None:
        raise ValueError("threshold_from=references, but there are none: give a folder of normal images")
    apart = [path for path in (normal, masks, labels) if path is not None and path != "folders"]
    if out is not None:
        report.check_out(Path(out), [folder, *apart])

    known, messages = read_annotations(folder, labels, masks), []
    files = known.files
    if files is None:
        files, passed_over = find_files(folder, apart)
        messages += [f"Passed over in the folder: {n}, {reason}." for reason, n in passed_over.items()]
    if all(file.status for file in files):
        raise ValueError(f"nothing in {folder} can be scored: {named(table_of(files, [], {})[0])}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        scorer = load_scorer(method, options, object_name=object_name, prompts_file=prompts_file)
    messages += [str(warning.message) for warning in caught if warning.category is UserWarning]

    shared = {"reader": reader, "cache_dir": options.cache_dir, "progress": progress}
    references = References(scorer, None, [], [])
    if normal is not None:
        references = _references(find_files(normal).files, scorer, **shared)
    parts, failed = score_parts(files, references.scorer, name="your images", **shared)
    table, map_low = table_of(files, parts, failed)
    ok = table[table["status"] == "scored"]
    if ok.empty:
        raise ValueError(f"nothing in {folder} could be scored: {named(table)}")
    line = choose_threshold(rule, _sample(ok), references.sample)
    digests = {file.name: digest for part in parts for file, digest in zip(part.files, part.digests)}
    facts = {
        **{"made_by": MADE_BY, "method": method, "object": object_name, "folder": folder.resolve().name},
        **{"inputs": {"images": _fingerprint(digests.values()), "normal": _fingerprint(references.digests)}},
        **{"whole": whole, "bits": bits},
        **{"threshold": line.value, "rule": line.rule},
        "map_threshold": None if np.isnan(line.map_value) else line.map_value,
        **run_facts(
            options,
            scorer.encoder,
            threshold=threshold,
            threshold_from=threshold_from,
            threshold_quantile=threshold_quantile,
            prompts_file=None if prompts_file is None else Path(prompts_file).name,
            labels_from=None if labels is None else Path(labels).name,
        ),
        "started": started.isoformat(timespec="seconds"),
    }
    result = Result(
        _with_notes(_with_decisions(table, line), digests, scorer, references.digests),
        line,
        (*messages, *references.messages, *line.warnings),
        facts,
        scorer.about_map,
        map_low,
        references.sample.scores if references.sample else np.empty(0),
        parts=parts,
        reader=reader,
        smooth=scorer.smooth,
    )
    result = with_metrics(result, known, options.map_size, progress=progress)
    result.facts["seconds"] = round(time.monotonic() - clock, 1)
    return result if out is None else report.write_results(result, Path(out), heat_maps, progress)


def example_folders(data_dir: str | Path, dataset: str | None) -> dict[str, str] | None:
    """What `score_folder` takes, for a category of a prepared dataset as if it were a user's folder.

    dataset: `name` (its first category) or `name/category`. None where it is not prepared.
    """
    root, _, category = (dataset or "").partition("/")
    table = Path(data_dir) / root / "meta.csv"
    if not root or not table.is_file():
        return None
    place = table.parent / (category or str(pd.read_csv(table, dtype=str)["category"].iloc[0]))
    folders = {"folder": "test", "normal": "train", "masks": "ground_truth"}
    return {name: str(place / split) for name, split in folders.items()} | {"labels": "folders"}


def empty_result(options: Options) -> Result:
    """The result without a folder and without the example's dataset."""
    messages = (
        "There are no images: give a folder in images_dir.",
        "The example needs a dataset that stands in for mvtec, and none is prepared: see `zsad prepare`.",
    )
    table = pd.DataFrame(columns=[*COLUMNS, "map_maximum"])
    threshold = Threshold(np.nan, np.nan, "above a threshold that nothing has set")
    return Result(table, threshold, messages, run_facts(options), "Without images there are no heat maps.")


class References(NamedTuple):
    """The scorer that compares with normal references, if it compares, and their scores and digests."""

    scorer: Scorer
    sample: Sample | None
    digests: Sequence[str]
    messages: list[str]


def _references(
    files: Sequence[ImageFile], scorer: Scorer, reader: Reader, cache_dir: str, progress: bool
) -> References:
    """Raises ValueError if no reference can be read."""
    if scorer.fit_references is not None:
        return _compared_references(files, scorer, reader)
    own = {"reader": reader, "cache_dir": cache_dir, "progress": progress}
    parts, failed = score_parts(files, scorer, name="normal references", **own)
    table, _ = table_of(files, parts, failed)
    good = table[table["status"] == "scored"]
    digests = [digest for part in parts for digest in part.digests]
    return References(scorer, _sample(good), digests, _unused(table, len(good)))


def _compared_references(files: Sequence[ImageFile], scorer: Scorer, reader: Reader) -> References:
    """Of a method that compares with references: each is scored against the others, since against itself it
    would be perfect."""
    messages, embedded, failed = [], {}, {}
    for file in files:
        try:
            if file.status:
                raise BadImage(file.status, file.error)
            digest = digest_of(file.path)
            if digest in embedded:
                messages.append(f"The reference {file.name} is a copy of another one and counts once.")
                continue
            if len(embedded) == MAX_REFERENCES:
                messages.append(f"The first {MAX_REFERENCES} references are compared with, not the others.")
                break
            image, _ = reader.photo(file.path, digest)
            embedded[digest] = embed(scorer, [reader.cut(image, scorer.model, scorer.crops)])
        except BadImage as error:
            failed[file.name] = error
    table, _ = table_of([file for file in files if file.name in failed], [], failed)
    messages += _unused(table, len(embedded))
    parts, places = list(embedded.values()), range(len(embedded))
    scores, maxima = [], []
    for i in places if len(embedded) > 1 else ():
        output = scorer.fit_references(parts, [j for j in places if j != i])(parts[i])
        scores.append(parts[i].mean_of_tiles(output.scores)[0])
        maxima.append(float(output.maps.max()))
    sample = Sample(np.array(scores), np.array(maxima), left_out=True)
    key = {**scorer.key, "references": sorted(embedded)}
    fitted = replace(scorer, detect=scorer.fit_references(parts, places), key=key)
    return References(fitted, sample, list(embedded), messages)


def _sample(scored: pd.DataFrame) -> Sample:
    return Sample(scored["score"].to_numpy(), scored["map_maximum"].to_numpy())


def _fingerprint(digests: Iterable[str]) -> str:
    return content_key(files=sorted(digests))


def _unused(table: pd.DataFrame, good: int) -> list[str]:
    bad = table[table["status"] != "scored"]
    if not good:
        raise ValueError(f"no normal reference can be read: {named(table)}")
    return [f"Normal references that could not be used: {named(bad)}."] if len(bad) else []


def _with_decisions(table: pd.DataFrame, threshold: Threshold) -> pd.DataFrame:
    ok = table["status"] == "scored"
    words = np.where(threshold.decide(table["score"]), "anomalous", "normal")
    return table.assign(
        threshold=np.where(ok, threshold.value, np.nan),
        decision=np.where(ok, words, ""),
        rule=np.where(ok, threshold.rule, ""),
    )


def _with_notes(
    table: pd.DataFrame, digests: dict[str, str], scorer: Scorer, references: Collection[str]
) -> pd.DataFrame:
    """Notes on images that are references, or that trained the prompts."""
    notes = []
    for name, note in zip(table["file"], table["notes"], strict=True):
        digest, own = digests.get(name, ""), [note] if note else []
        if digest in references:
            own.append("also a normal reference")
        if digest and int.from_bytes(bytes.fromhex(digest[:16]), "big", signed=True) in scorer.trained_on:
            own.append("the prompts were learned from it, so its score is not zero-shot")
        notes.append("; ".join(own))
    return table.assign(notes=notes)
