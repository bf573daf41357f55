"""Files scored in parts, cached, so that memory does not grow with the folder; and the result of a run."""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from zsad_core.cache import cached_arrays
from zsad_core.image_features import PART, TileFeatures, made_ahead, worker_count
from zsad_core.images import BadImage
from zsad_core.methods import smoothing
from zsad_core.pixel_metrics import image_maps
from zsad_predict.files import FileChanged, ImageFile, Reader, digest_of, record_of
from zsad_predict.scorers import Scorer, embed, reader_of
from zsad_predict.thresholds import Threshold

TILES = 32  # that are encoded at once; bounds the memory, not the result
VERSION = 2  # of the cached arrays and of how files are read: part of their key
COLUMNS = ("file", "status", "score", "threshold", "decision", "rule", "notes", "error", "width", "height")


def score_files(
    files: Sequence[ImageFile], scorer: Scorer, reader: Reader, cache_dir: str, *, name: str, progress: bool
) -> tuple[pd.DataFrame, list[TileFeatures]]:
    """The table of `table_of`, and in memory-mapped parts the maps of all images: the array `maps` of tiles,
    and a file's name, path and digest in `meta`. name: of the bar."""
    parts, records, candidates = [], {}, [file for file in files if not file.problem]
    workers = worker_count(len(candidates), scorer.encoder.device)

    def score_cached(files: Sequence[ImageFile]) -> None:
        """Without the files that cannot be opened, or change meanwhile."""
        digests = {}
        for file in files:
            try:
                digests[file] = digest_of(file.path)
            except BadImage as problem:
                records[file.name] = record_of(problem)
        key = {**scorer.key, "version": VERSION, **asdict(reader), "files": list(digests.values())}
        compute = partial(score_part, digests, scorer, reader, workers=workers, on_progress=bar.update)
        try:
            found = cached_arrays(Path(cache_dir) / "your_images", scorer.method, key, compute)
        except FileChanged as changed:
            moved = [file for file in digests if str(file.path) == changed.file]
            records.update({file.name: record_of(changed) for file in moved})
            score_cached([file for file in digests if file not in moved])
        else:
            own = pd.DataFrame(json.loads(found["records"].tobytes())).assign(digest=digests.values())
            records.update(zip((file.name for file in digests), own.to_dict("records")))
            if "maps" in found:
                meta = pd.DataFrame([(file.name, file.path) for file in digests], columns=["file", "path"])
                sizes = own[["height", "width"]].fillna(0).to_numpy(int)
                arrays = {"maps": found["maps"]}
                parts.append(TileFeatures(meta.join(own), sizes, found["owner"], found["boxes"], arrays))

    with tqdm(total=len(candidates), desc=name, unit="image", **silent(progress)) as bar:
        for start in range(0, len(candidates), PART):
            score_cached(candidates[start : start + PART])
            bar.update(min(start + PART, len(candidates)) - bar.n)  # also those from the cache
    return table_of(files, records), parts


def score_part(
    digests: Mapping[ImageFile, str], scorer: Scorer, reader: Reader, *, workers: int, on_progress: Callable
) -> dict[str, np.ndarray]:
    """For each tile the number of its file (owner), box and map; `records` of all files, as JSON: status,
    error, notes and, for an image, score, size, maximum and median of its map; no names.
    workers: processes that read files ahead. on_progress: called with the number of images scored since."""
    records, found, pending = [], [], {}
    files = [(file.path, digest) for file, digest in digests.items()]
    with closing(made_ahead(files, reader_of(scorer, reader), workers=workers)) as made:
        for number, (image, record) in enumerate(made):
            records.append(record)
            if image is not None:
                pending[number] = image
            full = sum(len(image.boxes) for image in pending.values()) >= TILES
            if pending and (full or number == len(files) - 1):
                features = embed(scorer, list(pending.values()))
                scores, maps = scorer.detect(features)
                maps = np.zeros((len(features.owner), 0, 0)) if maps is None else np.asarray(maps)
                numbers, maps = np.array(list(pending)), maps.astype(np.float32)
                found.append({"owner": numbers[features.owner], "boxes": features.boxes, "maps": maps})
                for i, score in enumerate(features.mean_of_tiles(scores).tolist()):
                    size = dict(zip(("height", "width"), features.sizes[i].tolist()))
                    records[numbers[i]] |= {"score": score, **size, **_about(maps[features.owner == i])}
                on_progress(len(pending))
                pending.clear()
    if not all(math.isfinite(record.get("score", 0)) for record in records):
        raise ValueError("a score is no number: check the weights, or take precision fp32")
    arrays = {name: np.concatenate([batch[name] for batch in found]) for name in (found or [()])[0]}
    return {**arrays, "records": np.frombuffer(json.dumps(records).encode(), np.uint8)}


