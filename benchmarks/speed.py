"""The page 'Speed': the benchmarks' records, and the operations for one image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pandas as pd

from zsad_core.encoders import ClipEncoder
from zsad_core.windows import window_indices
from zsad_papers.common.costs import multiply_accumulates, tower_of
from zsad_papers.common.settings import repository_root

NAMES = {"anomalib": "anomalib", "zsad_core": "this book"}


def read_benchmark(name: str) -> tuple[pd.DataFrame, dict]:
    """The rows that `benchmarks/<name>.py` has written, and the facts about the machine.

    Raises FileNotFoundError when it has not been run in this checkout.
    """
    folder = repository_root() / "benchmarks" / "results"
    table, facts = folder / f"{name}.csv", folder / f"{name}.json"
    if not (table.is_file() and facts.is_file()):
        raise FileNotFoundError(
            f"no record of the benchmark {name}: run `python -m benchmarks.{name}` in the repository"
        )
    return pd.read_csv(table), json.loads(facts.read_text(encoding="utf-8"))


def benchmark_table(record: pd.DataFrame) -> pd.DataFrame:
    """The record of `benchmarks/windows.py` for readers."""
    names = {
        "precision": "precision",
        "batch": "images at once",
        "implementation": "implementation",
        "seconds_per_image": "seconds for an image",
        "ratio_to_anomalib": "time, anomalib in fp32 = 1",
        "share_of_peak": "share of the machine's peak",
        "largest_difference": "largest difference",
    }
    table = record.replace({"implementation": NAMES}).rename(columns=names)[list(names.values())]
    table["largest difference"] = [f"{value:.1e}" for value in table["largest difference"]]
    return table


def benchmark_caption(machine: Mapping) -> str:
    """Where the record was made, in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    peaks = machine["peak_operations_per_second"]
    peak = " and ".join(f"{value / 1e9:,.0f} GFLOP/s in {name}" for name, value in peaks.items())
    return (
        f"{machine['model']}, random weights, {machine['threads']} threads of {machine['cpu']} "
        f"({'with' if machine['amx'] else 'without'} AMX), {machine['date']}, commit {machine['commit']}; "
        f"{versions}. Fastest matrix product: {peak}. Differences are to anomalib in fp32."
    )


def benchmark_bars(record: pd.DataFrame) -> pd.DataFrame:
    """Columns label, implementation, ratio, for `plots.bars`."""
    label = record["precision"] + ", batch " + record["batch"].astype(str)
    names = record["implementation"].map(NAMES)
    return pd.DataFrame({"label": label, "implementation": names, "ratio": record["ratio_to_anomalib"]})


def operation_table(encoder: ClipEncoder, sizes: Sequence[int]) -> pd.DataFrame:
    """Multiply-accumulates (10^9) of one image: the whole image, windows of each size as separate sequences,
    and all of it when what windows share is computed once."""
    tower = tower_of(encoder)
    image, width = len(tower.positional_embedding), tower.transformer.width
    mlp = tower.transformer.resblocks[0].mlp.c_fc.out_features
    length = {size: 1 + size**2 for size in sizes}
    count = {size: len(window_indices(tower.grid_size, size)) for size in sizes}
    whole = multiply_accumulates(tower, [(1, image)], patch_embeddings=1)
    apart = {s: multiply_accumulates(tower, [(count[s], length[s])], patch_embeddings=0) for s in sizes}
    saved = sum(count[s] * _saved(width, mlp, length[s]) for s in sizes)
    lines = [("the whole image", image, whole)]
    lines += [
        (f"{count[s]} windows of {s} x {s}, each by itself", count[s] * length[s], apart[s]) for s in sizes
    ]
    every = sum(apart.values()) + whole
    tokens = image + sum(count[s] * length[s] for s in sizes)
    lines += [("together, each by itself", tokens, every), ("together, in one pass", tokens, every - saved)]
    frame = pd.DataFrame(lines, columns=["what", "tokens", "multiply-accumulates"])
    frame["multiply-accumulates"] /= 1e9
    return frame.assign(share=frame["multiply-accumulates"] / (every / 1e9))


def _saved(width: int, mlp: int, length: int) -> int:
    """Operations of one window that the shared pass saves: q, k and v of the first block, and in the last
    block query, attention, output projection and MLP of all tokens except the class token."""
    first = 3 * length * width**2
    last = (length - 1) * (2 * width**2 + 2 * width * mlp + 2 * length * width)
    return first + last


TRAINING = {
    "plain tower": "one image through the tower",
    "tower with DPAM": "one image through both paths",
    "released": "an epoch, image tower in every step",
    "kept": "an epoch on kept features",
}


def training_table(record: pd.DataFrame) -> pd.DataFrame:
    """The record of `benchmarks/prompt_learning.py` for readers; a ratio is to the line above."""
    table = record.replace({"what": TRAINING})
    table["ratio"] = [f"{ratio:.3f}" if i % 2 else "-" for i, ratio in enumerate(table["ratio"])]
    peaks = ["-" if pd.isna(peak) else f"{peak:,.0f}" for peak in table["peak_MiB"]]
    return table.assign(peak_MiB=peaks).rename(
        columns={
            "what": "what",
            "ratio": "time, line above = 1",
            "peak_MiB": "peak memory above the model (MiB)",
        }
    )


def training_caption(machine: Mapping) -> str:
    """Where that record was made, in a sentence."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['model']}, random weights, {machine['images']} images, {machine['threads']} threads of "
        f"{machine['cpu']}, {machine['date']}, commit {machine['commit']}; {versions}. The first pass of all "
        f"images took {machine['first_pass_seconds']:.0f} s, loading of the model included."
    )


def memory_table(record: pd.DataFrame) -> pd.DataFrame:
    """The record of `benchmarks/winclip_memory.py` for readers."""
    names = {
        "images": "images",
        "peak_mib_computed": "peak, features computed",
        "peak_mib_read": "peak, features read from the cache",
        "mib_if_held": "all maps at once",
    }
    return record.rename(columns=names)[list(names.values())].round(0).astype(int)
