"""How the work on a large dataset is cut into jobs: by category, and a category into shards of images."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

SHARD = 1024
"""Images in a shard. It does not depend on the number of workers, and results do not depend on it."""

KINDS = ("views", "winclip", "backbone", "anomalyclip")
"""Of features that are computed for the studies, see `features`."""

T = TypeVar("T")


def of_shard(parts: Sequence[T], size: int, shard: int) -> Sequence[T]:
    """Those of the parts of `size` images that make this shard, counted from 0; none behind the last.

    >>> list(of_shard(range(20), 128, 2))
    [16, 17, 18, 19]
    """
    number = max(1, SHARD // size)
    return parts[shard * number : (shard + 1) * number]


def jobs_of(table: str | Path, limit: int | None = None) -> list[tuple[str, int]]:
    """(category, shard) of all jobs that a prepared dataset is cut into; none for one that is small enough,
    of at most `SHARD` images, to be done in one go.

    table: its meta.csv. limit: as in `AnomalyDataset.limit`.
    """
    images: Counter[str] = Counter()
    with Path(table).open(encoding="utf-8-sig", newline="") as file:
        rows = Counter((row["category"], row["split"], row["label"]) for row in csv.DictReader(file))
    for (category, split, _), number in rows.items():
        images[category] += min(number, limit) if limit and split == "test" else number
    if images.total() <= SHARD:
        return []
    return [(category, shard) for category, number in images.items() for shard in range(-(-number // SHARD))]
