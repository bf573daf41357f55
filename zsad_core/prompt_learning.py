"""AnomalyCLIP's prompt learning, and CoOp's: two prompts that tell normal from anomalous (Sec. 3.2, 3.3).

Images go through the frozen image tower once (`zsad_core.auxiliary`); training touches the text tower and the
losses only. `zsad_core.prompt_config` has every choice by name.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsad_core.auxiliary import Auxiliary, Batch, auxiliary_of, image_hashes
from zsad_core.cache import content_key
from zsad_core.datasets import AnomalyDataset
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import glocal_extractor
from zsad_core.learnable_prompts import Frozen, encode, freeze, initial_parameters
from zsad_core.losses import image_loss, local_loss
from zsad_core.prompt_config import PromptConfig, prompt_config_of
from zsad_core.training import check_encoder, read_tensors, refuse_training_images, run_epochs, write_tensors


@dataclass(frozen=True)
class LearnedPrompts:
    """Prompts, how they were learned, and for which model.

    parameters: `learnable_prompts.initial_parameters`, learned. losses: the mean loss of each epoch.
    trained_on: (n,) int64, `auxiliary.image_hashes` of the images that they were learned from.
    """

    parameters: dict[str, Tensor]
    config: PromptConfig
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
        design = replace(self.config.design, object_word=None) if swap else self.config.design
        with torch.no_grad():
            frozen = freeze(encoder, design, names)
            return encode(encoder, design, self.parameters, frozen).float().cpu()

    def check(self, encoder: ClipEncoder) -> None:
        """ValueError when the encoder is not the one that the prompts were learned with."""
        check_encoder(encoder, self.model_id, self.weights_id, "prompts")

    def refuse_training_images(self, dataset: AnomalyDataset) -> None:
        """ValueError if any image of the dataset, by its bytes, is among those that trained the prompts."""
        refuse_training_images(dataset, self.trained_on, "prompts")

    def save(self, path: str | Path) -> None:
        """A safetensors file; whole or not at all."""
        tensors = {**self.parameters, "trained_on": self.trained_on}
        write_tensors(path, tensors, {**_about(self), "losses": self.losses})

    @classmethod
    def load(cls, path: str | Path) -> LearnedPrompts:
        """From a file that `save` made, or a checkpoint of `train_prompts`: the prompts of its last epoch.

        Raises FileNotFoundError, or ValueError for a file that is cut off or holds something else.
        """
        tensors, about = read_tensors(path)
        if "recipe" not in about or "trained_on" not in tensors:
            raise ValueError(
                f"{path} holds no learned prompts of this book; for the authors' own checkpoints see "
                "`released_prompts.read_released`"
            )
        return cls(
            {name: value for name, value in tensors.items() if name.startswith(("context/", "deep/"))},
            PromptConfig.from_key(about["recipe"]),
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

    preset, options: `prompt_config.prompt_config_of`. split: None takes all images.
    cache_dir: where features are kept for other runs; None: in a temporary folder, for this one.
    checkpoint: a file that is written after every epoch. If it is there and belongs to the same training,
        training goes on from it, with the same result as if it had never stopped. `LearnedPrompts.load`
        reads it as well.
    Equal seeds give equal prompts, bit for bit, on one machine; the global random state is left as it was.

    Without any mask the local loss is left out, with a warning. Raises ValueError for a set from which
    nothing can be learned (one class only), and FloatingPointError when the loss is not finite; the
    checkpoint of the last epoch stays.
    """
    config = prompt_config_of(encoder, preset, **options)
    with tempfile.TemporaryDirectory() as temporary:
        layers = config.layers if config.local else config.layers[-1:]
        extractor = glocal_extractor(encoder, layers, config.attention, config.first, config.final_norm)
        material = auxiliary_of(dataset, extractor, cache_dir or temporary, split=split)
        config = _fitting(config, material, dataset.name)
        chosen = dataset if split is None else dataset.select(split=split)
        seen = torch.from_numpy(image_hashes(chosen))
        return learn(encoder, config, material, seen, checkpoint=checkpoint, progress=progress)


