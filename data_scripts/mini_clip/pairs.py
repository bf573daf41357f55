"""Rendered pairs on disk.

A folder of pairs holds chunks: `images-00000.npy` (n, 2, s, s, 3) uint8 with the normal image first,
`masks-00000.npy` (n, s*s/8) uint8 (packed bits of the anomalous image's mask) and `facts-00000.jsonl`, one
line a pair.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from zsad_core.cache import write_atomically


def pair_of(index: int, categories: tuple[str, ...]) -> tuple[str, int]:
    """The category (uniform) and the seed of the pair with this index."""
    return categories[np.random.default_rng([index, 1]).integers(len(categories))], index


def render_chunk(
    folder: Path, chunk: int, indices: range, size: int, categories: tuple[str, ...], render_pair: Callable
) -> None:
    """Renders one chunk; the facts are written last and mark the chunk as complete."""
    pairs = [render_pair(*pair_of(i, categories), size) for i in indices]
    images = np.stack([np.stack([p.normal, p.anomalous]) for p in pairs])  # (n, 2, s, s, 3)
    masks = np.packbits(np.stack([p.mask for p in pairs]).reshape(len(pairs), -1), axis=1)  # (n, s*s/8)
    facts = "".join(json.dumps(p.facts) + "\n" for p in pairs)

    def save(array: np.ndarray, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, array)

    write_atomically(folder / f"images-{chunk:05d}.npy", partial(save, images))
    write_atomically(folder / f"masks-{chunk:05d}.npy", partial(save, masks))
    write_atomically(folder / f"facts-{chunk:05d}.jsonl", lambda path: path.write_text(facts))


def render_pairs(
    folder: Path,
    pairs: int,
    categories: tuple[str, ...],
    render_pair: Callable,
    *,
    size: int = 96,
    chunk: int = 1000,
    jobs: int = 2,
) -> None:
    """Renders `pairs` pairs with `jobs` processes, chunk after chunk; chunks that exist are skipped."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, pairs, chunk)
    missing = [s for s in starts if not (folder / f"facts-{s // chunk:05d}.jsonl").exists()]
    print(
        f"{len(starts) - len(missing)} of {len(starts)} chunks are there, rendering {len(missing)}",
        flush=True,
    )
    Parallel(n_jobs=jobs, verbose=5)(
        delayed(render_chunk)(
            folder, s // chunk, range(s, min(s + chunk, pairs)), size, categories, render_pair
        )
        for s in missing
    )


@dataclass(frozen=True)
class Pairs:
    """The complete chunks of a folder, opened as memory maps."""

    images: list[np.ndarray]
    masks: list[np.ndarray]
    facts: list[dict]
    starts: np.ndarray  # (chunks + 1,) index of each chunk's first pair

    def __len__(self) -> int:
        return len(self.facts)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, dict]:
        """Images (2, s, s, 3) uint8, mask (s, s) bool, facts."""
        chunk = int(np.searchsorted(self.starts, index, side="right")) - 1
        row = index - self.starts[chunk]
        images = self.images[chunk][row]
        bits = np.unpackbits(self.masks[chunk][row], count=images.shape[1] * images.shape[2])
        return images, bits.astype(bool).reshape(images.shape[1:3]), self.facts[index]


def open_pairs(folder: Path, pairs: int | None = None) -> Pairs:
    """Opens the first `pairs` pairs of a folder (all by default)."""
    done = sorted(Path(folder).glob("facts-*.jsonl"))
    if not done:
        raise FileNotFoundError(f"no facts-*.jsonl in {folder}: run the `render` command first")
    numbers = [path.stem.removeprefix("facts-") for path in done]
    facts = [[json.loads(line) for line in path.read_text().splitlines()] for path in done]
    flat = [fact for chunk in facts for fact in chunk]
    if pairs is not None and pairs > len(flat):
        raise ValueError(f"{folder} holds {len(flat)} pairs, fewer than {pairs}: render more")
    return Pairs(
        [np.load(Path(folder) / f"images-{n}.npy", mmap_mode="r") for n in numbers],
        [np.load(Path(folder) / f"masks-{n}.npy", mmap_mode="r") for n in numbers],
        flat[:pairs],
        np.cumsum([0, *map(len, facts)]),
    )
