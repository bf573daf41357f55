"""Trains the mini CLIP (zsad-mini) from scratch on rendered pairs of images, on two CPU cores.

    python -m data_scripts.train_mini_clip render --pairs 40000 --out data/pairs
    python -m data_scripts.train_mini_clip train --data data/pairs --out runs/mini
    python -m data_scripts.train_mini_clip export --checkpoint runs/mini/checkpoint.pt \
        --out zsad_core/weights/zsad-mini.safetensors

`train` resumes from the checkpoint in its output folder. `--steps` and `--decay-steps` may then be changed.
Every random draw is a function of the seed and the step, so a resumed run equals an unbroken one without a
stored generator state.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

# Set before torch loads OpenMP: threads that wait by spinning waste up to 85 % of the cores' time as soon as
# anything else runs on the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import open_clip
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from data_scripts.mini_clip.batches import Batch, make_batch, new_nouns
from data_scripts.mini_clip.losses import info_nce, mask_loss, state_margin
from data_scripts.mini_clip.optim import Schedule, build_optimizers
from data_scripts.mini_clip.pairs import Pairs, open_pairs, render_pairs
from data_scripts.mini_clip.towers import build_model, encode_patches, encode_tokens, grid_of
from data_scripts.mini_clip.validate import ValidationSet, render_validation, validate
from zsad_core.cache import write_atomically

CONFIG = Path(__file__).parents[1] / "zsad_core/weights/zsad-mini.json"
LARGEST_LOGIT_SCALE = math.log(100)  # as CLIP


@dataclass(frozen=True)
class Recipe:
    """What a resumed run must share with the run that it continues."""

    seed: int = 0
    full_pairs: int = 36
    window_pairs: int = 48
    kept: int = 36
    muon_lr: float = 0.02
    adamw_lr: float = 1e-3
    weight_decay: float = 0.02
    bf16: bool = True
    pairs: int | None = None


def training_loss(
    model: open_clip.CLIP,
    heads: nn.ModuleList,
    batch: Batch,
    *,
    margin_weight: float,
    mask_weight: float,
    bf16: bool,
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum of the three terms, and numbers for the log.

    Full views and windows share one contrastive loss, because they share one embedding space. Twice the
    negatives separate categories and states better than two losses.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        full, full_tokens = encode_patches(model, batch.full.patches, batch.full.index)
        windows, window_tokens = encode_patches(model, batch.windows.patches, batch.windows.index)
        texts = encode_tokens(model, batch.tokens)
        # One linear head for each of the last two blocks, the same for full views and windows.
        patch_logits = [
            [head(x)[..., 0].float() for head, x in zip(heads, tokens, strict=True)]
            for tokens in (full_tokens, window_tokens)
        ]
    images = torch.cat([full, windows])  # (b, d)
    scale = model.logit_scale.exp()
    captions, normal, damaged = texts.split([len(texts) - 2 * batch.nouns, batch.nouns, batch.nouns])
    contrast = info_nce(images, captions, batch.caption, scale)
    margin, margins = state_margin(images, normal, damaged, batch.damaged, scale)
    mask = sum(
        mask_loss(logits, views.defect_pixels) / 4
        for of_views, views in zip(patch_logits, (batch.full, batch.windows), strict=True)
        for logits in of_views
    )
    right = (margins.detach().mean(dim=1) > 0) == batch.damaged  # (b,)
    log = {
        "contrast": contrast.item(),
        "margin": margin.item(),
        "mask": mask.item(),
        "state": right[: len(full)].float().mean().item(),
        "state_windows": right[len(full) :].float().mean().item(),
        "scale": scale.item(),
    }
    return contrast + margin_weight * margin + mask_weight * mask, log


def train(
    pairs: Pairs,
    out: Path,
    recipe: Recipe,
    schedule: Schedule,
    caption: Callable[..., str],
    *,
    config: Path | dict = CONFIG,
    validation: ValidationSet | None = None,
    stop: threading.Event | None = None,
    checkpoint_every: int = 100,
    keep_every: int = 1000,
    validate_every: int = 200,
    log_every: int = 20,
) -> Path:
    """Trains to `schedule.steps` from the checkpoint in `out`, if there is one; returns the checkpoint's
    path.

    Writes `checkpoint.pt` (weights, optimisers, step, curve), a copy of it every `keep_every` steps, and
    `curve.csv`. `stop`, once set, ends training after the running step, with a checkpoint.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / "checkpoint.pt"
    model = build_model(config, recipe.seed)
    grid, patch = grid_of(model)
    side = pairs[0][1].shape[0]
    if side != grid * patch:
        raise ValueError(f"the pairs are {side} pixels wide, the model takes {grid * patch}: render anew")
    if recipe.full_pairs + recipe.window_pairs > len(pairs):
        needed = recipe.full_pairs + recipe.window_pairs
        raise ValueError(f"a batch needs {needed} pairs, there are {len(pairs)}: render more")
    width = model.visual.proj.shape[0]
    heads = nn.ModuleList([nn.Linear(width, 1), nn.Linear(width, 1)])  # thrown away after training
    optimizers = build_optimizers(
        model, heads, muon_lr=recipe.muon_lr, adamw_lr=recipe.adamw_lr, weight_decay=recipe.weight_decay
    )
    peaks = (recipe.muon_lr, recipe.adamw_lr)
    step, elapsed, views, rows = 0, 0.0, 0, []
    if path.exists():
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(recipe):
            raise ValueError(
                f"{path} was made with {state['recipe']}, not {asdict(recipe)}: choose another folder"
            )
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, elapsed, views, rows = state["step"], state["elapsed"], state["views"], state["rows"]
        if step > schedule.steps:
            raise ValueError(f"{path} is at step {step}, beyond --steps {schedule.steps}")
        print(f"resumed at step {step}", flush=True)

    def save(target: Path) -> None:
        state = {
            "model": model.state_dict(),
            "heads": heads.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "recipe": asdict(recipe),
            "schedule": asdict(schedule),
            "step": step,
            "elapsed": elapsed,
            "views": views,
            "rows": rows,
        }
        write_atomically(target, partial(torch.save, state))

    def batch_of(step: int) -> Batch:
        return make_batch(
            pairs,
            caption,
            seed=recipe.seed,
            step=step,
            patch=patch,
            context=model.context_length,
            full_pairs=recipe.full_pairs,
            window_pairs=recipe.window_pairs,
            kept=recipe.kept if schedule.drops_patches(step) else None,
        )

    since = time.perf_counter()
    logged_views, logged_time = views, since
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batch_of, step)
        while step < schedule.steps and not (stop and stop.is_set()):
            batch = ahead.result()
            if step + 1 < schedule.steps:
                ahead = pool.submit(batch_of, step + 1)
            loss, log = training_loss(
                model,
                heads,
                batch,
                margin_weight=schedule.margin_weight(step),
                mask_weight=schedule.mask_weight(step),
                bf16=recipe.bf16,
            )
            loss.backward()
            nn.utils.clip_grad_norm_([*model.parameters(), *heads.parameters()], 1.0)
            for optimizer, peak in zip(optimizers, peaks, strict=True):
                for group in optimizer.param_groups:
                    group["lr"] = peak * schedule.rate(step)
                optimizer.step()
                optimizer.zero_grad()
            with torch.no_grad():
                model.logit_scale.clamp_(0, LARGEST_LOGIT_SCALE)
            step += 1
            views += len(batch.damaged)
            now = time.perf_counter()
            elapsed, since = elapsed + now - since, now
            if step % log_every == 0:
                speed = (views - logged_views) / (now - logged_time)
                logged_views, logged_time = views, now
                numbers = " ".join(f"{name} {value:.3f}" for name, value in log.items())
                print(
                    f"step {step} lr {schedule.rate(step - 1):.2f} {numbers} views/s {speed:.0f}", flush=True
                )
            if validation is not None and (step % validate_every == 0 or step == schedule.steps):
                measured = validate(model, validation, bf16=recipe.bf16)
                row = {
                    "step": step,
                    "elapsed_s": round(elapsed, 1),
                    "views": views,
                    "views_per_s": views / elapsed,
                }
                rows = [*rows, {**row, **log, **measured}]
                write_atomically(
                    out / "curve.csv", partial(pd.DataFrame(rows).to_csv, index=False, float_format="%.4f")
                )
                shown = ("auroc", "spread", "naming", "pixel")
                print(
                    f"step {step} validation " + " ".join(f"{k} {measured[k]:.3f}" for k in shown), flush=True
                )
                logged_time += time.perf_counter() - now
                since = time.perf_counter()
            if step % checkpoint_every == 0 or step == schedule.steps:
                save(path)
            if step % keep_every == 0:
                save(out / f"checkpoint-{step:05d}.pt")
    save(path)
    return path


