"""Times WinCLIP's zero-shot scores and maps beside anomalib's, with the same weights, in one run.

    python -m benchmarks.windows [--repeats 5] [--batches 1 8]

ViT-B-16-plus-240 with random weights: time does not depend on them. First the two must agree (image scores
and maps in float32, within 1e-4), else nothing is timed. Then they run in turn, so that a machine that slows
down slows all of them, and the median of the ratios within each repeat counts. The machine's fastest matrix
product, measured before and after, says how much room is left.

Rows: float32; and bfloat16 where the CPU multiplies it in hardware (AMX), for anomalib by torch.autocast,
which takes its cosines and softmax to bfloat16 too. All differences and ratios are to anomalib in float32.
Writes results/windows.csv, and windows.json with what the machine is.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from profiles.record import commit
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.scores import prompt_score
from zsad_core.windows import upsample, window_indices, zero_shot_map

RESULTS = Path(__file__).parent / "results"
MODEL, SIZES, THREADS, TEMPERATURE = "ViT-B-16-plus-240", (2, 3), 2, 0.07
TOLERANCE = 1e-4
SHAPES = ((2048, 896, 2688), (2048, 896, 3584), (2048, 3584, 896), (2048,) * 3, (4096,) * 3)
"""Matrix products (rows, inner, columns): those of the window pass, and larger ones."""

Scored = tuple[Tensor, Tensor]
"""Image scores (n,) and maps (n, H, W)."""


def zsad_core_scores(encoder: ClipEncoder, texts: Sequence[Tensor], pixels: Tensor) -> Scored:
    """The whole image and its windows from one pass, then scores and maps at the image's size."""
    scales = encoder.embed_scales(pixels, SIZES)
    scores = prompt_score(scales.image, *texts, TEMPERATURE)
    maps = zero_shot_map(scales.image, scales.windows, encoder.grid, *texts, temperature=TEMPERATURE)
    return scores, upsample(maps, encoder.image_size)


def anomalib_scores(model: nn.Module, pixels: Tensor, autocast: bool = False) -> Scored:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = model(pixels)
    return found.pred_score, found.anomaly_map


def operations(visual: nn.Module, sizes: Sequence[int], *, shared: bool) -> int:
    """Floating point operations of one image's matrix products: whole image and windows, two a multiply-add.

    Operations that really run are counted, not those that the method needs. shared: as in
    `zsad_core.vit_windows`, the first block's q, k, v once per patch for all scales, in the last block the
    class token's query, output projection and MLP. False: every token of every window through everything, as
    open_clip's blocks do it. Norms, activations, softmax and scores are left out, less than a hundredth.
    """
    patches, patch = math.prod(visual.grid_size), math.prod(visual.patch_size)
    blocks = visual.transformer.resblocks
    width, hidden, depth = visual.conv1.out_channels, blocks[0].mlp.c_fc.out_features, len(blocks)
    sequences = [(1, 1 + patches)] + [
        (len(window_indices(visual.grid_size, size)), 1 + size**2) for size in sizes
    ]
    total = patches * 3 * patch * width  # the patch embedding
    if shared:
        total += (1 + patches) * 3 * width**2
    for count, length in sequences:
        for number in range(1, depth + 1):
            queries = 1 if shared and number == depth else length
            if not shared or number > 1:
                total += count * (2 * length + queries) * width**2  # k and v, q
            total += count * 2 * queries * length * width  # scores of the keys, sum of the values
            total += count * queries * (width**2 + 2 * width * hidden)  # output projection, MLP
        total += count * width * visual.output_dim
    return 2 * total


def product_peak(dtype: torch.dtype, repeats: int = 5) -> float:
    """Floating point operations a second of the fastest matrix product of `SHAPES`."""
    best = 0.0
    for rows, inner, columns in SHAPES:
        a, b = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        out = torch.mm(a, b)
        for _ in range(repeats):
            seconds, _ = timed(lambda a=a, b=b, out=out: torch.mm(a, b, out=out))
            best = max(best, 2 * rows * inner * columns / seconds)
    return best


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


def difference(found: Scored, expected: Scored) -> float:
    """Largest, over image scores and maps."""
    return max((a.double() - b.double()).abs().max().item() for a, b in zip(found, expected, strict=True))


