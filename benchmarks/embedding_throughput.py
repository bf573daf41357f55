"""The cost of reading images beside encoding them, and whether memory grows with their number.

    python -m benchmarks.embedding_throughput [--repeats 3] [--images 2000 20000]

Throughput: ViT-B-16-plus-240 with random weights on two threads; PNG files of 1024 x 1024 and JPEG files of
1500 x 1000 pixels in turn, shapes on noise. Three ways in turn, so that a machine that slows down slows all:
encoding pixels that are in memory; reading and encoding one after the other; encoding while worker processes
read (`image_features.made_ahead`), from when they have filled their queue to before it runs empty, so that as
much is read as is encoded. The overhead is a way's time over that of encoding, less one: the median of the
repeats. What workers need to start is paid once a job, and given by itself.

Memory: `image_features.compute_features` of small images through a tiny CLIP, each number of images in a
process of its own; the peak of its resident memory and that of its workers, sampled every 20 ms.

Writes results/embedding_throughput.csv and results/embedding_memory.csv, each with a .json of what the
machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from benchmarks.windows import machine_facts, write_results
from data_scripts.prepare import prepared_folder
from zsad_core.datasets import AnomalyDataset, load_dataset
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.image_features import compute_features, load_batch, made_ahead, view_extractor
from zsad_core.images import ZOOM

MODEL, THREADS, WORKERS = "ViT-B-16-plus-240", 2, 1
SIZES = ((1024, 1024, "png"), (1500, 1000, "jpg"))
JOB = 1024
"""Images that a job embeds, for the share that the start of its workers takes."""
AHEAD = 3
"""Batches that a worker has made or is making while one is encoded: two in its queue, one at work."""
TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
    "text_cfg": {"width": 64, "heads": 2, "layers": 1},
}


def photograph(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Shapes on noise, which neither format shrinks to nothing."""
    picture = Image.fromarray(rng.integers(100, 116, (height, width, 3), np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(30):
        x, y, edge = rng.integers(0, width), rng.integers(0, height), rng.integers(20, 200)
        draw.ellipse((x, y, x + edge, y + edge), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return picture


def save_photographs(folder: Path, n: int) -> list[Path]:
    rng, paths = np.random.default_rng(0), []
    for i in range(n):
        width, height, ending = SIZES[i % len(SIZES)]
        paths.append(folder / f"{i:03d}.{ending}")
        photograph(rng, width, height).save(paths[-1])
    return paths


def throughput(encoder: ClipEncoder, views: int, n: int, repeats: int) -> dict[str, object]:
    """One row: seconds an image of each way, and overheads, for images of 1 or 6 views, one at a time."""
    model = {"image_size": encoder.image_size, "transform": encoder.transform}
    make = partial(load_batch, **model, zoom=ZOOM if views > 1 else None)
    with tempfile.TemporaryDirectory() as folder:
        batches = [[path] for path in save_photographs(Path(folder), n + AHEAD)]
        held = list(made_ahead(batches[:n], make, workers=0))
        times: dict[str, list[float]] = {"encode": [], "serial": [], "workers": [], "start": []}
        encode(encoder, held[:1])  # the first is always slow
        for _ in range(repeats):
            times["encode"].append(timed(encoder, held))
            times["serial"].append(timed(encoder, made_ahead(batches[:n], make, workers=0)))
            began = time.perf_counter()
            stream = made_ahead(batches, make, workers=WORKERS)
            first = next(stream)
            times["start"].append(time.perf_counter() - began)
            encode(encoder, [first])  # meanwhile the queue fills
            times["workers"].append(timed(encoder, (next(stream) for _ in range(n))))
            stream.close()
    row: dict[str, object] = {"views": views, "images": n, "workers": WORKERS}
    row |= {
        f"seconds_{way}": round(statistics.median(times[way]) / n, 4)
        for way in ("encode", "serial", "workers")
    }
    for way in ("serial", "workers"):
        ratios = [one / alone for one, alone in zip(times[way], times["encode"], strict=True)]
        row[f"overhead_{way}"] = round(statistics.median(ratios) - 1, 4)
        row[f"overhead_{way}_of_minima"] = round(min(times[way]) / min(times["encode"]) - 1, 4)
    start = max(times["start"])  # the first one imports what all others share
    row["start_seconds"] = round(start, 2)
    row["start_share_of_a_job"] = round(start / (JOB * statistics.median(times["encode"]) / n), 4)
    return row


def timed(encoder: ClipEncoder, batches: Iterable[tuple]) -> float:
    start = time.perf_counter()
    encode(encoder, batches)
    return time.perf_counter() - start


def encode(encoder: ClipEncoder, batches: Iterable[tuple]) -> None:
    for pixels, _ in batches:
        encoder.embed_images(pixels, normalize=False)


def memory(folder: Path) -> dict[str, object]:
    """Embeds a prepared folder in this process: the peak of its resident memory with its workers, in MiB."""
    torch.set_num_threads(1)
    encoder = load_encoder(folder / "tiny.json", "random", device="cpu")
    dataset = load_dataset(folder / "data", folder / "cache" / "digests")
    before, peak, done = resident(os.getpid()), [0.0, 0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            whole, own = resident(os.getpid()), resident(os.getpid(), children=False)
            peak[:] = max(peak[0], whole), max(peak[1], own)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        compute_features(view_extractor(encoder), dataset, folder / "cache", whole="squash")
    finally:
        done.set()
        watcher.join()
    seconds = time.perf_counter() - start
    row = {"images": len(dataset), "mib_before": before}
    return row | {"peak_mib": peak[0], "peak_mib_without_workers": peak[1], "seconds": round(seconds, 1)}


def resident(pid: int, children: bool = True) -> float:
    """Resident memory in MiB of a process, with its children and theirs (Linux)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if children else []
    except OSError:  # it has ended meanwhile
        return 0.0
    own = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)
    return round(own + sum(resident(int(child)) for child in below), 1)


def small_images(folder: Path, n: int) -> AnomalyDataset:
    rng = np.random.default_rng(0)
    with prepared_folder(folder / "data") as out:
        for i in range(n):
            picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
            out.add(picture, category="noise", split="test", defect="good", name=f"{i:05d}.png")
    (folder / "tiny.json").write_text(json.dumps(TINY))
    return load_dataset(folder / "data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, nargs="*", default=[2000, 20000], help="of the memory's part")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # what a process of its own runs
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(memory(arguments.folder)))
        return
    packages = ("torch", "open_clip_torch", "numpy", "pillow")
    if arguments.repeats:
        torch.set_num_threads(THREADS)
        load = os.getloadavg()[0]  # above 0: others had a share of the processors as well
        encoder = load_encoder(MODEL, "random", device="cpu")
        rows = [throughput(encoder, views, n, arguments.repeats) for views, n in ((1, 8), (6, 2))]
        for row in rows:
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        facts = machine_facts(packages, THREADS) | {"model": MODEL, "load_before": round(load, 2)}
        write_results("embedding_throughput", rows, facts)
    rows = []
    for n in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            small_images(Path(folder), n)
            command = [sys.executable, "-m", "benchmarks.embedding_throughput", "--folder", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    if rows:
        growth = rows[-1]["peak_mib"] - rows[0]["peak_mib"]
        print(f"from {rows[0]['images']} to {rows[-1]['images']} images: {growth:+.1f} MiB")
        write_results("embedding_memory", rows, machine_facts(packages, 1) | {"model": "2 blocks, width 64"})


if __name__ == "__main__":
    main()
