"""Files in parts: read ahead while a GPU works, scored some tiles at a time, cached under their content.

A part is `image_features.PART` files. Scores and maps of patches are kept, features and pixels are not. So a
killed run goes on with the part it was in, and the memory does not grow with the folder.
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
from zsad_core.image_features import PART, made_ahead, worker_count
from zsad_core.images import BadImage
from zsad_predict.files import FileChanged, ImageFile, Reader, Tiles, digest_of, read_tiles
from zsad_predict.result import COLUMNS, Part, silent
from zsad_predict.scorers import Scorer, embed

TILES = 32
"""Square tiles that are encoded at once; bounds the memory, not the result."""


def score_parts(
    files: Sequence[ImageFile],
    scorer: Scorer,
    reader: Reader,
    cache_dir: str | Path,
    *,
    name: str = "images",
    progress: bool = True,
) -> tuple[list[Part], dict[str, BadImage]]:
    """Every file that can be opened in some part, and for the others the reason, by name. name: of the
    bar."""
    failed: dict[str, BadImage] = {}
    parts: list[Part] = []
    candidates = [file for file in files if not file.status]
    # on a CPU, workers would take the encoder's cores: a tenth slower with two
    workers = 0 if scorer.encoder.device.type == "cpu" else worker_count(len(candidates))
    with tqdm(total=len(candidates), desc=name, unit="image", **silent(progress)) as bar:
        score = partial(score_part, scorer=scorer, reader=reader, workers=workers, on_progress=bar.update)
        for start in range(0, len(candidates), PART):
            chosen = candidates[start : start + PART]
            part = _cached_part(chosen, failed, scorer, reader, Path(cache_dir) / "your_images", score)
            parts += [part] if part.files else []
            bar.update(start + len(chosen) - bar.n)  # those that were cached, or could not be opened
    return parts, failed


def _cached_part(
    files: list[ImageFile],
    failed: dict[str, BadImage],
    scorer: Scorer,
    reader: Reader,
    folder: Path,
    score: Callable[..., dict[str, np.ndarray]],
) -> Part:
    """A part of those files that can be opened and do not change meanwhile; the others go into `failed`."""
    digests: dict[ImageFile, str] = {}
    for file in files:
        try:
            digests[file] = digest_of(file.path)
        except BadImage as error:
            failed[file.name] = error
    files = list(digests)
    key = {**scorer.key, "whole": reader.whole, "bits": reader.bits, "files": list(digests.values())}
    compute = partial(score, files, key["files"])
    part = Part(files, key["files"], partial(cached_arrays, folder, scorer.method, key, compute))
    try:
        if files:
            part.arrays()
    except FileChanged as changed:
        moved = [file for file in files if str(file.path) == str(changed)]
        failed |= {file.name: BadImage("unreadable", "it changed while it was read") for file in moved}
        return _cached_part([f for f in files if f not in moved], failed, scorer, reader, folder, score)
    return part


def score_part(
    files: Sequence[ImageFile],
    digests: Sequence[str],
    scorer: Scorer,
    reader: Reader,
    *,
    workers: int = 0,
    on_progress: Callable[[int], object],
) -> dict[str, np.ndarray]:
    """Scores (n,), NaN for a file that is no whole image, sizes (n, 2), the tiles' owner, boxes and maps, and
    records as JSON. No name is kept: equal files are equal, whatever they are called.

    workers: processes that read files ahead. on_progress: called with the number of images scored since.
    """
    scores, sizes, records = np.full(len(files), np.nan), np.zeros((len(files), 2), int), []
    tiles = {"owner": [np.zeros(0, int)], "boxes": [np.zeros((0, 4), int)], "maps": []}
    pending: list[tuple[int, Tiles]] = []

    def flush() -> None:
        numbers = np.array([number for number, _ in pending])
        dense = embed(scorer, [image for _, image in pending])
        output = scorer.detect(dense)
        scores[numbers] = dense.mean_of_tiles(output.scores)
        maps = np.zeros((len(dense.owner), 0, 0)) if output.maps is None else np.asarray(output.maps)
        for name, values in (("owner", numbers[dense.owner]), ("boxes", dense.boxes), ("maps", maps)):
            tiles[name].append(values)
        on_progress(len(pending))
        pending.clear()

    items = [(file.path, digest) for file, digest in zip(files, digests, strict=True)]
    make = partial(read_tiles, reader=reader, model=scorer.model, crops=scorer.crops)
    with closing(made_ahead(items, make, workers=workers)) as images:
        for number, (image, record) in enumerate(images):
            records.append(record)
            if image is not None:
                pending.append((number, image))
                sizes[number] = image.size
            if sum(len(image.tiles) for _, image in pending) >= TILES:
                flush()
    if pending:
        flush()
    if not np.isfinite(scores[[record["status"] == "scored" for record in records]]).all():
        raise ValueError("a score is no number: check the weights, or take precision fp32")
    arrays = {name: np.concatenate(values or [np.zeros((0, 0, 0))]) for name, values in tiles.items()}
    arrays["maps"] = arrays["maps"].astype(np.float32)
    return {"scores": scores, "sizes": sizes, **arrays, "records": _as_bytes(records)}


def _as_bytes(records: list[dict]) -> np.ndarray:
    return np.frombuffer(json.dumps(records).encode(), np.uint8)


def table_of(
    files: Sequence[ImageFile], parts: Sequence[Part], failed: Mapping[str, BadImage]
) -> tuple[pd.DataFrame, float]:
    """A row a file with `COLUMNS` and map_maximum, and the median over images of their maps' medians (0
    without maps)."""
    rows, middles = {}, []
    for file in files:
        bad = failed.get(file.name)
        status, error = (bad.status, bad.reason) if bad else (file.status, file.error)
        rows[file.name] = {"file": file.name, "status": status, "error": error, "notes": ""}
    for part in parts:
        found = part.arrays()
        for i, (file, record) in enumerate(zip(part.files, part.records(), strict=True)):
            row = rows[file.name]
            row |= {**record, "notes": "; ".join(record["notes"])}
            if record["status"] == "scored":
                row["score"] = float(found["scores"][i])
                row["height"], row["width"] = found["sizes"][i].tolist()
                maps = found["maps"][found["owner"] == i]
                if maps.size:
                    row["map_maximum"] = float(maps.max())
                    middles.append(float(np.median(maps)))
    table = pd.DataFrame(list(rows.values()), columns=[*COLUMNS, "map_maximum"])
    numbers = {"score": "float64", "map_maximum": "float64", "width": "Int64", "height": "Int64"}
    return table.astype(numbers), float(np.median(middles)) if middles else 0.0


def named(table: pd.DataFrame, most: int = 5) -> str:
    """The first files of a table with their errors, in words."""
    if table.empty:
        return "there is no file in it"
    shown = [f"{row.file} ({row.error})" for row in table.head(most).itertuples()]
    return ", ".join(shown) + (f" and {len(table) - most} more" if len(table) > most else "")