def seconds_in_turn(runs: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, list[float]]:
    """Seconds of each run in each repeat; every repeat runs all of them, each time another one first."""
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for repeat in range(repeats):
        shift = repeat % len(names)
        for name in names[shift:] + names[:shift]:
            seconds[name].append(timed(runs[name])[0])
    return seconds


def machine_facts(packages: Sequence[str], threads: int) -> dict[str, Any]:
    """What a time depends on besides the code; no names of machines or folders."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": named[0] if named else platform.processor(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "amx": torch.cpu._is_amx_tile_supported(),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.date.today().isoformat(),
        "commit": commit(Path(__file__).resolve().parents[1]),
    }


def write_results(name: str, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """results/<name>.csv, one line a row, and results/<name>.json beside it."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    from benchmarks.anomalib_winclip import anomalib_model  # here, for others use this file without anomalib

    torch.set_num_threads(THREADS)
    load = os.getloadavg()[0]  # above 0: others had a share of the processors as well
    precisions = {"fp32": torch.float32}
    if torch.cpu._is_amx_tile_supported():
        precisions["bf16"] = torch.bfloat16
    encoders = {name: load_encoder(MODEL, "random", device="cpu", precision=name) for name in precisions}
    model = anomalib_model(encoders["fp32"], "bottle")
    texts = tuple(model.text_embeddings)  # the same for both: only images are timed

    runs: dict[tuple[str, str], Callable[[Tensor], Scored]] = {}
    for name, encoder in encoders.items():
        runs[name, "anomalib"] = lambda x, name=name: anomalib_scores(model, x, autocast=name == "bf16")
        runs[name, "zsad_core"] = lambda x, encoder=encoder: zsad_core_scores(encoder, texts, x)
    visual = encoders["fp32"].model.visual
    work = {
        "anomalib": operations(visual, SIZES, shared=False),
        "zsad_core": operations(visual, SIZES, shared=True),
    }

    peaks = {name: product_peak(dtype) for name, dtype in precisions.items()}
    differences, seconds = {}, {}
    for batch in arguments.batches:
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(batch, 3, *encoders["fp32"].image_size, generator=generator)
        expected = runs["fp32", "anomalib"](pixels)
        for key, run in runs.items():
            differences[batch, key] = difference(run(pixels), expected)
        largest = differences[batch, ("fp32", "zsad_core")]
        if largest > TOLERANCE:
            raise SystemExit(f"batch {batch}: scores and maps differ by {largest:.1e} > {TOLERANCE}")
        print(f"batch {batch}: float32 scores and maps agree, largest difference {largest:.1e}", flush=True)
        bound = {key: lambda run=run, pixels=pixels: run(pixels) for key, run in runs.items()}
        seconds[batch] = seconds_in_turn(bound, arguments.repeats)
    peaks = {name: max(peaks[name], product_peak(dtype)) for name, dtype in precisions.items()}

    rows = []
    for batch, times in seconds.items():
        for precision, implementation in runs:
            key = precision, implementation
            each = statistics.median(times[key]) / batch
            ratios = [own / base for own, base in zip(times[key], times["fp32", "anomalib"], strict=True)]
            rows.append(
                {
                    "precision": precision,
                    "batch": batch,
                    "implementation": implementation,
                    "seconds_per_image": f"{each:.4f}",
                    "ratio_to_anomalib": f"{statistics.median(ratios):.3f}",
                    "share_of_peak": f"{work[implementation] / each / peaks[precision]:.3f}",
                    "largest_difference": f"{differences[batch, key]:.1e}",
                }
            )
    print(f"\n{MODEL}, random weights, {THREADS} threads, median of {arguments.repeats} repeats in turn")
    for name, peak in peaks.items():
        print(f"fastest matrix product, {name}: {peak / 1e9:.0f} billion operations a second")
    for name, count in work.items():
        print(f"{name} computes {count / 1e9:.0f} billion operations an image")
    print("\n" + "".join(f"{name:>20}" for name in rows[0]))
    for row in rows:
        print("".join(f"{value:>20}" for value in row.values()))

    packages = ("torch", "open_clip_torch", "anomalib")
    facts = machine_facts(packages, THREADS) | {
        "model": MODEL,
        "repeats": arguments.repeats,
        "load_before": round(load, 2),
        "peak_operations_per_second": {name: round(peak) for name, peak in peaks.items()},
        "operations_per_image": work,
    }
    write_results("windows", rows, facts)


if __name__ == "__main__":
    main()
