"""AnomalyCLIP's prompt learning, and CoOp's: two prompts that tell normal from anomalous (Sec. 3.2, 3.3).

Images go through the frozen image tower once (`zsad_core.auxiliary`); training touches the text tower and the
losses only. `zsad_core.recipes` has every choice by name.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from zsad_core.auxiliary import Auxiliary, Batch, auxiliary_of, image_hashes
from zsad_core.cache import content_key, write_atomically
from zsad_core.datasets import AnomalyDataset
from zsad_core.dense import glocal_extractor
from zsad_core.encoders import ClipEncoder
from zsad_core.glocal_loss import image_loss, local_loss
from zsad_core.learnable_prompts import Frozen, encode, freeze, initial_parameters
from zsad_core.recipes import Recipe, recipe_of
from zsad_core.threads import one_thread


@dataclass(frozen=True)
class LearnedPrompts:
    """Prompts, how they were learned, and for which model.

    parameters: `learnable_prompts.initial_parameters`, learned. losses: the mean loss of each epoch.
    trained_on: (n,) int64, `auxiliary.image_hashes` of the images that they were learned from.
    """

    parameters: dict[str, Tensor]
    recipe: Recipe
    model_id: str
    weights_id: str
    trained_on: Tensor
    losses: tuple[float, ...] = ()

    def texts(
        self, encoder: ClipEncoder, names: Sequence[str] = ("object",), *, swap: bool = False
    ) -> Tensor:
        """(c, 2, d) unit text embeddings, normal first, for c names of objects.

        Object-agnostic prompts give the same for all names, unless swap: then the name takes the place of the
        word "object" in the learned prompts (AnomalyCLIP_re, Figure 9).
        Raises ValueError when the encoder is not the one that they were learned with.
        """
        self.check(encoder)
        design = replace(self.recipe.design, object_word=None) if swap else self.recipe.design
        with torch.no_grad():
            frozen = freeze(encoder, design, names)
            return encode(encoder, design, self.parameters, frozen).float().cpu()

    def check(self, encoder: ClipEncoder) -> None:
        """ValueError when the encoder is not the one that the prompts were learned with."""
        if (self.model_id, self.weights_id) != (encoder.model_id, encoder.weights_id):
            raise ValueError(
                f"these prompts were learned with {self.model_id}, weights {self.weights_id}, and mean "
                f"nothing to {encoder.model_id}, weights {encoder.weights_id}; load that encoder, or learn "
                "prompts for this one"
            )

    def refuse_training_images(self, dataset: AnomalyDataset) -> None:
        """ValueError if any image of the dataset, by its bytes, is among those that trained the prompts."""
        seen = np.isin(image_hashes(dataset), self.trained_on.numpy())
        if seen.any():
            raise ValueError(
                f"{seen.sum()} of {len(seen)} images of {dataset.name} trained these prompts, the first is "
                f"{dataset.meta['image'][seen].iloc[0]}: a score on them is not zero-shot. Test on other "
                "data, or pass allow_training_images=True to look at them all the same"
            )

    def save(self, path: str | Path) -> None:
        """A safetensors file; whole or not at all."""
        tensors = {**self.parameters, "trained_on": self.trained_on}
        _write(path, tensors, {**_about(self), "losses": self.losses})

    @classmethod
    def load(cls, path: str | Path) -> LearnedPrompts:
        """From a file that `save` made, or a checkpoint of `train_prompts`: the prompts of its last epoch.

        Raises FileNotFoundError, or ValueError for a file that is cut off or holds something else.
        """
        tensors, about = _read(path)
        if "recipe" not in about or "trained_on" not in tensors:
            raise ValueError(
                f"{path} holds no learned prompts of this book; for the authors' own checkpoints see "
                "`released_prompts.read_released`"
            )
        return cls(
            {name: value for name, value in tensors.items() if name.startswith(("context/", "deep/"))},
            Recipe.from_key(about["recipe"]),
            about["model"],
            about["weights"],
            tensors["trained_on"],
            tuple(about["losses"]),
        )


def train_prompts(
    encoder: ClipEncoder,
    dataset: AnomalyDataset,
    *,
    preset: str = "released",
    cache_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    split: str | None = "test",
    progress: bool = True,
    **options: Any,
) -> LearnedPrompts:
    """Learn prompts on an auxiliary dataset, in the paper its test split with masks (Sec. 4.1).

    preset, options: `recipes.recipe_of`. split: None takes all images.
    cache_dir: where features are kept for other runs; None: in a temporary folder, for this one.
    checkpoint: a file that is written after every epoch. If it is there and belongs to the same training,
        training goes on from it, with the same result as if it had never stopped. `LearnedPrompts.load`
        reads it as well.
    Equal seeds give equal prompts, bit for bit, on one machine; the global random state is left as it was.

    Without any mask the local loss is left out, with a warning. Raises ValueError for a set from which
    nothing can be learned (one class only), and FloatingPointError when the loss is not finite; the
    checkpoint of the last epoch stays.
    """
    recipe = recipe_of(encoder, preset, **options)
    with tempfile.TemporaryDirectory() as temporary:
        layers = recipe.layers if recipe.local else recipe.layers[-1:]
        extractor = glocal_extractor(encoder, layers, recipe.attention, recipe.first, recipe.final_norm)
        material = auxiliary_of(dataset, extractor, cache_dir or temporary, split=split)
        recipe = _fitting(recipe, material, dataset.name)
        chosen = dataset if split is None else dataset.select(split=split)
        seen = torch.from_numpy(image_hashes(chosen))
        return learn(encoder, recipe, material, seen, checkpoint=checkpoint, progress=progress)


def learn(
    encoder: ClipEncoder,
    recipe: Recipe,
    material: Auxiliary,
    trained_on: Tensor,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> LearnedPrompts:
    """`train_prompts` on features that are there. trained_on: `auxiliary.image_hashes` of their images."""
    order = torch.Generator().manual_seed(recipe.seed)
    parameters = initial_parameters(encoder, recipe.design, order)
    parameters = {name: value.to(encoder.device).requires_grad_() for name, value in parameters.items()}
    optimizer = _optimizer(recipe, list(parameters.values()))
    prompts = LearnedPrompts(parameters, recipe, encoder.model_id, encoder.weights_id, trained_on)
    key = content_key(**_about(prompts), precision=encoder.precision, material=_content(material, trained_on))
    losses = _resume(checkpoint, key, parameters, optimizer)
    names = material.names if recipe.design.object_word is None else ["object"]
    frozen = freeze(encoder, recipe.design, names)
    epochs = range(len(losses), recipe.epochs)
    for epoch in tqdm(epochs, desc="prompts", leave=False, disable=not progress):
        for group in optimizer.param_groups:
            group["lr"] = _rate(recipe, epoch)
        # seeded anew, so that a resumed epoch has the order that it would have had
        order.manual_seed(recipe.seed + 1_000_003 * (epoch + 1))
        total = 0.0
        with one_thread():
            batches = torch.randperm(len(material), generator=order).split(recipe.batch_size)
            for step, rows in enumerate(batches, start=1):
                batch = material.batch(rows.numpy(), recipe.layers if recipe.local else ())
                loss = glocal_loss(encoder, recipe, parameters, frozen, batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if not all(value.isfinite().all() for value in (loss, *parameters.values())):
                    raise FloatingPointError(
                        f"the loss ({loss.item()}) or the prompts are no longer finite in epoch {epoch + 1}, "
                        f"step {step}: lower lr={recipe.lr}, or check features and masks"
                        + (f"; {checkpoint} holds the epochs before" if checkpoint and losses else "")
                    )
                total += loss.item() * len(rows)
        losses.append(total / len(material))
        if checkpoint:
            about = {**_about(prompts), "losses": losses, "key": key}
            _write(checkpoint, {**_state(parameters, optimizer), "trained_on": trained_on}, about)
    values = {name: value.detach().cpu() for name, value in parameters.items()}
    return replace(prompts, parameters=values, losses=tuple(losses))


def glocal_loss(
    encoder: ClipEncoder, recipe: Recipe, parameters: dict[str, Tensor], frozen: Frozen, batch: Batch
) -> Tensor:
    """Eq. 2 for one batch: cross entropy of the image plus lambda times the local losses of all layers."""
    device = encoder.device
    names = batch.names * 0 if len(frozen.ends) == 2 else batch.names  # one pair of prompts for all
    used, places = names.unique(return_inverse=True)
    pairs = torch.stack([2 * used, 2 * used + 1], dim=1).flatten().to(device)
    own = Frozen(frozen.embeddings[pairs], frozen.positions, frozen.ends[pairs])
    texts = encode(encoder, recipe.design, parameters, own)[places.to(device)]  # (b, 2, d)
    loss = texts.new_zeros(())
    if recipe.global_loss:
        cosines = torch.einsum("bd,bsd->bs", batch.heads.to(device), texts)  # (b, 2)
        loss = loss + image_loss(cosines, batch.labels.to(device), recipe.temperature)
    if recipe.local:
        direction = (texts[:, 1] - texts[:, 0]) / recipe.temperature  # (b, d)
        for patches in batch.patches.values():
            # the softmax of two is the sigmoid of their difference
            anomalous = torch.sigmoid(torch.einsum("bpd,bd->bp", patches.to(device), direction))
            maps = anomalous.unflatten(1, encoder.grid)  # (b, rows, columns)
            loss = loss + recipe.local_weight * local_loss(maps, batch.masks.to(device), recipe.local)
    return loss


def _fitting(recipe: Recipe, material: Auxiliary, name: str) -> Recipe:
    """The recipe for what the set has: without masks no local loss; a set of one class is refused."""
    classes = set(material.labels.tolist())
    if len(classes) < 2 and (recipe.global_loss or classes == {0}):
        lacking = "normal" if 1 in classes else "anomalous"
        raise ValueError(
            f"{name} has no {lacking} images, and prompts are learned from both; add some"
            + (", or use global_loss=False to learn from the masks alone" if material.has_masks else "")
        )
    if recipe.local and not material.has_masks:
        if not recipe.global_loss:
            raise ValueError(f"{name} has no masks, so nothing can be learned from local losses alone")
        warnings.warn(f"{name} has no masks: prompts are learned with the image loss alone", stacklevel=3)
        recipe = replace(recipe, local=())
    return recipe


def _optimizer(recipe: Recipe, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, recipe.lr, recipe.betas, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(parameters, recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)


def _rate(recipe: Recipe, epoch: int) -> float:
    """Constant for Adam; for SGD CoOp's: 1e-5 in the first epoch, then a cosine over all epochs."""
    if recipe.optimizer == "adam":
        return recipe.lr
    return 1e-5 if epoch == 0 else recipe.lr * (1 + math.cos(math.pi * epoch / recipe.epochs)) / 2


def _about(prompts: LearnedPrompts) -> dict[str, Any]:
    return {"model": prompts.model_id, "weights": prompts.weights_id, "recipe": prompts.recipe.key()}


def _content(material: Auxiliary, trained_on: Tensor) -> str:
    """A key of what a training sees of its images besides their features."""
    masks = hashlib.sha256()
    for part in material.masks:
        masks.update(np.ascontiguousarray(part))
    labels, owners = material.labels.tolist(), material.owners.tolist()
    images = {"images": trained_on.tolist(), "labels": labels, "owners": owners, "names": material.names}
    return content_key(**images, masks=masks.hexdigest())


def _state(parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The parameters by name and what the optimizer keeps of each, `optimizer/<name>/<entry>`."""
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
) -> list[float]:
    """Fill parameters and optimizer from a checkpoint; the losses so far, none if there is no checkpoint."""
    if checkpoint is None or not Path(checkpoint).is_file():
        return []
    tensors, about = _read(checkpoint)
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


def _write(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    content = save(tensors, {"about": json.dumps(about, sort_keys=True)})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path} with learned prompts")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            return {name: file.get_tensor(name) for name in sorted(file.keys())}, about
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is no whole safetensors file ({error}); delete it and learn again"
        ) from error
