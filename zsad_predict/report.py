"""The folder of results: tables, heat maps, provenance, and one page to read.

scores.csv  scores.parquet  metrics.csv (with labels)  maps/*.jpg  report.html  run.json
"""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from io import BytesIO
from pathlib import Path

import jinja2
import numpy as np
from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from zsad_core.images import BadImage
from zsad_predict.files import FileChanged, is_result_folder
from zsad_predict.pictures import colour_bar, decorated, pairs_figure, score_histogram, shown_size, thumbnail
from zsad_predict.result import Result, ScoredImage, silent

FILES = ("scores.csv", "scores.parquet", "metrics.csv", "report.html", "run.json")
TOP, SAMPLE, ROWS = 24, 12, 1000
"""Of the report: images with the highest scores, others evenly spaced by rank, and rows of its table."""
METRICS = {
    "auroc": "AUROC", "ap": "average precision", "f1max": "F1-max", "pro": "PRO", "precision": "precision",
    "recall": "recall", "false_alarms": "false alarms among normal images",
}  # fmt: skip
METHOD_NAMES = {
    **{"clip": "CLIP", "rwda": "RWDA", "winclip": "WinCLIP", "winclip_plus": "WinCLIP+"},
    "anomalyclip": "AnomalyCLIP",
}
_MAP_NAME = re.compile(r"maps/\d{5,}-.*\.jpg")


def check_out(out: Path, inputs: Sequence[str | Path] = ()) -> None:
    """Raises FileExistsError if `out` holds anything but an earlier run's results, ValueError if an input
    lies in it or is it."""
    for path in inputs:
        if Path(path).resolve().is_relative_to(out.resolve()):
            raise ValueError(f"the results in {out} would replace {path}, which is read: give another folder")
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file: give a folder for the results")
    found = sorted(path.relative_to(out).as_posix() for path in (*out.glob("*"), *out.glob("maps/*")))
    foreign = [name for name in found if name not in (*FILES, "maps") and not _MAP_NAME.fullmatch(name)]
    if foreign or (found and not is_result_folder(out)):
        held = ", ".join((foreign or found)[:5])
        raise FileExistsError(
            f"{out} holds something else than earlier results ({held}): give another folder"
        )


def write_results(result: Result, out: Path, heat_maps: int | None, progress: bool) -> Result:
    """Write everything, whole or not at all; the result with the column heat_map."""
    with _replacing(out) as folder:
        result, pictures = _write_maps(result, folder, heat_maps, progress)
        result.table.to_csv(folder / "scores.csv", index=False, lineterminator="\n")
        result.table.to_parquet(folder / "scores.parquet", index=False)
        if len(result.metrics):
            result.metrics.to_csv(folder / "metrics.csv", index=False, lineterminator="\n")
        text = json.dumps(result.facts, indent=1, ensure_ascii=False, default=str) + "\n"
        (folder / "run.json").write_text(text, encoding="utf-8")
        (folder / "report.html").write_text(page(result, pictures), encoding="utf-8")
    return result


def _chosen(result: Result) -> tuple[list[int], list[int]]:
    """Rows for the report: the highest scores, and others evenly spaced by rank."""
    others = result.ranked.index[TOP:]
    return list(result.ranked.index[:TOP]), list(others[:: max(1, math.ceil(len(others) / SAMPLE))])


