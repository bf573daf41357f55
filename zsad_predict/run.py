"""A folder of images, nothing else: a score and a decision for each, and no file lost.

result = score_folder("photos", "winclip", normal="a few good ones", out="photos-scores")
result.table
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from zsad_core.images import MAX_PIXELS, BadImage
from zsad_core.views import Whole
from zsad_predict import annotations, report
from zsad_predict.facts import run_facts
from zsad_predict.files import MADE_BY, Entry, Listing, Reader, digest_of, find_files
from zsad_predict.options import Options, options_from, read_options
from zsad_predict.parts import named, score_parts, table_of
from zsad_predict.result import COLUMNS, Result
from zsad_predict.scorers import Detect, Scorer, load_scorer, see
from zsad_predict.thresholds import Sample, Threshold, check_options, choose_threshold

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
    max_pixels: int = MAX_PIXELS,
    follow_links: bool = False,
    progress: bool = True,
) -> Result:
    """Score every image below a folder.

    method: clip, rwda, winclip, winclip_plus or anomalyclip. The default needs nothing and draws a map.
    options: encoder, weights, device, precision, cache and the methods' options; None: the profile mini.
    normal: a folder of a few normal images. winclip_plus compares with them; for the others they only set the
        threshold.
    object_name, prompts_file: see `detectors.load_scorer`.
    out: a folder for the results, written whole or not at all; one that holds anything but earlier results is
        refused. None writes nothing.
    labels, masks: see `your_labels.read_truth`. Without them there are no metrics.
    threshold, threshold_from, threshold_quantile: see `thresholds.choose_threshold`.
    heat_maps: how many are written, the highest scores first; None: all, so that none is missed.
    whole: how an image that is not square is seen. "tiles" (WinCLIP's) keeps its shape and loses nothing;
        "squash" is what this book's pages on RWDA and AnomalyCLIP do.
    bits, max_pixels: see `images.read_photo`. follow_links: see `files.find_files`.
    progress: whether bars count the images.

    Raises ValueError or OSError with a sentence for the user: options that do not fit, a folder that is not
    there or has no image that can be read, an `out` that holds something else.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    chosen, folder = options or read_options(), Path(folder)
    if whole not in ("tiles", "squash"):
        raise ValueError(f"whole={whole!r}: expected 'tiles' or 'squash'")
    if method == "winclip_plus" and normal is None:
        raise ValueError("winclip_plus compares with normal images: give a folder of some, or take winclip")
    rule = {"source": threshold_from, "quantile": threshold_quantile, "number": threshold}
    check_options(normal is not None, **rule)
    if out is not None:
        report.check_out(Path(out), [Path(p) for p in (folder, normal, masks, labels) if p is not None])

    truth = annotations.read_truth(folder, labels, masks)
    entries, messages = truth.entries, []
    if entries is None:
        other = [path for path in (normal, masks, labels) if path is not None and path != "folders"]
        listing = find_files(folder, follow_links=follow_links, other=other)
        entries, messages = listing.entries, _passed_over(listing)
    if all(entry.status for entry in entries):
        raise ValueError(f"nothing in {folder} can be scored: {named(table_of(entries, [], {})[0])}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        scorer = load_scorer(method, chosen, object_name=object_name, prompts_file=prompts_file)
    messages += [str(warning.message) for warning in caught if warning.category is UserWarning]
    reader = Reader(whole, bits, max_pixels)
    shared = {"reader": reader, "cache_dir": chosen.cache_dir, "progress": progress}

    seen = None
    if normal is not None:
        seen = _references(find_files(normal, follow_links=follow_links).entries, scorer, shared)
        messages += seen.messages
    detect = seen.detect if seen else scorer.detect
    key = {"references": sorted(seen.digests)} if seen and scorer.remember else {}
    parts, failed = score_parts(entries, scorer, detect, key=key, name="your images", **shared)
    table, map_low = table_of(entries, parts, failed)
    ok = table["status"] == "scored"
    if not ok.any():
        raise ValueError(f"nothing in {folder} could be scored: {named(table)}")

    sample = Sample(table.loc[ok, "score"].to_numpy(), table.loc[ok, "map_maximum"].to_numpy())
    left_out = scorer.remember is not None
    line = choose_threshold(sample, seen.sample if seen else None, left_out=left_out, **rule)
    digests = {e.name: d for part in parts for e, d in zip(part.entries, part.digests, strict=True)}
    table = _noted(_decided(table, line), digests, scorer, seen.digests if seen else ())
    used = {"images": digests.values(), "normal": seen.digests if seen else ()}
    asked = {"scored_with": method, "object_in_images": object_name, "threshold": threshold}
    asked |= {"threshold_from": threshold_from, "threshold_quantile": threshold_quantile}
    asked |= {"prompts_file": _last(prompts_file), "labels_from": _last(labels)}
    facts = {
        **{"made_by": MADE_BY, "method": method, "object": object_name, "folder": folder.resolve().name},
        **{"whole": whole, "bits": bits, "threshold": line.value, "rule": line.rule},
        **run_facts(chosen, scorer.encoder, used, asked),
        "started": started.isoformat(timespec="seconds"),
    }
    result = Result(
        table,
        line,
        (*messages, *line.warnings),
        facts,
        scorer.about_map,
        map_low,
        seen.sample.scores if seen else np.empty(0),
        parts=parts,
        reader=reader,
        smooth=scorer.smooth,
    )
    result = annotations.with_metrics(result, truth, chosen.map_size, progress=progress)
    result.facts["seconds"] = round(time.monotonic() - clock, 1)
    return result if out is None else report.write_results(result, Path(out), heat_maps, progress)


def score_from(settings: Any, out: str | Path | None = None, **options) -> Result:
    """`score_folder` as a notebook's parameters have it, which are attributes of `settings`; without
    `images_dir`, the example's folders, and where there is no example either, a result without files."""
    own = options_from(vars(settings))
    if settings.images_dir is None:
        folders = example(settings.data_dir, settings.datasets.get("mvtec"))
        if folders is None:
            return _nothing(own)
    else:
        folders = {"folder": settings.images_dir, "normal": settings.normal_dir}
        folders |= {"labels": settings.labels_from, "masks": settings.masks_dir}
    names = ("threshold", "threshold_from", "threshold_quantile", "prompts_file")
    asked = {name: getattr(settings, name) for name in names}
    asked |= {"method": settings.scored_with, "object_name": settings.object_in_images, "options": own}
    return score_folder(**{**folders, **asked, "out": out, **options})


def example(data_dir: str | Path, dataset: str | None) -> dict[str, str] | None:
    """Folders of a category of a prepared dataset, `name` (its first one) or `name/category`, as if they were
    a user's; None where it is not prepared."""
    root, _, category = (dataset or "").partition("/")
    table = Path(data_dir) / root / "meta.csv"
    if not root or not table.is_file():
        return None
    place = table.parent / (category or str(pd.read_csv(table, dtype=str)["category"].iloc[0]))
    return {
        "folder": str(place / "test"),
        "normal": str(place / "train"),
        "labels": "folders",
        "masks": str(place / "ground_truth"),
    }


def _nothing(options: Options) -> Result:
    table = pd.DataFrame(columns=[*COLUMNS, "map_maximum"])
    threshold = Threshold(np.nan, np.nan, "above a threshold that nothing has set")
    messages = (
        "There are no images: give a folder in images_dir.",
        "The example needs the dataset in the place of mvtec, which is not prepared: see `zsad prepare`.",
    )
    about = "Without images there are no heat maps."
    return Result(table, threshold, messages, run_facts(options), about, 0.0, np.empty(0))


def _last(path: str | Path | None) -> str | None:
    """No machine's folder is recorded."""
    return None if path is None else Path(path).name


class _Seen(NamedTuple):
    detect: Detect
    sample: Sample
    digests: Sequence[str]
    messages: list[str]


def _references(entries: Sequence[Entry], scorer: Scorer, options: dict) -> _Seen:
    """The normal references' scores, and the detector that has seen them. Raises ValueError without any."""
    if scorer.remember is not None:
        return _remembered(entries, scorer, options["reader"])
    parts, failed = score_parts(entries, scorer, scorer.detect, name="normal references", **options)
    table, _ = table_of(entries, parts, failed)
    good = table[table["status"] == "scored"]
    sample = Sample(good["score"].to_numpy(), good["map_maximum"].to_numpy())
    digests = [digest for part in parts for digest in part.digests]
    return _Seen(scorer.detect, sample, digests, _unused(table, len(good)))


def _remembered(entries: Sequence[Entry], scorer: Scorer, reader: Reader) -> _Seen:
    """Of a method that compares with references: each is scored against the others, since against itself it
    would be perfect."""
    messages, seen, failed = [], {}, {}
    for entry in entries:
        try:
            if entry.status:
                raise BadImage(entry.status, entry.error)
            digest = digest_of(entry.path)
            if digest in seen:
                messages.append(f"The reference {entry.name} is a copy of another one and counts once.")
                continue
            if len(seen) == MAX_REFERENCES:
                messages.append(f"The first {MAX_REFERENCES} references are compared with, not the others.")
                break
            photo = reader.photo(entry.path, digest)
            seen[digest] = see(scorer, [reader.cut(photo.image, scorer.encoder, scorer.crops)])
        except BadImage as error:
            failed[entry.name] = error
    table, _ = table_of([entry for entry in entries if entry.name in failed], [], failed)
    messages += _unused(table, len(seen))
    parts, everyone = list(seen.values()), range(len(seen))
    scores, maxima = [], []
    for i in everyone if len(seen) > 1 else ():
        output = scorer.remember(parts, [j for j in everyone if j != i])(parts[i])
        scores.append(parts[i].mean_of_tiles(output.scores)[0])
        maxima.append(float(output.maps.max()))
    sample = Sample(np.array(scores), np.array(maxima), comparable=len(seen) > 1)
    return _Seen(scorer.remember(parts, everyone), sample, list(seen), messages)


def _unused(table: pd.DataFrame, good: int) -> list[str]:
    bad = table[table["status"] != "scored"]
    if not good:
        raise ValueError(f"no normal reference can be read: {named(table)}")
    return [f"Normal references that could not be used: {named(bad)}."] if len(bad) else []


def _passed_over(listing: Listing) -> list[str]:
    said = (
        (listing.hidden, "hidden: not looked at"),
        (listing.results, "the results of an earlier run: not looked at"),
        (listing.other, "the references, masks or labels of this run: not scored"),
    )
    return [
        f"{n} {'entry' if n == 1 else 'entries'} of the folder passed over, {what}." for n, what in said if n
    ]


def _decided(table: pd.DataFrame, threshold: Threshold) -> pd.DataFrame:
    ok = table["status"] == "scored"
    words = np.where(threshold.decide(table["score"]), "anomalous", "normal")
    return table.assign(
        threshold=np.where(ok, threshold.value, np.nan),
        decision=np.where(ok, words, ""),
        rule=np.where(ok, threshold.rule, ""),
    )


def _noted(
    table: pd.DataFrame, digests: dict[str, str], scorer: Scorer, references: Collection[str]
) -> pd.DataFrame:
    """Notes on images that the method has met before."""
    notes = []
    for name, note in zip(table["file"], table["notes"], strict=True):
        digest, own = digests.get(name, ""), [note] if note else []
        if digest in references:
            own.append("also a normal reference")
        if digest and int.from_bytes(bytes.fromhex(digest[:16]), "big", signed=True) in scorer.trained_on:
            own.append("the prompts were learned from it, so its score is not zero-shot")
        notes.append("; ".join(own))
    return table.assign(notes=notes)
