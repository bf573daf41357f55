"""Prompt learning of AnomalyCLIP and CoOp (Sec. 3.2, 3.3) on features that are computed once."""

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
from zsad_core.cache import content_key
from zsad_core.datasets import AnomalyDataset
from zsad_core.encoders import ClipEncoder
from zsad_core.learnable_prompts import Frozen, PromptDesign, encode, freeze, initial_parameters
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
        """(c, 2, d) unit text embeddings, normal first, for c names of objects. Object-agnostic prompts give
        the same for all, unless swap: the name replaces the word "object" (AnomalyCLIP_re, Figure 9)."""
        self.check(encoder)
        design = replace(self.config.design, object_word=None) if swap else self.config.design
        with torch.no_grad():
            frozen = freeze(encoder, [design], names)
            return encode(encoder, design, self.parameters, frozen)[0].float().cpu()


def train_prompts(
    encoder: ClipEncoder,
    dataset: AnomalyDataset,
    *,
    preset: str = "released",
    cache_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    **options: Any,
) -> LearnedPrompts:
    """Learn prompts on the test split of an auxiliary dataset (Sec. 4.1). preset, options: of
    `prompt_config.prompt_config_of`. cache_dir, checkpoint: of `train_side_by_side`."""
    images, configs = dataset.select(split="test"), [prompt_config_of(encoder, preset, **options)]
    return train_side_by_side(encoder, images, configs, cache_dir=cache_dir, checkpoint=checkpoint)[0]


def train_side_by_side(
    encoder: ClipEncoder,
    images: AnomalyDataset,
    configs: Sequence[PromptConfig],
    *,
    cache_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
) -> list[LearnedPrompts]:
    """Prompts of several configurations, each as if learned alone, up to rounding.
    configs: of equal optimizer, epochs and batch size, with designs that differ in fixed words only.
    cache_dir: where features are kept; None: in a temporary folder.
    checkpoint: a file that is written after every epoch, and from which the same training goes on.
    Equal seeds give equal prompts, bit for bit, on one machine. Without any mask the local loss is left out,
    with a warning. Raises ValueError for a set of one class only, and the errors of `Learned.trained`."""
    materials: dict[str, Auxiliary] = {}
    with tempfile.TemporaryDirectory() as temporary:
        pairs = []
        for config in configs:
            layers = config.layers if config.local else config.layers[-1:]
            extractor = extractor_of(encoder, replace(config, layers=layers))
            key = content_key(**extractor.key)
            if key not in materials:
                materials[key] = auxiliary_of(images, extractor, cache_dir or temporary)
            pairs.append((_fitting(config, materials[key], images.name), materials[key]))
        return learn(encoder, pairs, images, checkpoint=checkpoint)


def learn(
    encoder: ClipEncoder,
    pairs: Sequence[tuple[PromptConfig, Auxiliary]],
    images: AnomalyDataset,
    checkpoint: str | Path | None = None,
) -> list[LearnedPrompts]:
    """`train_side_by_side` on the features of these images."""
    configs, config = [own for own, _ in pairs], pairs[0][0]
    seeds = list(dict.fromkeys(own.seed for own in configs))
    drawn = {s: initial_parameters(encoder, config.design, torch.Generator().manual_seed(s)) for s in seeds}
    sets = [drawn[own.seed] for own in configs]
    parameters = {name: torch.stack([own[name] for own in sets]) for name in sets[0]}  # (v, ...)
    names = ["object"] if config.design.object_word else pairs[0][1].names
    frozen = freeze(encoder, [own.design for own in configs], names)
    recipe = {**config.key(), "side by side": [own.key() for own in configs]}
    hashes = torch.from_numpy(image_hashes(images))
    start = LearnedPrompts(parameters, recipe, encoder.model_id, encoder.weights_id, hashes)
    layers = [own.layers if own.local else () for own in configs]
    sources = [(id(own), read, seeds.index(c.seed)) for (c, own), read in zip(pairs, layers, strict=True)]
    materials = {id(material): material for _, material in pairs}

    def loss_of(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:  # each batch is read only once
        batches = {own: materials[own[0]].batch(rows[own[2]].numpy(), own[1]) for own in set(sources)}
        names = torch.stack([batches[source].names for source in sources])  # (v, b)
        texts = texts_of(encoder, config.design, parameters, frozen, names)
        each = zip(configs, texts, sources, strict=True)
        return torch.stack([glocal_loss(encoder, own, text, batches[source]) for own, text, source in each])

    own = {"lr": config.lr, "weight_decay": config.weight_decay}
    options: dict[str, Any] = {"seeds": seeds, "checkpoint": checkpoint}
    if config.optimizer == "adam":
        stepper, own = torch.optim.Adam, own | {"betas": config.betas}
    else:
        stepper, own = torch.optim.SGD, own | {"momentum": 0.9}
        cosine = [(1 + math.cos(math.pi * epoch / config.epochs)) / 2 for epoch in range(1, config.epochs)]
        options |= {"rates": [1e-5, *(config.lr * value for value in cosine)]}
    found = start.trained(encoder, stepper, own, loss_of, images, **options)
    each = []
    for k, own in enumerate(configs):
        learned = {name: values[k].clone() for name, values in found.parameters.items()}
        losses = tuple(of_epoch[k] for of_epoch in found.losses)
        each.append(replace(found, parameters=learned, recipe=own.key(), losses=losses))
    return each


def texts_of(
    encoder: ClipEncoder, design: PromptDesign, parameters: dict[str, Tensor], frozen: Frozen, names: Tensor
) -> Tensor:
    """(v, b, 2, d): the embeddings of each image's prompts. names: (v, b) places in those of `freeze`."""
    names = names * 0 if frozen.ends.shape[1] == 1 else names  # one pair of prompts for all
    used, places = (values.to(encoder.device) for values in names.unique(return_inverse=True))
    own = Frozen(frozen.embeddings[:, used], frozen.positions, frozen.ends[:, used])
    texts = encode(encoder, design, parameters, own)  # (v, names, 2, d)
    return texts[torch.arange(len(texts), device=places.device)[:, None], places]


def glocal_loss(encoder: ClipEncoder, config: PromptConfig, texts: Tensor, batch: Batch) -> Tensor:
    """Eq. 2 for one batch: cross entropy of the image plus lambda times the local losses of all layers.
    texts: (b, 2, d), of `texts_of`."""
    device, loss = encoder.device, texts.new_zeros(())
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
        warnings.warn(f"{name} has no masks: prompts are learned with the image loss alone", stacklevel=4)
        config = replace(config, local=())
    return config
