"""What all learning from once-computed features shares: epochs, checkpoints, and who may use the outcome.

What is learned, by which loss and with which optimizer, is said elsewhere (`prompt_learning`, `vand`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from zsad_core.auxiliary import image_hashes
from zsad_core.cache import write_atomically
from zsad_core.datasets import AnomalyDataset
from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import one_thread


def run_epochs(
    parameters: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    loss_of: Callable[[Tensor], Tensor],
    n: int,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    key: str,
    checkpoint: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    kept: Mapping[str, Tensor] | None = None,
    rate: Callable[[int], float] | None = None,
    change: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    progress: bool = True,
    what: str = "prompts",
) -> list[float]:
    """Learn the parameters in place; the mean loss of each epoch.

    parameters: leaves that the optimizer updates. loss_of: the mean loss of the images at these places of n.
    seed: of the order, which depends on nothing but it and the number of the epoch, so that a training that
        goes on from a checkpoint ends where it would have ended at once.
    key: what a checkpoint must agree in. checkpoint: a file, written after every epoch. about, kept: plain
        JSON and tensors that it holds besides.
    rate: the learning rate of an epoch, counted from 0; None leaves the optimizer's.
    change: other places in the stead of an epoch's (n,), drawn with the generator of its order.
    Raises ValueError for a checkpoint of another training, and FloatingPointError when the loss or a
    parameter is no longer finite; the checkpoint of the last epoch stays.
    """
    order = torch.Generator()
    losses = _resume(checkpoint, key, parameters, optimizer, what)
    for epoch in tqdm(range(len(losses), epochs), desc=what, leave=False, disable=not progress):
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] if rate is None else rate(epoch)
        order.manual_seed(seed + 1_000_003 * (epoch + 1))
        places = torch.randperm(n, generator=order)
        places = places if change is None else change(places, order)
        total = 0.0
        with one_thread():
            for step, rows in enumerate(places.split(batch_size), start=1):
                loss = loss_of(rows)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if not all(value.isfinite().all() for value in (loss, *parameters.values())):
                    raise FloatingPointError(
                        f"the loss ({loss.item()}) or the {what} are no longer finite in epoch {epoch + 1}, "
                        f"step {step}: lower lr={optimizer.param_groups[0]['lr']}, or check features and "
                        "masks" + (f"; {checkpoint} holds the epochs before" if checkpoint and losses else "")
                    )
                total += loss.item() * len(rows)
        losses.append(total / n)
        if checkpoint:
            tensors = {**_state(parameters, optimizer), **(kept or {})}
            write_tensors(checkpoint, tensors, {**(about or {}), "key": key, "losses": losses})
    return losses


def check_encoder(encoder: ClipEncoder, model_id: str, weights_id: str, what: str) -> None:
    """ValueError when the encoder is not the one that something (`what`) was learned with."""
    if (model_id, weights_id) != (encoder.model_id, encoder.weights_id):
        raise ValueError(
            f"these {what} were learned with {model_id}, weights {weights_id}, and mean nothing to "
            f"{encoder.model_id}, weights {encoder.weights_id}; load that encoder, or learn {what} for this "
            "one"
        )


def refuse_training_images(dataset: AnomalyDataset, trained_on: Tensor, what: str) -> None:
    """ValueError if any image of the dataset is among those (`image_hashes`) that `what` was learned from."""
    seen = np.isin(image_hashes(dataset), trained_on.numpy())
    if seen.any():
        raise ValueError(
            f"{seen.sum()} of {len(seen)} images of {dataset.name} trained these {what}, the first is "
            f"{dataset.meta['image'][seen].iloc[0]}: a score on them is not zero-shot. Test on other data, "
            "or pass allow_training_images=True to look at them all the same"
        )


def write_tensors(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """A safetensors file, whole or not at all. about: plain JSON."""
    content = save(
        {k: v.cpu().contiguous() for k, v in tensors.items()}, {"about": json.dumps(about, sort_keys=True)}
    )
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_tensors(path: str | Path, what: str = "prompts") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_tensors` wrote. Raises FileNotFoundError, or ValueError for a file that is cut off."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path} with learned {what}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, about
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}); delete it and learn again"
        ) from error


def _state(parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    kept = {
        f"optimizer/{name}/{entry}": torch.as_tensor(number)
        for name, value in parameters.items()
        for entry, number in optimizer.state[value].items()
    }
    return {**{name: value.detach() for name, value in parameters.items()}, **kept}


def _resume(
    checkpoint: str | Path | None,
    key: str,
    parameters: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    what: str,
) -> list[float]:
    """Fill parameters and optimizer from a checkpoint; the losses so far, none if there is no checkpoint."""
    if checkpoint is None or not Path(checkpoint).is_file():
        return []
    tensors, about = read_tensors(checkpoint, what)
    if about.get("key") != key:
        raise ValueError(
            f"{checkpoint} belongs to another training (model, recipe, images or masks differ); delete it, "
            "or choose another checkpoint file"
        )
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[name])
            own = f"optimizer/{name}/"
            state = {k.removeprefix(own): v for k, v in tensors.items() if k.startswith(own)}
            optimizer.state[value] = {k: v.to(value.device) if v.ndim else v for k, v in state.items()}
    return list(about["losses"])
