"""Peak memory of WinCLIP on a category of 200 and of 2,000 images: does it grow with their number?

    python -m benchmarks.winclip_memory [--images 200 2000] [--size 192]

Random images with random masks in a temporary folder, zsad-mini with random weights. Each number of images
runs in a process of its own: first the windows are computed, part by part, and the maps of all ablations
measured; then both once more with the windows read from the cache. The peak is that of the resident memory;
mib_if_held is what the windows and maps of all images would take. Histograms and the allocator's gaps fill
up within the first few hundred images, some tens of MiB; then the peak stays.
Writes results/winclip_memory.csv, and winclip_memory.json with what the machine is.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.windows import machine_facts, write_results
from zsad_core.datasets import COLUMNS, load_dataset
from zsad_core.encoders import load_encoder
from zsad_core.image_features import TileFeatures, clip_extractor, compute_features
from zsad_core.methods import Output, category_texts
from zsad_papers.common.experiment import measure
from zsad_papers.winclip.experiments import zero_shot_variants

MODEL, THREADS, CATEGORY = "zsad-mini", 1, "noise"


def prepare_folder(folder: Path, n: int, size: int) -> None:
    """A prepared folder of n test images of size x size pixels; every other one is anomalous, with a mask."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        defect, mask = ("spot", f"{CATEGORY}/ground_truth/spot/{i:05d}.png") if i % 2 else ("good", "")
        image = f"{CATEGORY}/test/{defect}/{i:05d}.png"
        save(folder / image, rng.integers(0, 256, (size, size, 3), np.uint8))
        if mask:
            spot = np.zeros((size, size), np.uint8)
            top, left = rng.integers(0, size // 2, 2)
            spot[top : top + size // 4, left : left + size // 4] = 255
            save(folder / mask, spot)
        rows.append((CATEGORY, "test", i % 2, defect, image, mask))
    with (folder / "meta.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def run(folder: Path, cache: Path) -> dict[str, float]:
    """WinCLIP on a prepared folder in this process: peaks in MiB, and seconds."""
    torch.set_num_threads(THREADS)
    encoder = load_encoder(MODEL, "random", device="cpu")
    texts = category_texts(encoder, CATEGORY, cache)
    dataset = load_dataset(folder).select(CATEGORY, "test")
    found = {"images": len(dataset), "mib_before_images": peak_mebibytes()}
    held = [0]

    def detect(features: TileFeatures) -> dict[str, Output]:
        outputs = zero_shot_variants(features, texts, encoder.grid)
        held[0] += sum(array.nbytes for array in features.arrays.values())
        held[0] += 4 * len(outputs) * int(features.sizes.prod(1).sum())  # float32 maps at the images' size
        return outputs

    for name in ("computed", "read"):
        held[0] = 0
        parts = compute_features(clip_extractor(encoder), dataset, cache)
        seconds, _ = timed(lambda p=parts: measure(p, detect))
        found |= {f"peak_mib_{name}": peak_mebibytes(), f"seconds_{name}": round(seconds, 1)}
    return found | {"mib_if_held": round(held[0] / 2**20, 1)}


def peak_mebibytes() -> float:
    """Largest resident memory of this process so far, from the kernel (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    return round(int(kibibytes) / 1024, 1)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    out = work()
    return time.perf_counter() - start, out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--size", type=int, default=192, help="edge of an image in pixels")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # what a process of its own runs
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(run(arguments.folder / "data", arguments.folder / "cache")))
        return
    rows = []
    for n in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            prepare_folder(Path(folder) / "data", n, arguments.size)
            command = [sys.executable, "-m", "benchmarks.winclip_memory", "--folder", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    peaks = [row["peak_mib_read"] for row in rows]
    print(f"from {rows[0]['images']} to {rows[-1]['images']} images: {peaks[-1] - peaks[0]:+.1f} MiB")
    facts = machine_facts(("torch", "open_clip_torch", "numpy"), THREADS)
    write_results("winclip_memory", rows, facts | {"model": MODEL, "image_size": arguments.size})


if __name__ == "__main__":
    main()
