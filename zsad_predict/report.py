"""The folder of results: tables, heat maps in one scale of colours, provenance, and one page to read."""

import base64
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import jinja2
import matplotlib as mpl
import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image
from scipy.ndimage import binary_dilation
from tqdm import tqdm

from zsad_core.images import BadImage
from zsad_predict.files import is_result_folder
from zsad_predict.options import METHODS
from zsad_predict.result import Result, silent

FILES = ("scores.csv", "scores.parquet", "metrics.csv", "report.html", "run.json", "maps")
TOP, SAMPLE, ROWS = 24, 12, 1000  # in the report: highest scores, others evenly spaced by rank, rows
METRICS = {
    "auroc": "AUROC", "ap": "average precision", "f1max": "F1-max", "pro": "PRO", "precision": "precision",
    "recall": "recall", "false_alarms": "false alarms among normal images",
}  # fmt: skip
SMALLEST, LARGEST, THUMBNAIL = 256, 640, 288  # longer edge in pixels of a heat map, and in the report


def check_out(out: Path, inputs: Sequence[str | Path] = ()) -> None:
    """FileExistsError if `out` holds anything but an earlier run's results, ValueError if it holds an input,
    OSError if nothing can be written beside it."""
    for path in inputs:
        if Path(path).resolve().is_relative_to(out.resolve()):
            raise ValueError(f"the results in {out} would replace {path}, which is read: give another folder")
    place = next(path for path in out.absolute().parents if path.exists())
    try:
        tempfile.TemporaryDirectory(prefix=".zsad-", dir=place).cleanup()
    except OSError as error:
        raise OSError(f"{place} cannot be written ({error.strerror}): give another folder") from None
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: give a folder for the results")
    found = sorted(path.relative_to(out).as_posix() for path in (*out.glob("*"), *out.glob("maps/*")))
    foreign = [name for name in found if name not in FILES and not re.fullmatch(r"maps/\d{5,}-.*\.jpg", name)]
    if foreign or (found and not is_result_folder(out)):
        held = ", ".join((foreign or found)[:5])
        raise FileExistsError(f"{out} holds something else than results ({held}): give another folder")


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


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A hidden folder that replaces `out` after the block. BlockingIOError while another run writes there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    new, old = (out.with_name(f".{out.name}.{state}") for state in ("unfinished", "earlier"))
    lock = FileLock(out.with_name(f".{out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"another run is writing to {out}: wait until it has ended") from None
    try:
        check_out(out)
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        new.mkdir()
        yield new
        if out.exists():  # a run killed between the two renames leaves the earlier results under `old`
            out.rename(old)
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)  # while held: no process locks a removed file
        lock.release()


def _write_maps(
    result: Result, folder: Path, heat_maps: int | None, progress: bool
) -> tuple[Result, dict[int, list[str]]]:
    """Heat maps into `folder/maps`; as data URIs, each image of the report and its heat map if it has one."""
    table = result.table.assign(heat_map="")
    wanted = set(result.ranked.index[:heat_maps]) if result.has_maps else set()
    shown, pictures = {row for rows in _chosen(result) for row in rows}, {}
    (folder / "maps").mkdir()
    images = result.scored_images(wanted | shown)
    for row, maps in tqdm(images, total=len(wanted | shown), desc="heat maps", **silent(progress)):
        try:
            image = result.reader.photo(*maps.meta.loc[0, ["path", "digest"]])[0]
        except BadImage:
            notes = filter(None, [table["notes"][row], "gone before it was drawn"])
            table.loc[row, "notes"] = "; ".join(notes)
            continue
        both = [image]
        if result.has_maps:
            large = _resized(image, np.clip(max(image.size), SMALLEST, LARGEST))
            heat = result.map(maps, large.size[::-1])
            both.append(decorated(large, heat, result.scale, result.threshold.map_value))
        if row in wanted:
            stem = re.sub(r"[^\w.-]+", "_", table["file"][row], flags=re.ASCII)[-60:]
            table.loc[row, "heat_map"] = f"maps/{row:05d}-{stem}.jpg"
            both[1].save(folder / table["heat_map"][row], quality=88)
        if row in shown:
            pictures[row] = [_uri(_resized(picture, THUMBNAIL)) for picture in both]
    return replace(result, table=table), pictures


def _chosen(result: Result) -> tuple[list[int], list[int]]:
    """Rows for the report: the highest scores, and others evenly spaced by rank."""
    rows = list(result.ranked.index)
    return rows[:TOP], rows[TOP :: max(1, math.ceil((len(rows) - TOP) / SAMPLE))]


def page(result: Result, pictures: Mapping[int, Sequence[str]]) -> str:
    """One HTML page that needs no other file and no network."""
    here = jinja2.PackageLoader("zsad_predict", ".")
    environment = jinja2.Environment(loader=here, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = "{:.4g}".format
    table = result.table.assign(pictures=[pictures.get(row, ()) for row in result.table.index])
    top, sample = (table.loc[rows].to_dict("records") for rows in _chosen(result))
    histogram = score_histogram(result.ranked["score"], result.threshold.value, result.references)
    colours = np.tile(np.linspace(0, 1, 256), (12, 1))  # from low to high
    return environment.get_template("report.html").render(
        result=result,
        method=METHODS[result.facts["method"]]["title"],
        histogram=_uri(histogram, "PNG"),
        colour_bar=_uri(Image.fromarray(_mixed(colours, 0.5)), "PNG") if result.has_maps else "",
        top=top,
        sample=sample,
        n_rows=ROWS,
        metrics=result.metrics.replace({"metric": METRICS}).to_dict("records"),
        provenance=pd.json_normalize(result.facts, sep=": ").iloc[0].to_dict(),
    )


def _uri(image: Image.Image, kind: str = "JPEG") -> str:
    buffer = BytesIO()
    image.save(buffer, kind, **({"quality": 82} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _resized(image: Image.Image, longer: int) -> Image.Image:
    """The image with `longer` pixels along its longer edge, in the same shape."""
    size = [max(1, round(edge * longer / max(image.size))) for edge in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)


def decorated(image: Image.Image, heat: np.ndarray, scale: tuple[float, float], limit: float) -> Image.Image:
    """The heat map (h, w) over the image in grey. scale: values of the darkest and of the brightest colour.
    limit: a line encloses where the map is above it; NaN draws none."""
    low, high = scale
    pixels = _mixed((heat - low) / (high - low), np.asarray(image.convert("L"), float)[..., None] / 255)
    above = heat > limit
    line = binary_dilation(above) & ~above
    pixels[binary_dilation(line)] = 0
    pixels[line] = 255
    return Image.fromarray(pixels)


def _mixed(heat: np.ndarray, grey: np.ndarray | float) -> np.ndarray:
    """(h, w, 3) uint8 from heat (h, w), where 0 to 1 is the range of colours, and grey."""
    mixed = 0.4 * grey + 0.6 * mpl.colormaps["inferno"](np.clip(heat, 0, 1))[..., :3]
    return (mixed * 255).round().astype(np.uint8)


@mpl.rc_context({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "savefig.facecolor": "white"})
def score_histogram(scores: ArrayLike, threshold: float, references: ArrayLike = ()) -> Image.Image:
    """Histogram of the scores; the threshold as a dashed line, normal references as marks below the axis."""
    figure = Figure(figsize=(6.4, 2.9), layout="constrained")
    axis, scores, references = figure.subplots(), np.asarray(scores, float), np.asarray(references, float)
    both = np.append(scores, references)
    ends = both.min() - 1e-6, both.max() + 1e-6  # bins have a width also if all scores are equal
    edges = np.histogram_bin_edges(both, min(40, max(8, len(scores) // 3)), ends)
    axis.hist(scores, edges, color="#0072B2", edgecolor="white", label=f"your images ({len(scores)})")
    if len(references):
        label = f"normal references ({len(references)})"
        axis.plot(references, np.zeros(len(references)), "|", ms=16, mew=1.6, color="black", label=label)
    axis.axvline(threshold, color="#D55E00", ls="--", lw=2, label=f"threshold {threshold:.4g}")
    axis.set(xlabel="score", ylabel="images")
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=9)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return Image.open(buffer)
