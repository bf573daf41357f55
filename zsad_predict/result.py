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

from zsad_core.image_features import Dense
from zsad_core.maps import image_maps
from zsad_core.methods import smoothing
from zsad_predict.files import (
    Entry,
    Reader,
)
from zsad_predict.thresholds import Threshold


class Look(NamedTuple):
    """A scored image once more. place: of its row in the table."""

    place: int
    part: Part
    number: int
    dense: Dense


@dataclass(frozen=True)
class Result:
    """What a run found.

    table: a row a file, sorted by name: `image_parts.COLUMNS`, map_maximum (the highest value of the map of
        patches), and label if there are any. metrics: rows (task, metric, value, note); empty without labels.
    messages: what the user should know. facts: provenance and options, plain JSON.
    about_map: what the heat maps are. map_low: where their colours begin.
    references: scores of the normal references, (0,) without any.
    """

    table: pd.DataFrame
    threshold: Threshold
    messages: tuple[str, ...]
    facts: dict
    about_map: str
    map_low: float
    references: np.ndarray
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    parts: list[Part] = field(repr=False, default_factory=list)
    reader: Reader = field(repr=False, default=None)
    smooth: bool = False

    @property
    def has_maps(self) -> bool:
        return bool(self.table["map_maximum"].notna().any())

    @property
    def scale(self) -> tuple[float, float]:
        """Of the colours of all heat maps: from the middle of a typical map to nearly the highest place of
        all, with the threshold well inside."""
        maxima, limit = self.table["map_maximum"].dropna(), self.threshold.map_value
        inside = self.map_low + 1.25 * (limit - self.map_low) if np.isfinite(limit) else self.map_low
        high = max(maxima.quantile(0.98), min(inside, maxima.max()))
        return self.map_low, max(float(high), self.map_low + 1e-9)

    def looks(self, wanted: Collection[int] | None = None) -> Iterator[Look]:
        """The scored images at these places of the table, or all, part by part."""
        ok = self.table.index[self.table["status"] == "scored"]
        places = {self.table["file"][i]: i for i in (ok if wanted is None else ok.intersection(list(wanted)))}
        for part in self.parts:
            chosen = [i for i, entry in enumerate(part.entries) if entry.name in places]
            dense = part.dense() if chosen else None
            for i in chosen:
                yield Look(places[part.entries[i].name], part, i, dense)

    def image(self, look: Look) -> Image.Image:
        """The picture; raises BadImage or FileChanged if the file is no longer what it was."""
        return self.reader.photo(look.part.entries[look.number].path, look.part.digests[look.number]).image

    def map(self, look: Look, size: tuple[int, int]) -> np.ndarray:
        """The heat map (h, w)."""
        one = look.dense.only(look.number)
        sigma = smoothing((min(size),) * 2) if self.smooth else 0.0
        return next(image_maps(one, one.tensor("maps"), size, sigma))


COLUMNS = ("file", "status", "score", "threshold", "decision", "rule", "notes", "error", "width", "height")


@dataclass(frozen=True)
class Part:
    """Some files that could be opened, their SHA-256 digests, and what `look` found in them."""

    entries: list[Entry]
    digests: list[str]
    arrays: Callable[[], dict[str, np.ndarray]] = field(repr=False)

    def records(self) -> list[dict]:
        """status, error and notes of each file."""
        return json.loads(self.arrays()["records"].tobytes())

    def dense(self) -> Dense:
        """The maps, as the array `maps` of tiles; images without a score have no tile."""
        found = self.arrays()
        meta = pd.DataFrame(index=range(len(self.entries)))
        return Dense(meta, found["sizes"], found["owner"], found["boxes"], {"maps": found["maps"]})


def silent(progress: bool) -> dict[str, bool]:
    """Options of a bar: where it is wanted, the environment (TQDM_DISABLE) still decides."""
    return {} if progress else {"disable": True}


_SHOWN = 20  # files with a problem that are printed


def summary(result: Result, out: Path) -> str:
    """What a person at a terminal wants to know."""
    table = result.table
    scored, bad = table[table["status"] == "scored"], table[table["error"] != ""]
    flagged = scored[scored["decision"] == "anomalous"].sort_values("score", ascending=False)
    lines = [
        f"{len(table)} files, {len(scored)} scored, {len(flagged)} decided anomalous.",
        f"Anomalous is what scores {result.threshold.rule}.",
        *(f"Note: {message}" for message in result.messages),
    ]
    lines += [f"  {row.score:.4g}  {row.file}" for row in flagged.head(5).itertuples()]
    lines += [f"  … and {len(flagged) - 5} more" for _ in range(len(flagged) > 5)]
    if len(bad):
        lines += [f"{len(bad)} with a problem:"]
        lines += [f"  {row.file}: {row.status}, {row.error}" for row in bad.head(_SHOWN).itertuples()]
        lines += [f"  … and {len(bad) - _SHOWN} more, in scores.csv" for _ in range(len(bad) > _SHOWN)]
    for row in result.metrics.itertuples() if len(result.metrics) else ():
        value = "undefined" if row.value != row.value else f"{row.value:.3f}"
        lines.append(f"{row.task} {row.metric}: {value} ({row.note})")
    return "\n".join([*lines, f"Written to {out}: report.html, scores.csv, scores.parquet, maps, run.json."])
