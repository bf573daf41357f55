"""Prompt learning of AnomalyCLIP and CoOp: a normal and an anomalous prompt (Sec. 3.2, 3.3).

The frozen image tower encodes each image once (`zsad_core.auxiliary`); training runs the text tower and the
losses only. `zsad_core.prompt_config` has every choice by name.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.auxiliary import Auxiliary, Batch, auxiliary_of, image_hashes
from zsad_core.datasets import AnomalyDataset
from zsad_core.encoders import ClipEncoder
from zsad_core.learnable_prompts import Frozen, encode, freeze, initial_parameters
from zsad_core.losses import local_loss
from zsad_core.methods import extractor_of
from zsad_core.prompt_config import PromptConfig, prompt_config_of
from zsad_core.training import Learned


class LearnedPrompts(Learned):
    """Learned prompts. parameters: of `learnable_prompts.initial_parameters`. recipe: `PromptConfig.key`."""

    KIND, PREFIXES = "prompts", ("context/", "deep/")

    @cached_property
    def config(self) -> PromptConfig:
        try:
            return PromptConfig.from_key(self.recipe)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this version does not know the recipe of these prompts ({error!r})") from error

    def check(self, encoder: ClipEncoder) -> None:
        """Also ValueError when the parameters are not those of the recipe."""
        super().check(encoder)
        drawn = initial_parameters(encoder, self.config.design, torch.Generator())
        expected, found = ({k: tuple(v.shape) for k, v in own.items()} for own in (drawn, self.parameters))
        if expected != found:
            raise ValueError(f"these prompts have the shapes {found}, their recipe {expected}; learn again")

    def texts(
        self, encoder: ClipEncoder, names: Sequence[str] = ("object",), *, swap: bool = False
    ) -> Tensor:
        """(c, 2, d) unit text embeddings, normal first, for c names of objects.

        Object-agnostic prompts give the same for all names, unless swap: then the name replaces the word
        "object" in the learned prompts (AnomalyCLIP_re, Figure 9).
        Raises ValueError when the encoder is not the one that they were learned with.
        """
        self.check(encoder)
        design = replace(self.config.design, object_word=None) if swap else self.config.design
        with torch.no_grad():
            frozen = freeze(encoder, design, names)
            return encode(encoder, design, self.parameters, frozen).float().cpu()


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

    preset, options: of `prompt_config.prompt_config_of`. split: None takes all images.
    cache_dir: where features are kept for other runs; None: in a temporary folder, for this one.
    checkpoint: a file that is written after every epoch, and from which the same training goes on.
    Equal seeds give equal prompts, bit for bit, on one machine; the global random state is left as it was.
    Without any mask the local loss is left out, with a warning. Raises ValueError for a set from which
    nothing can be learned (one class only), and the errors of `Learned.trained`.
    """
    config = prompt_config_of(encoder, preset, **options)
    chosen = dataset if split is None else dataset.select(split=split)
    with tempfile.TemporaryDirectory() as temporary:
        layers = config.layers if config.local else config.layers[-1:]
        extractor = extractor_of(encoder, replace(config, layers=layers))
        material = auxiliary_of(chosen, extractor, cache_dir or temporary)
        config = _fitting(config, material, dataset.name)
        return learn(encoder, config, material, chosen, checkpoint=checkpoint, progress=progress)


def learn(
    encoder: ClipEncoder, config: PromptConfig, material: Auxiliary, images: AnomalyDataset, **options: Any
) -> LearnedPrompts:
    """`train_prompts` on the features of these images. options: `checkpoint`, `progress`."""
    drawn = LearnedPrompts(
        initial_parameters(encoder, config.design, torch.Generator().manual_seed(config.seed)),
        config.key(),
        encoder.model_id,
        encoder.weights_id,
        torch.from_numpy(image_hashes(images)),
    )
    frozen = freeze(encoder, config.design, ["object"] if config.design.object_word else material.names)

    def loss_of(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
        batch = material.batch(rows.numpy(), config.layers if config.local else ())
        return glocal_loss(encoder, config, parameters, frozen, batch)

    def rate(epoch: int) -> float:
        """CoOp's: 1e-5 in the first epoch, then a cosine over all epochs."""
        return config.lr * (1 + math.cos(math.pi * epoch / config.epochs)) / 2 if epoch else 1e-5

    own = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adam":
        stepper, own = torch.optim.Adam, own | {"betas": config.betas}
    else:
        stepper, own, options = torch.optim.SGD, own | {"momentum": 0.9}, options | {"rate": rate}
    return drawn.trained(encoder, stepper, own, loss_of, len(material), images.fingerprint, **options)


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
        loss = loss + F.cross_entropy(cosines / config.temperature, batch.labels.to(device).long())
    if config.local:
        direction = (texts[:, 1] - texts[:, 0]) / config.temperature  # (b, d)
        for patches in batch.patches.values():
            # the softmax of two is the sigmoid of their difference
            anomalous = torch.sigmoid(torch.einsum("bpd,bd->bp", patches.to(device), direction))
            maps = anomalous.unflatten(1, encoder.grid)  # (b, rows, columns)
            loss = loss + config.local_weight * local_loss(maps, batch.masks.to(device), config.local)
    return loss


def _fitting(config: PromptConfig, material: Auxiliary, name: str) -> PromptConfig:
    """The config fitted to the set: without masks no local loss; a set of one class is an error."""
    classes = set(material.labels.tolist())
    if len(classes) < 2 and (config.global_loss or classes == {0}):
        lacking = "normal" if 1 in classes else "anomalous"
        other = ", or use global_loss=False to learn from the masks alone" if material.has_masks else ""
        raise ValueError(f"{name} has no {lacking} images; prompts are learned from both; add some{other}")
    if config.local and not material.has_masks:
        if not config.global_loss:
            raise ValueError(f"{name} has no masks, so nothing can be learned from local losses alone")
        warnings.warn(f"{name} has no masks: prompts are learned with the image loss alone", stacklevel=3)
        config = replace(config, local=())
    return config
