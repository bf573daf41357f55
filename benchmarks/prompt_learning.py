"""Times an epoch of AnomalyCLIP's training with the image tower in every step beside one on kept features.

    python -m benchmarks.prompt_learning [--images 8] [--repeats 3]

ViT-L-14-336 at 518 pixels with random weights: time does not depend on them. "released" does what the
authors' code does in a step: images through the tower with both paths, prompts through the text tower over
all 77 positions, maps of two channels upsampled to 518 pixels, backward, Adam. "kept" is
`prompt_learning.learn` on features that went through the tower once. First the two must agree in the loss of
each epoch (within 1e-3: features are kept in float16). Then they run in turn.

Also the cost of DPAM: the tower with both paths beside open_clip's own forward pass. And the peak memory of
an epoch of each kind, above what the process with the model held before it.
Writes results/prompt_learning.csv and .json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.windows import machine_facts, seconds_in_turn, timed, write_results
from data_scripts.prepare import prepared_folder
from zsad_core.auxiliary import Auxiliary, auxiliary_of
from zsad_core.datasets import AnomalyDataset, load_dataset
from zsad_core.dpam import dual_path
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.image_features import glocal_extractor
from zsad_core.learnable_prompts import Frozen, encode, freeze, initial_parameters
from zsad_core.losses import EPSILON
from zsad_core.prompt_config import PromptConfig, prompt_config_of
from zsad_core.prompt_learning import learn

MODEL, SIZE, THREADS = "ViT-L-14-336-quickgelu", 518, 2
TOLERANCE = 1e-3


def noise_dataset(folder: Path, n: int) -> AnomalyDataset:
    """n images of noise, every other one anomalous with a square mask."""
    draw = np.random.default_rng(0)
    with prepared_folder(folder) as prepared:
        for i in range(n):
            mask = np.zeros((SIZE, SIZE), bool)
            mask[100:200, 100 + i : 220 + i] = True
            image = Image.fromarray(draw.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
            kind = {"defect": "square", "mask": mask} if i % 2 else {"defect": "good"}
            prepared.add(image, category="noise", split="test", name=f"{i:03d}.png", **kind)
    return load_dataset(folder)


def full_length(encoder: ClipEncoder, frozen: Frozen) -> Frozen:
    """The same prompts padded to the whole context, as the text tower of the authors' code sees them."""
    tower, lacking = encoder.text_tower, encoder.context_length - len(frozen.positions)
    padding = tower.token_embedding(torch.zeros(1, 1, 1, lacking, dtype=torch.long)).detach()
    padding = padding.expand(*frozen.ends.shape, -1, -1)
    embeddings = torch.cat([frozen.embeddings, padding], dim=-2)
    return Frozen(embeddings, tower.positional_embedding.detach(), frozen.ends)


def plain_loss(encoder, config: PromptConfig, texts, head, patches, masks, labels) -> torch.Tensor:
    """The glocal loss with two upsampled channels, written as in the paper."""
    loss = F.cross_entropy(head @ texts.T / config.temperature, labels)
    maps = (patches @ texts.T / config.temperature).softmax(-1)  # (b, p, 2)
    up = F.interpolate(
        maps.mT.unflatten(2, encoder.grid), masks.shape[1:], mode="bilinear", align_corners=False
    )  # (b, 2, H, W)
    truth = torch.stack([~masks, masks], dim=1).float()
    p_t = (truth.clamp(EPSILON, 1 - EPSILON) * up).sum(1) + EPSILON
    focal = -((1 - p_t) ** 2 * p_t.log()).mean()
    hit, both = (up * truth).sum((2, 3)), (up + truth).sum((2, 3))
    dice = (1 - (2 * hit + 1) / (both + 1)).mean(0).sum()
    return loss + config.local_weight * (focal + dice)