def learn(
    encoder: ClipEncoder,
    config: PromptConfig,
    material: Auxiliary,
    trained_on: Tensor,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> LearnedPrompts:
    """`train_prompts` on features that are there. trained_on: `auxiliary.image_hashes` of their images."""
    generator = torch.Generator().manual_seed(config.seed)
    parameters = initial_parameters(encoder, config.design, generator)
    parameters = {name: value.to(encoder.device).requires_grad_() for name, value in parameters.items()}
    prompts = LearnedPrompts(parameters, config, encoder.model_id, encoder.weights_id, trained_on)
    about, seen = _about(prompts), _content(material, trained_on)
    names = material.names if config.design.object_word is None else ["object"]
    frozen = freeze(encoder, config.design, names)

    def loss_of(rows: Tensor) -> Tensor:
        batch = material.batch(rows.numpy(), config.layers if config.local else ())
        return glocal_loss(encoder, config, parameters, frozen, batch)

    losses = run_epochs(
        parameters,
        _optimizer(config, list(parameters.values())),
        loss_of,
        len(material),
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        rate=partial(_rate, config),
        key=content_key(**about, precision=encoder.precision, material=seen),
        checkpoint=checkpoint,
        about=about,
        kept={"trained_on": trained_on},
        progress=progress,
    )
    values = {name: value.detach().cpu() for name, value in parameters.items()}
    return replace(prompts, parameters=values, losses=tuple(losses))


def glocal_loss(
    encoder: ClipEncoder, config: PromptConfig, parameters: dict[str, Tensor], frozen: Frozen, batch: Batch
) -> Tensor:
    """Eq. 2 for one batch: cross entropy of the image plus lambda times the local losses of all layers."""
    device = encoder.device
    names = batch.names * 0 if len(frozen.ends) == 2 else batch.names  # one pair of prompts for all
    used, places = names.unique(return_inverse=True)
    pairs = torch.stack([2 * used, 2 * used + 1], dim=1).flatten().to(device)
    own = Frozen(frozen.embeddings[pairs], frozen.positions, frozen.ends[pairs])
    texts = encode(encoder, config.design, parameters, own)[places.to(device)]  # (b, 2, d)
    loss = texts.new_zeros(())
    if config.global_loss:
        cosines = torch.einsum("bd,bsd->bs", batch.heads.to(device), texts)  # (b, 2)
        loss = loss + image_loss(cosines, batch.labels.to(device), config.temperature)
    if config.local:
        direction = (texts[:, 1] - texts[:, 0]) / config.temperature  # (b, d)
        for patches in batch.patches.values():
            # the softmax of two is the sigmoid of their difference
            anomalous = torch.sigmoid(torch.einsum("bpd,bd->bp", patches.to(device), direction))
            maps = anomalous.unflatten(1, encoder.grid)  # (b, rows, columns)
            loss = loss + config.local_weight * local_loss(maps, batch.masks.to(device), config.local)
    return loss


def _fitting(config: PromptConfig, material: Auxiliary, name: str) -> PromptConfig:
    """The config for what the set has: without masks no local loss; a set of one class is refused."""
    classes = set(material.labels.tolist())
    if len(classes) < 2 and (config.global_loss or classes == {0}):
        lacking = "normal" if 1 in classes else "anomalous"
        raise ValueError(
            f"{name} has no {lacking} images, and prompts are learned from both; add some"
            + (", or use global_loss=False to learn from the masks alone" if material.has_masks else "")
        )
    if config.local and not material.has_masks:
        if not config.global_loss:
            raise ValueError(f"{name} has no masks, so nothing can be learned from local losses alone")
        warnings.warn(f"{name} has no masks: prompts are learned with the image loss alone", stacklevel=3)
        config = replace(config, local=())
    return config


def _optimizer(config: PromptConfig, parameters: list[Tensor]) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, config.lr, config.betas, weight_decay=config.weight_decay)
    return torch.optim.SGD(parameters, config.lr, momentum=0.9, weight_decay=config.weight_decay)


def _rate(config: PromptConfig, epoch: int) -> float:
    """Constant for Adam; for SGD CoOp's: 1e-5 in the first epoch, then a cosine over all epochs."""
    if config.optimizer == "adam":
        return config.lr
    return 1e-5 if epoch == 0 else config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2


def _about(prompts: LearnedPrompts) -> dict[str, Any]:
    return {"model": prompts.model_id, "weights": prompts.weights_id, "recipe": prompts.config.key()}


def _content(material: Auxiliary, trained_on: Tensor) -> str:
    """A key of what a training sees of its images besides their features."""
    masks = hashlib.sha256()
    for part in material.masks:
        masks.update(np.ascontiguousarray(part))
    labels, owners = material.labels.tolist(), material.owners.tolist()
    images = {"images": trained_on.tolist(), "labels": labels, "owners": owners, "names": material.names}
    return content_key(**images, masks=masks.hexdigest())
