"""Files as parts: read ahead while a GPU works, scored some tiles at a time, cached under their content.

A part is `dense.PART` files. What is kept of it are scores and maps of patches, no features and no pixels, so
that a killed run goes on with the part it was in and the memory does not grow with the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from zsad_core.cache import cached_arrays
from zsad_core.image_features import PART
from zsad_core.images import BadImage
from zsad_core.loading import Preprocess, made_ahead, worker_count
from zsad_predict.files import Cut, Entry, FileChanged, Reader, digest_of, opened
from zsad_predict.result import COLUMNS, Part, silent
from zsad_predict.scorers import Detect, Scorer, see

TILES = 32
"""Square tiles that are encoded at once; bounds the memory, not the result."""


def score_parts(
    entries: Sequence[Entry],
    scorer: Scorer,
    detect: Detect,
    reader: Reader,
    cache_dir: str | Path,
    *,
    key: Mapping[str, object] | None = None,
    name: str = "images",
    progress: bool = True,
) -> tuple[list[Part], dict[str, BadImage]]:
    """Every file that can be opened in some part, and for the others the reason, by name.

    key: what `detect` depends on besides the scorer. name: of the bar.
    """
    failed: dict[str, BadImage] = {}
    parts: list[Part] = []
    candidates = [entry for entry in entries if not entry.status]
    # on a processor they would take the encoder's cores: a tenth slower with two
    workers = 0 if scorer.encoder.device.type == "cpu" else worker_count(len(candidates))
    key = {**scorer.key, **reader.key, **(key or {})}
    with tqdm(total=len(candidates), desc=name, unit="image", **silent(progress)) as bar:
        for start in range(0, len(candidates), PART):
            waiting = candidates[start : start + PART]
            end = start + len(waiting)
            while waiting:
                waiting, digests = _openable(waiting, failed)
                options = {"workers": workers, "told": bar.update}
                compute = partial(look, waiting, digests, scorer, detect, reader, **options)
                folder, own = Path(cache_dir) / "your_images", {**key, "files": digests}
                part = Part(waiting, digests, partial(cached_arrays, folder, scorer.method, own, compute))
                try:
                    if waiting:
                        part.arrays()
                        parts.append(part)
                    break
                except FileChanged as changed:  # without it, once more
                    moved = [entry for entry in waiting if str(entry.path) == str(changed)]
                    failed |= {e.name: BadImage("unreadable", "it changed while it was read") for e in moved}
                    waiting = [entry for entry in waiting if entry not in moved]
            bar.update(end - bar.n)  # what was cached, could not be opened, or was looked at twice
    return parts, failed


def look(
    entries: Sequence[Entry],
    digests: Sequence[str],
    scorer: Scorer,
    detect: Detect,
    reader: Reader,
    *,
    workers: int = 0,
    told: Callable[[int], object] = lambda number: None,
) -> dict[str, np.ndarray]:
    """Scores (n,), NaN for a file that is no whole image, sizes (n, 2), the tiles' owner, boxes and maps, and
    records as JSON. No name is kept: equal files are equal, whatever they are called.

    workers: processes that read files ahead. told: is called with how many more images have been scored.
    """
    scores, sizes, records = np.full(len(entries), np.nan), np.zeros((len(entries), 2), int), []
    found: dict[str, list[np.ndarray]] = {"owner": [], "boxes": [], "maps": []}
    pending: list[tuple[int, Cut]] = []

    def flush() -> None:
        numbers = np.array([number for number, _ in pending])
        dense = see(scorer, [image for _, image in pending])
        output = detect(dense)
        scores[numbers] = dense.mean_of_tiles(output.scores)
        maps = np.zeros((len(dense.owner), 0, 0)) if output.maps is None else np.asarray(output.maps)
        for name, values in (("owner", numbers[dense.owner]), ("boxes", dense.boxes), ("maps", maps)):
            found[name].append(values)
        told(len(pending))
        pending.clear()

    files = [(entry.path, digest) for entry, digest in zip(entries, digests, strict=True)]
    own = {"reader": reader, "encoder": Preprocess.of(scorer.encoder), "crops": scorer.crops}
    with closing(made_ahead(files, partial(opened, **own), workers=workers)) as images:
        for number, (image, record) in enumerate(images):
            records.append(record)
            if image is None:
                continue
            pending.append((number, image))
            sizes[number] = image.size
            if sum(len(image.tiles) for _, image in pending) >= TILES:
                flush()
    if pending:
        flush()
    if not np.isfinite(scores[[record["status"] == "scored" for record in records]]).all():
        raise ValueError("a score is no number: check the weights, or take precision fp32")
    empty = {"owner": np.zeros(0, int), "boxes": np.zeros((0, 4), int), "maps": np.zeros((0, 0, 0))}
    arrays = {name: np.concatenate(found[name]) if found[name] else value for name, value in empty.items()}
    arrays["maps"] = arrays["maps"].astype(np.float32)
    text = np.frombuffer(json.dumps(records).encode(), np.uint8)
    return {"scores": scores, "sizes": sizes, "records": text, **arrays}


def table_of(
    entries: Sequence[Entry], parts: Sequence[Part], failed: Mapping[str, BadImage]
) -> tuple[pd.DataFrame, float]:
    """A row a file with `COLUMNS` and map_maximum, and the median over images of their maps' medians (0
    without maps)."""
    rows = {}
    for entry in entries:
        bad = failed.get(entry.name)
        status, error = (bad.status, str(bad)) if bad else (entry.status, entry.error)
        rows[entry.name] = {"file": entry.name, "status": status, "error": error, "notes": ""}
    middles = []
    for part in parts:
        found = part.arrays()
        for i, (entry, record) in enumerate(zip(part.entries, part.records(), strict=True)):
            rows[entry.name] |= {**record, "notes": "; ".join(record["notes"])}
            if record["status"] != "scored":
                continue
            height, width = found["sizes"][i].tolist()
            rows[entry.name] |= {"score": float(found["scores"][i]), "width": width, "height": height}
            own = found["maps"][found["owner"] == i]
            if own.size:
                rows[entry.name]["map_maximum"] = float(own.max())
                middles.append(float(np.median(own)))
    table = pd.DataFrame(list(rows.values()), columns=[*COLUMNS, "map_maximum"])
    numbers = {"score": "float64", "map_maximum": "float64", "width": "Int64", "height": "Int64"}
    return table.astype(numbers), float(np.median(middles)) if middles else 0.0


def named(table: pd.DataFrame, most: int = 5) -> str:
    """The first files of a table with their errors, in words."""
    if table.empty:
        return "there is no file in it"
    shown = [f"{row.file} ({row.error})" for row in table.head(most).itertuples()]
    return ", ".join(shown) + (f" and {len(table) - most} more" if len(table) > most else "")


def _openable(entries: Sequence[Entry], failed: dict[str, BadImage]) -> tuple[list[Entry], list[str]]:
    """Those that can be opened, and their digests; the reason of the others goes into `failed`."""
    digests = {}
    for entry in entries:
        try:
            digests[entry] = digest_of(entry.path)
        except BadImage as error:
            failed[entry.name] = error
    return list(digests), list(digests.values())