def released_epoch(
    encoder: ClipEncoder, config: PromptConfig, dataset: AnomalyDataset, material: Auxiliary
) -> float:
    """One epoch with the image tower in every step; its mean loss. material: for the masks."""
    order = torch.Generator().manual_seed(config.seed)
    parameters = initial_parameters(encoder, config.design, order)
    parameters = {name: value.requires_grad_() for name, value in parameters.items()}
    optimizer = torch.optim.Adam(parameters.values(), config.lr, config.betas)
    frozen = full_length(encoder, freeze(encoder, [config.design]))
    visual, total = encoder.model.visual, 0.0
    order.manual_seed(config.seed + 1_000_003)
    for rows in torch.randperm(len(dataset), generator=order).split(config.batch_size):
        pixels = torch.stack([encoder.preprocess(dataset.image(int(i))) for i in rows])
        with torch.no_grad():
            token, found = dual_path(visual, pixels, config.layers, ("vv",), config.first)
            head = F.normalize(token @ visual.proj, dim=-1)
            local = visual.ln_post(found["vv"][config.layers[-1]][:, 1:]) @ visual.proj
        batch = material.batch(rows.numpy(), ())
        texts = encode(encoder, config.design, parameters, frozen)[0, 0]
        loss = plain_loss(encoder, config, texts, head, F.normalize(local, dim=-1), batch.masks, batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    return total / len(dataset)


def kept_epoch(
    encoder: ClipEncoder, config: PromptConfig, dataset: AnomalyDataset, material: Auxiliary
) -> float:
    return learn(encoder, [(config, material)], dataset)[0].losses[0]


def prepare(folder: Path, n: int) -> tuple[ClipEncoder, PromptConfig, AnomalyDataset, Auxiliary]:
    torch.set_num_threads(THREADS)
    encoder = load_encoder(MODEL, "random", device="cpu", image_size=SIZE)
    config = prompt_config_of(encoder, epochs=1)
    dataset = load_dataset(folder) if (folder / "meta.csv").is_file() else noise_dataset(folder, n)
    extractor = glocal_extractor(encoder, config.layers, "vv", config.first)
    dataset = dataset.select(split="test")
    return encoder, config, dataset, auxiliary_of(dataset, extractor, folder.parent / "cache")


def own_peak(kind: str, folder: Path, images: int) -> float:
    """MiB that an epoch of a kind takes at most above what the process held before it (Linux)."""
    encoder, config, dataset, material = prepare(folder, images)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = _status("VmRSS")
    if kind == "released":
        released_epoch(encoder, config, dataset, material)
    else:
        kept_epoch(encoder, config, dataset, material)
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def peak_memory(kind: str, folder: Path) -> float:
    """`own_peak` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.prompt_learning", "--memory", kind, "--folder", str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", choices=("released", "kept"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print(json.dumps(own_peak(arguments.memory, arguments.folder, arguments.images)))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "noise"
        first_pass, (encoder, config, dataset, material) = timed(lambda: prepare(folder, arguments.images))
        runs = {
            "released": lambda: released_epoch(encoder, config, dataset, material),
            "kept": lambda: kept_epoch(encoder, config, dataset, material),
        }
        losses = {name: run() for name, run in runs.items()}
        apart = abs(losses["released"] - losses["kept"])
        if apart > TOLERANCE:
            raise SystemExit(f"losses {losses} differ by more than {TOLERANCE}")
        print(f"losses agree: {losses}", flush=True)
        visual = encoder.model.visual
        pixels = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        towers = {
            "plain tower": lambda: visual(pixels),
            "tower with DPAM": lambda: dual_path(visual, pixels, config.layers, ("vv",), config.first),
        }
        with torch.no_grad():
            seconds = seconds_in_turn(towers, 2 * arguments.repeats)
        seconds |= seconds_in_turn(runs, arguments.repeats)
        memory = {kind: peak_memory(kind, folder) for kind in runs}
    rows = []
    base = {"tower with DPAM": "plain tower", "kept": "released"}
    for what, own in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(own, seconds[base.get(what, what)], strict=True))
        peak = f"{memory[what]:.0f}" if what in memory else ""
        row = {"what": what, "seconds": f"{statistics.median(own):.4f}", "ratio": f"{ratio:.4f}"}
        rows.append(row | {"peak_MiB": peak})
    facts = machine_facts(["torch", "open_clip_torch"], THREADS)
    facts |= {"model": f"{MODEL} at {SIZE} px", "images": arguments.images, "repeats": arguments.repeats}
    facts |= {"load_before": load, "first_pass_seconds": round(first_pass, 2), "losses_apart": apart}
    write_results("prompt_learning", rows, facts)
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
