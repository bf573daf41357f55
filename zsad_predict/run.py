"""From a folder of images to a score and a decision for each; every file is in the table."""

import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from zsad_core.cache import content_key
from zsad_core.image_features import TileFeatures
from zsad_core.images import BadImage, Whole
from zsad_predict import report
from zsad_predict.annotations import read_annotations, with_metrics
from zsad_predict.files import MADE_BY, ImageFile, Reader, digest_of, find_files, record_of
from zsad_predict.options import METHODS, Options, caveat, read_options, run_facts
from zsad_predict.result import Result, named, score_files, table_of
from zsad_predict.scorers import Scorer, embed, load_scorer, reader_of
from zsad_predict.thresholds import Threshold, check_rule, choose_threshold

MAX_REFERENCES = 100  # WinCLIP+ keeps all windows of all of them, and scores each against the others


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

    method: of `options.METHODS`. options: None for the profile mini. out: None writes nothing.
    normal: a folder of a few normal images: winclip_plus compares with them, others take their threshold.
    heat_maps: how many are written, the highest scores first; None: all.
    whole: "tiles" (WinCLIP's) keeps an image's shape; "squash" is of the pages on RWDA and AnomalyCLIP.
    For the others see `load_scorer`, `read_annotations`, `choose_threshold` and `read_photo`.
    `options.caveat` goes to standard error. Raises ValueError or OSError with a sentence for the user."""
    started, clock = datetime.now(UTC), time.monotonic()
    options, folder, reader = options or read_options(), Path(folder), Reader(whole, bits)
    if method == "winclip_plus" and normal is None:
        raise ValueError("winclip_plus compares with normal images: give a folder of some, or take winclip")
    rule = {"threshold": threshold, "threshold_from": threshold_from}
    rule |= {"threshold_quantile": threshold_quantile}
    check_rule(**rule, has_references=normal is not None)
    apart = [path for path in (normal, masks, labels) if path is not None and path != "folders"]
    if out is not None:
        report.check_out(Path(out), [folder, *apart])

    files, passed_over = find_files(folder, apart)
    messages = [f"Passed over in the folder: {n}, {reason}." for reason, n in passed_over.items()]
    known = read_annotations([file.name for file in files], labels, masks)
    if all(file.problem for file in files):
        raise ValueError(f"nothing in {folder} can be scored: {named(table_of(files, {}))}")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        scorer = load_scorer(method, options, object_name=object_name, prompts_file=prompts_file)
    messages += [str(warning.message) for warning in caught if warning.category is UserWarning]
    if beware := caveat(scorer.encoder.model_id, scorer.encoder.weights_id, method):
        print(beware, file=sys.stderr)
    score = partial(score_files, reader=reader, cache_dir=options.cache_dir, progress=progress)
    references = References(scorer)
    if normal is not None:
        references = _references(find_files(normal)[0], scorer, reader, score)
    table, parts = score(files, references.scorer, name="your images")
    ok = table["status"] == "scored"
    if not ok.any():
        raise ValueError(f"nothing in {folder} could be scored: {named(table)}")

    line = choose_threshold(table[ok], references.scores, **rule, left_out=scorer.fit_references is not None)
    table = table.assign(
        threshold=np.where(ok, line.value, np.nan),
        decision=np.where(ok, np.where(table["score"] > line.value, "anomalous", "normal"), ""),
        rule=np.where(ok, line.rule, ""),
        notes=_notes(table, scorer.trained_on, references.digests),
    )
    facts = {
        **{"made_by": MADE_BY, "method": method, "object": object_name, "folder": folder.resolve().name},
        "images": content_key(files=sorted(table["digest"].dropna())),
        "normal": content_key(files=sorted(references.digests)) if normal else None,
        **{"whole": whole, "bits": bits, "threshold": line.value, "rule": line.rule, "caveat": beware},
        "map_threshold": None if np.isnan(line.map_value) else line.map_value,
        **run_facts(options, scorer.encoder, **rule, prompts_file=prompts_file, labels_from=labels),
        "started": started.isoformat(timespec="seconds"),
    }
    has_maps = table["map_maximum"].notna().any()
    result = Result(
        table=table.drop(columns=["map_median", "digest"]),
        threshold=line,
        messages=(*messages, *references.messages, *line.warnings),
        facts=facts,
        about_map=METHODS[method]["about_map"] if has_maps else "No maps: the model has no patch tokens.",
        map_low=float(np.nan_to_num(table["map_median"].median())),
        references=() if references.scores is None else tuple(references.scores["score"]),
        parts=parts,
        reader=reader,
        smooth=scorer.smooth,
    )
    result = with_metrics(result, known, options.map_size, progress)
    result.facts["seconds"] = round(time.monotonic() - clock, 1)
    return result if out is None else report.write_results(result, Path(out), heat_maps, progress)


def empty_result(options: Options) -> Result:
    """The result without any image."""
    message = "There are no images: give a folder, or prepare the example's dataset (`zsad prepare`)."
    threshold = Threshold(np.nan, np.nan, "above a threshold that nothing has set")
    return Result(table_of([], {}), threshold, (message,), run_facts(options), "No images, no heat maps.")


class References(NamedTuple):
    """scorer: fitted to the normal references if it uses them. scores: columns score and map_maximum."""

    scorer: Scorer
    scores: pd.DataFrame | None = None
    digests: Sequence[str] = ()
    messages: Sequence[str] = ()


def _references(files: Sequence[ImageFile], scorer: Scorer, reader: Reader, score: Callable) -> References:
    """Raises ValueError if no reference can be read."""
    embedded, messages = {}, []
    if scorer.fit_references is None:
        table, _ = score(files, scorer, name="normal references")
    else:
        embedded, table, messages = _embedded(files, scorer, reader)
    bad = table[table["error"].fillna("") != ""]
    if len(bad) == len(files):
        raise ValueError(f"no normal reference can be read: {named(bad)}")
    messages += [f"Normal references that could not be used: {named(bad)}."] if len(bad) else []
    if scorer.fit_references is None:
        digests = table["digest"].dropna().tolist()
        return References(scorer, table[table["status"] == "scored"], digests, messages)
    features, key = list(embedded.values()), {**scorer.key, "references": sorted(embedded)}
    fitted = replace(scorer, detect=scorer.fit_references(features, range(len(features))), key=key)
    return References(fitted, _left_out_scores(features, scorer.fit_references), list(embedded), messages)


def _embedded(
    files: Sequence[ImageFile], scorer: Scorer, reader: Reader
) -> tuple[dict[str, TileFeatures], pd.DataFrame, list[str]]:
    """The features of references by digest, their table, and messages."""
    embedded, records, unused = {}, {}, 0
    for file in (file for file in files if not file.problem):
        try:
            digest = digest_of(file.path)
            if digest in embedded or len(embedded) == MAX_REFERENCES:
                unused += 1
                continue
            image, records[file.name] = reader_of(scorer, reader)((file.path, digest))
            if image is not None:
                embedded[digest] = embed(scorer, [image])
        except BadImage as problem:
            records[file.name] = record_of(problem)
    what = f"{unused} references are not compared with: each is a copy of another one, or beyond the first"
    return embedded, table_of(files, records), [f"{what} {MAX_REFERENCES}."] if unused else []


def _left_out_scores(parts: Sequence[TileFeatures], fit_references: Callable) -> pd.DataFrame:
    """Each reference is scored against the others, because against itself its score would be perfect."""
    rows = []
    for i, part in enumerate(parts if len(parts) > 1 else ()):
        output = fit_references(parts, [j for j in range(len(parts)) if j != i])(part)
        rows.append((part.mean_of_tiles(output.scores)[0], float(output.maps.max())))
    return pd.DataFrame(rows, columns=["score", "map_maximum"])


def _notes(table: pd.DataFrame, trained_on: frozenset[str], references: Sequence[str]) -> list[str]:
    """The notes of the table, and others on images that are references, or that trained the prompts."""
    own = table["digest"].fillna("")
    also = ["also a normal reference" if digest in references else "" for digest in own]
    seen = "the prompts were learned from it, so its score is not zero-shot"
    learned = [seen if digest[:16] in trained_on else "" for digest in own]
    return ["; ".join(filter(None, notes)) for notes in zip(table["notes"], also, learned, strict=True)]
