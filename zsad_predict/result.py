"""What is known of an image after it was scored, and of a whole run."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from zsad_core.image_features import TileFeatures
from zsad_core.maps import image_maps
from zsad_core.methods import smoothing
from zsad_predict.files import ImageFile, Reader
from zsad_predict.thresholds import Threshold

COLUMNS = ("file", "status", "score", "threshold", "decision", "rule", "notes", "error", "width", "height")
_SHOWN = 20  # files with a problem that are printed


@dataclass(frozen=True)
class Part:
    """Some files that could be opened, their SHA-256 digests, and the arrays of `parts.score_part`."""

    files: list[ImageFile]
    digests: list[str]
    arrays: Callable[[], dict[str, np.ndarray]] = field(repr=False)

    def records(self) -> list[dict]:
        """status, error and notes of each file."""
        return json.loads(self.arrays()["records"].tobytes())

    def dense(self) -> TileFeatures:
        """The maps, as the array `maps` of tiles; images without a score have no tile."""
        found = self.arrays()
        meta = pd.DataFrame(index=range(len(self.files)))
        return TileFeatures(meta, found["sizes"], found["owner"], found["boxes"], {"maps": found["maps"]})


class ScoredImage(NamedTuple):
    """row: its row in the table. size: (height, width). dense: of this image alone, with the array `maps`."""

    row: int
    path: Path
    digest: str
    size: tuple[int, int]
    dense: TileFeatures


@dataclass(frozen=True)
class Result:
    """What a run found.

    table: a row a file, sorted by name: `COLUMNS`, map_maximum (the highest value of the map of patches), and
        label if there are any. metrics: rows (task, metric, value, note); empty without labels.
    messages: what the user should know. facts: provenance and options, plain JSON.
    about_map: what the heat maps are. map_low: where their colours begin.
    references: scores of the normal references, (0,) without any.
    """

    table: pd.DataFrame
    threshold: Threshold
    messages: tuple[str, ...]
    facts: dict
    about_map: str
    map_low: float = 0.0
    references: np.ndarray = field(default_factory=lambda: np.empty(0))
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    parts: list[Part] = field(repr=False, default_factory=list)
    reader: Reader = field(repr=False, default_factory=Reader)
    smooth: bool = False

    @property
    def has_maps(self) -> bool:
        return bool(self.table["map_maximum"].notna().any())

    @property
    def ranked(self) -> pd.DataFrame:
        """The rows of the scored images, the highest score first."""
        scored = self.table[self.table["status"] == "scored"]
        return scored.sort_values("score", ascending=False, kind="stable")

    @property
    def scale(self) -> tuple[float, float]:
        """Of the colours of all heat maps: from the middle of a typical map to nearly the highest place of
        all, with the threshold well inside."""
        maxima, limit = self.table["map_maximum"].dropna(), self.threshold.map_value
        inside = self.map_low + 1.25 * (limit - self.map_low) if np.isfinite(limit) else self.map_low
        high = max(maxima.quantile(0.98), min(inside, maxima.max()))
        return self.map_low, max(float(high), self.map_low + 1e-9)

    def scored_images(self, wanted: Collection[int] | None = None) -> Iterator[ScoredImage]:
        """The scored images in these rows of the table, or all, part by part."""
        scored = self.table.index[self.table["status"] == "scored"]
        chosen = scored if wanted is None else scored.intersection(list(wanted))
        rows = {self.table["file"][row]: row for row in chosen}
        for part in self.parts:
            places = [i for i, file in enumerate(part.files) if file.name in rows]
            dense = part.dense() if places else None
            for i in places:
                file, one = part.files[i], dense.only(i)
                size = tuple(one.sizes[0].tolist())
                yield ScoredImage(rows[file.name], file.path, part.digests[i], size, one)

    def image(self, scored: ScoredImage) -> Image.Image:
        """The picture; raises BadImage or FileChanged if the file is no longer what it was."""
        return self.reader.photo(scored.path, scored.digest)[0]

    def map(self, scored: ScoredImage, size: tuple[int, int]) -> np.ndarray:
        """The heat map (h, w)."""
        sigma = smoothing((min(size),) * 2) if self.smooth else 0.0
        return next(image_maps(scored.dense, scored.dense.tensor("maps"), size, sigma))


def silent(progress: bool) -> dict[str, bool]:
    """Options of a bar: where it is wanted, the environment (TQDM_DISABLE) still decides."""
    return {} if progress else {"disable": True}


def summary(result: Result, out: Path) -> str:
    """What a person at a terminal wants to know."""
    table, bad = result.table, result.table[result.table["error"] != ""]
    flagged = result.ranked[result.ranked["decision"] == "anomalous"]
    lines = [
        f"{len(table)} files, {len(result.ranked)} scored, {len(flagged)} decided anomalous.",
        f"Anomalous is what scores {result.threshold.rule}.",
        *(f"Note: {message}" for message in result.messages),
        *(f"  {row.score:.4g}  {row.file}" for row in flagged.head(5).itertuples()),
    ]
    if len(flagged) > 5:
        lines.append(f"  … and {len(flagged) - 5} more")
    if len(bad):
        lines.append(f"{len(bad)} with a problem:")
        lines += [f"  {row.file}: {row.status}, {row.error}" for row in bad.head(_SHOWN).itertuples()]
    if len(bad) > _SHOWN:
        lines.append(f"  … and {len(bad) - _SHOWN} more, in scores.csv")
    for row in result.metrics.itertuples():
        value = "undefined" if row.value != row.value else f"{row.value:.3f}"
        lines.append(f"{row.task} {row.metric}: {value} ({row.note})")
    return "\n".join([*lines, f"Written to {out}: report.html, scores.csv, scores.parquet, maps, run.json."])
