"""The folder of results: tables, heat maps, provenance, and one page to read.

scores.csv  scores.parquet  metrics.csv (with labels)  maps/*.jpg  report.html  run.json
"""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from zsad_core.images import BadImage
from zsad_predict.files import FileChanged, is_result_folder
from zsad_predict.pictures import colour_bar, decorated, histogram, pairs_figure, shown_size, thumbnail
from zsad_predict.result import Result, silent

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
_MAP_NAME = re.compile(r"\d{5,}-.*\.jpg")


def check_out(out: Path, inputs: Sequence[Path]) -> None:
    """Raises FileExistsError if `out` holds anything but an earlier run's results, ValueError if an input
    lies in it or is it."""
    resolved = out.resolve()
    for path in inputs:
        if str(path) != "folders" and path.resolve().is_relative_to(resolved):
            raise ValueError(f"the results in {out} would replace {path}, which is read: give another folder")
    if not out.exists():
        return
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file: give a folder for the results")
    found = sorted(path.name for path in out.iterdir())
    own = set(FILES) | {"maps"}
    foreign = [name for name in found if name not in own]
    if (out / "maps").is_dir():
        maps = sorted(path.name for path in (out / "maps").iterdir())
        foreign += [f"maps/{name}" for name in maps if not _MAP_NAME.fullmatch(name)]
    if foreign or (found and not is_result_folder(out)):
        held = ", ".join((foreign or found)[:5])
        raise FileExistsError(
            f"{out} holds something else than earlier results ({held}): give another folder"
        )


def write_results(result: Result, out: Path, heat_maps: int | None, progress: bool) -> Result:
    """Write everything, whole or not at all; the result with the column heat_map."""
    with _replacing(out) as folder:
        result, pictures = _write_maps(result, folder, heat_maps, progress)
        table = result.table
        table.to_csv(folder / "scores.csv", index=False, lineterminator="\n")
        table.to_parquet(folder / "scores.parquet", index=False)
        if len(result.metrics):
            result.metrics.to_csv(folder / "metrics.csv", index=False, lineterminator="\n")
        text = json.dumps(result.facts, indent=1, ensure_ascii=False, default=str) + "\n"
        (folder / "run.json").write_text(text, encoding="utf-8")
        (folder / "report.html").write_text(page(result, pictures), encoding="utf-8")
    return result


def chosen_for_report(table: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Places in the table: the highest scores, and others evenly spaced by rank."""
    ranked = table[table["status"] == "scored"].sort_values("score", ascending=False, kind="stable").index
    others = ranked[TOP:]
    step = max(1, math.ceil(len(others) / SAMPLE))
    return list(ranked[:TOP]), list(others[::step])


def _write_maps(
    result: Result, folder: Path, heat_maps: int | None, progress: bool
) -> tuple[Result, dict[int, tuple[str, str]]]:
    """Heat maps into `folder/maps`, and (picture, heat map) as data URIs of the images in the report."""
    table = result.table.assign(heat_map="")
    ranked = table[table["status"] == "scored"].sort_values("score", ascending=False, kind="stable").index
    wanted = set(ranked if heat_maps is None else ranked[:heat_maps]) if result.has_maps else set()
    top, sample = chosen_for_report(table)
    shown, pictures = {*top, *sample}, {}
    (folder / "maps").mkdir()
    looks = result.looks(wanted | shown)
    for look in tqdm(looks, total=len(wanted | shown), desc="heat maps", **silent(progress)):
        place, name = look.place, table["file"][look.place]
        try:
            image = result.image(look)
        except (BadImage, FileChanged):
            table.loc[place, "notes"] = "; ".join(
                filter(None, (table["notes"][place], "gone before it was drawn"))
            )
            continue
        drawn = draw(result, look, image) if result.has_maps else None
        if place in wanted:
            stem = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[-60:]
            table.loc[place, "heat_map"] = f"maps/{place:05d}-{stem}.jpg"
            drawn.save(folder / table["heat_map"][place], quality=88)
        if place in shown:
            pictures[place] = (_uri(thumbnail(image)), _uri(thumbnail(drawn)) if drawn else "")
    return replace(result, table=table), pictures


def draw(result: Result, look, image: Image.Image) -> Image.Image:
    """The heat map over the image."""
    width, height = shown_size(image.size)
    found = result.map(look, (height, width))
    return decorated(image.resize((width, height)), found, result.scale, result.threshold.map_value)


def gallery(result: Result, places: Sequence[int]) -> Figure:
    """Some scored images above their heat maps; `places` count the table's rows."""
    found = {}
    for look in result.looks(places):
        image = result.image(look)
        found[look.place] = image.resize(shown_size(image.size)), draw(result, look, image)
    rows = result.table.loc[list(places)]
    titles = [f"{row.file}\n{row.score:.3g}, {row.decision}" for row in rows.itertuples()]
    return pairs_figure([found[place] for place in places], titles, result.scale)


def page(result: Result, pictures: dict[int, tuple[str, str]]) -> str:
    """One HTML page that needs no other file and no network."""
    table, threshold = result.table, result.threshold
    ok = table[table["status"] == "scored"].sort_values("score", ascending=False, kind="stable")
    top, sample = chosen_for_report(table)
    has_map_threshold = math.isfinite(threshold.map_value) and result.has_maps
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value: f"{value:.4g}"
    template = environment.from_string(
        resources.files("zsad_predict").joinpath("report.html").read_text("utf-8")
    )
    card = lambda i: {**table.loc[i].to_dict(), "pictures": pictures.get(i, ("", ""))}  # noqa: E731
    return template.render(
        title=f"Anomaly scores of {result.facts['folder']}",
        method=METHOD_NAMES[result.facts["method"]],
        facts=result.facts,
        n=len(table),
        n_scored=len(ok),
        n_anomalous=int((ok["decision"] == "anomalous").sum()),
        threshold=threshold,
        messages=result.messages,
        histogram=_uri(histogram(ok["score"], threshold.value, result.references), "PNG"),
        has_references=len(result.references) > 0,
        about_map=result.about_map,
        colour_bar=_uri(colour_bar(), "PNG") if result.has_maps else "",
        scale=result.scale if result.has_maps else (0, 0),
        map_threshold=threshold.map_value if has_map_threshold else None,
        top=[card(i) for i in top],
        sample=[card(i) for i in sample],
        rows=ok.head(ROWS).to_dict("records"),
        more=max(0, len(ok) - ROWS),
        has_labels="label" in table,
        bad=table[(table["status"] != "scored") | (table["error"] != "")].head(ROWS).to_dict("records"),
        metrics=[{**row, "metric": METRICS[row["metric"]]} for row in result.metrics.to_dict("records")],
        provenance=list(_flat(result.facts)),
    )


def _flat(facts: dict[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
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
        check_out(out, [])
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir()
        yield new
        if out.exists():
            out.rename(old)
        new.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held, so that nobody locks a lost file
        lock.release()