def _about(maps: np.ndarray) -> dict[str, float]:
    return {"map_maximum": float(maps.max()), "map_median": float(np.median(maps))} if maps.size else {}


def table_of(files: Sequence[ImageFile], records: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """A row a file with `COLUMNS`, its digest, and the maximum and the median of its map (NaN without one).
    records: by name, of the files that `find_files` has no problem with."""
    rows = [record_of(file.problem) if file.problem else records.get(file.name, {}) for file in files]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "digest", "map_maximum", "map_median"])
    table["file"] = [file.name for file in files]
    types = dict.fromkeys(("score", "map_maximum", "map_median"), "float64")
    types |= {"width": "Int64", "height": "Int64", "status": object, "error": object}
    return table.astype(types)


def silent(progress: bool) -> dict[str, bool]:
    """Options of a progress bar: if it is wanted, the environment (TQDM_DISABLE) still decides."""
    return {} if progress else {"disable": True}


def named(table: pd.DataFrame) -> str:
    """The first five files of a table with their errors, in words."""
    if table.empty:
        return "there is no file in it"
    shown = ", ".join(f"{row.file} ({row.error})" for row in table.head(5).itertuples())
    return shown + (f" and {len(table) - 5} more" if len(table) > 5 else "")


@dataclass(frozen=True)
class Result:
    """table: a row a file, sorted by name: `COLUMNS`, map_maximum (the highest value of the map of
        patches), and label if there are any. metrics: rows (task, metric, value, note); empty without labels.
    messages: for the user. facts: provenance and options, plain JSON.
    about_map: what the heat maps are. map_low: where their colours begin. references: their scores."""

    table: pd.DataFrame
    threshold: Threshold
    messages: tuple[str, ...]
    facts: dict
    about_map: str
    map_low: float = 0.0
    references: tuple[float, ...] = ()
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    parts: Sequence[TileFeatures] = field(repr=False, default=())
    reader: Reader = Reader()
    smooth: bool = False

    @property
    def has_maps(self) -> bool:
        return bool(self.table["map_maximum"].notna().any())

    @property
    def bad(self) -> pd.DataFrame:
        return self.table[self.table["error"] != ""]

    @property
    def ranked(self) -> pd.DataFrame:
        """The rows of the scored images, the highest score first."""
        scored = self.table[self.table["status"] == "scored"]
        return scored.sort_values("score", ascending=False, kind="stable")

    @property
    def scale(self) -> tuple[float, float]:
        """Of the heat maps' colours: a typical map's median to nearly the highest value, threshold inside."""
        maxima, limit = self.table["map_maximum"].dropna(), self.threshold.map_value
        inside = self.map_low + 1.25 * (limit - self.map_low) if np.isfinite(limit) else self.map_low
        high = max(maxima.quantile(0.98), min(inside, maxima.max()))
        return self.map_low, max(float(high), self.map_low + 1e-9)

    def scored_images(self, wanted: Collection[int] | None = None) -> Iterator[tuple[int, TileFeatures]]:
        """The scored images in these rows of the table, or all, part by part: the row, and the maps."""
        chosen = self.ranked if wanted is None else self.ranked.loc[list(wanted)]
        rows = dict(zip(chosen["file"], chosen.index, strict=True))
        for part in self.parts:
            for i, name in enumerate(part.meta["file"]):
                if name in rows:
                    yield rows[name], part.only(i)

    def map(self, image: TileFeatures, size: tuple[int, int]) -> np.ndarray:
        """The heat map (h, w)."""
        sigma = smoothing((min(size),) * 2) if self.smooth else 0.0
        return next(image_maps(image, image.tensor("maps"), size, sigma))


def summary(result: Result, out: Path) -> str:
    """What the terminal shows after a run."""
    flagged = result.ranked[result.ranked["decision"] == "anomalous"]
    lines = [
        f"{len(result.table)} files, {len(result.ranked)} scored, {len(flagged)} decided anomalous.",
        f"Anomalous is what scores {result.threshold.rule}.",
        *(f"  {row.score:.4g}  {row.file}" for row in flagged.head(5).itertuples()),
        *(f"Note: {message}" for message in result.messages),
    ]
    if len(result.bad):
        lines.append(f"{len(result.bad)} with a problem: {named(result.bad)}")
    for row in result.metrics.itertuples():
        value = "undefined" if np.isnan(row.value) else f"{row.value:.3f}"
        lines.append(f"{row.task} {row.metric}: {value} ({row.note})")
    return "\n".join([*lines, f"Written to {out}: report.html, scores.csv, scores.parquet, maps, run.json."])