def _write_maps(
    result: Result, folder: Path, heat_maps: int | None, progress: bool
) -> tuple[Result, dict[int, tuple[str, str]]]:
    """Heat maps into `folder/maps`, and (picture, heat map) as data URIs of the images in the report."""
    table = result.table.assign(heat_map="")
    wanted = set(result.ranked.index[:heat_maps]) if result.has_maps else set()
    shown, pictures = {row for rows in _chosen(result) for row in rows}, {}
    (folder / "maps").mkdir()
    images = result.scored_images(wanted | shown)
    for scored in tqdm(images, total=len(wanted | shown), desc="heat maps", **silent(progress)):
        row, name = scored.row, table["file"][scored.row]
        try:
            image = result.image(scored)
        except (BadImage, FileChanged):
            notes = [table["notes"][row], "gone before it was drawn"]
            table.loc[row, "notes"] = "; ".join(filter(None, notes))
            continue
        drawn = draw(result, scored, image) if result.has_maps else None
        if row in wanted:
            stem = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[-60:]
            table.loc[row, "heat_map"] = f"maps/{row:05d}-{stem}.jpg"
            drawn.save(folder / table["heat_map"][row], quality=88)
        if row in shown:
            pictures[row] = (_uri(thumbnail(image)), _uri(thumbnail(drawn)) if drawn else "")
    return replace(result, table=table), pictures


def draw(result: Result, scored: ScoredImage, image: Image.Image) -> Image.Image:
    """The heat map over the image."""
    width, height = shown_size(image.size)
    heat = result.map(scored, (height, width))
    return decorated(image.resize((width, height)), heat, result.scale, result.threshold.map_value)


def gallery(result: Result, number: int = 6) -> Image.Image:
    """Some images above their heat maps, evenly spaced by rank, the highest score first."""
    places = np.linspace(0, len(result.ranked) - 1, min(number, len(result.ranked))).round().astype(int)
    chosen, found = result.ranked.iloc[places], {}
    for scored in result.scored_images(chosen.index):
        image = result.image(scored)
        found[scored.row] = image.resize(shown_size(image.size)), draw(result, scored, image)
    titles = [f"{row.file}\n{row.score:.3g}, {row.decision}" for row in chosen.itertuples()]
    return pairs_figure([found[row] for row in chosen.index], titles, result.scale)


def page(result: Result, pictures: Mapping[int, tuple[str, str]]) -> str:
    """One HTML page that needs no other file and no network."""
    table, threshold, ranked = result.table, result.threshold, result.ranked
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = "{:.4g}".format
    text = resources.files("zsad_predict").joinpath("report.html").read_text("utf-8")
    top, sample = (
        [{**table.loc[row].to_dict(), "pictures": pictures.get(row, ("", ""))} for row in rows]
        for rows in _chosen(result)
    )
    return environment.from_string(text).render(
        title=f"Anomaly scores of {result.facts['folder']}",
        method=METHOD_NAMES[result.facts["method"]],
        facts=result.facts,
        n=len(table),
        n_scored=len(ranked),
        n_anomalous=int((ranked["decision"] == "anomalous").sum()),
        threshold=threshold,
        messages=result.messages,
        histogram=_uri(score_histogram(ranked["score"], threshold.value, result.references), "PNG"),
        has_references=len(result.references) > 0,
        about_map=result.about_map,
        colour_bar=_uri(colour_bar(), "PNG") if result.has_maps else "",
        scale=result.scale if result.has_maps else (0, 0),
        map_threshold=threshold.map_value if math.isfinite(threshold.map_value) else None,
        top=top,
        sample=sample,
        rows=ranked.head(ROWS).to_dict("records"),
        more=max(0, len(ranked) - ROWS),
        has_labels="label" in table,
        bad=table[(table["status"] != "scored") | (table["error"] != "")].head(ROWS).to_dict("records"),
        metrics=result.metrics.replace({"metric": METRICS}).to_dict("records"),
        provenance=list(_flat(result.facts)),
    )


def _flat(facts: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}: ")
        else:
            yield f"{before}{name}".replace("_", " "), "none" if value in (None, {}) else str(value)


def _uri(image: Image.Image, kind: str = "JPEG") -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place when the block ends well; hidden, so that no listing of
    images takes it for one of theirs. Raises BlockingIOError while another run writes to `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = (out.with_name(f".{out.name}.{word}") for word in ("unfinished", "old"))
    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"another run is writing to {out}: wait until it has ended") from None
    try:
        if old.exists() and not out.exists():  # killed between the two renames below
            old.rename(out)
        check_out(out)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir()
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held, so that nobody locks a lost file
        lock.release()