def export(checkpoint: Path, out: Path) -> None:
    """Writes a checkpoint's model as fp16 safetensors, and its sha256 beside it."""
    state = torch.load(checkpoint, weights_only=True)
    weights = {name: tensor.half().contiguous() for name, tensor in state["model"].items()}
    metadata = {"step": str(state["step"]), "views": str(state["views"]), "recipe": str(state["recipe"])}
    write_atomically(out, partial(save_file, weights, metadata=metadata))
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    write_atomically(out.with_suffix(".sha256"), lambda path: path.write_text(f"{digest}  {out.name}\n"))
    print(f"{out}: {out.stat().st_size} bytes, sha256 {digest}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("render", help="render pairs to a folder; chunks that exist are skipped")
    command.add_argument("--pairs", type=int, required=True)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--jobs", type=int, default=2)
    command = commands.add_parser("train", help="train, or resume")
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--steps", type=int, default=6000)
    command.add_argument("--decay-steps", type=int, help="default: all of them")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--pairs", type=int, help="use the first pairs of the folder only")
    for name in ("full_pairs", "window_pairs", "muon_lr", "adamw_lr", "weight_decay"):
        default = getattr(Recipe, name)
        command.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    command = commands.add_parser("export", help="write a checkpoint's weights as fp16 safetensors")
    command.add_argument("--checkpoint", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    args = read_arguments()
    if args.command == "export":
        export(args.checkpoint, args.out)
        return

    import data_scripts.render as render
    from data_scripts.render.captions import caption

    if args.command == "render":
        render_pairs(args.out, args.pairs, render.TRAIN_CATEGORIES, render.render_pair, jobs=args.jobs)
        return
    torch.set_num_threads(args.threads)
    decay = args.steps if args.decay_steps is None else args.decay_steps
    pairs = open_pairs(args.data, args.pairs)
    names = ("seed", "full_pairs", "window_pairs", "muon_lr", "adamw_lr", "weight_decay")
    recipe = Recipe(**{name: getattr(args, name) for name in names}, pairs=len(pairs))
    caption = partial(caption, words=new_nouns(caption, pairs.facts))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    size = pairs[0][1].shape[0]
    validation = render_validation(
        render.render_pair, render.VALIDATION_CATEGORIES, render.TRAIN_CATEGORIES, size=size
    )
    schedule = Schedule(args.steps, decay)
    train(pairs, args.out, recipe, schedule, caption, validation=validation, stop=stop)


if __name__ == "__main__":
    main()
