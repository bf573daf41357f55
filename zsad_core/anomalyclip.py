"""AnomalyCLIP on a dataset: prompts learned on another one, scores and maps (Sec. 3.3, App. A).

An image's score is the anomalous probability of its global feature; a map's, that of each local feature, the
mean over layers, upsampled and smoothed. The paper sums over layers; the mean ranks the same and stays a
probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import OPENAI_IMAGENET_TEMPLATES
from torch import Tensor

from zsad_core.cache import content_key
from zsad_core.datasets import AnomalyDataset
from zsad_core.dense import Dense, Extractor, glocal_extractor
from zsad_core.embeddings import dataset_of, missing, text_embeddings
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.prompt_learning import LearnedPrompts, train_prompts
from zsad_core.prompts import object_name
from zsad_core.recipes import Recipe, recipe_of
from zsad_core.settings import Settings
from zsad_core.vand import Adapters, train_adapters
from zsad_core.winclip import Detector, Output

SIGMA, SIGMA_AT = 4.0, 518
"""Of the Gaussian filter over a map of 518 pixels (App. A.1)."""

MEDICAL = "cvc_colondb"
"""The role of the medical auxiliary set (App. B): anomalous images with masks, and normal training images."""


def prompt_encoder(settings: Settings) -> ClipEncoder:
    """The CLIP of AnomalyCLIP and its baselines, at its own input size."""
    return load_encoder(
        settings.prompt_model,
        settings.prompt_weights,
        device=settings.device,
        precision=settings.precision,
        seed=settings.seed,
        image_size=settings.prompt_image_size,
    )


def auxiliary_role(role: str) -> str:
    """The dataset that prompts for this one are learned on: VisA for MVTec AD, MVTec AD for all others."""
    return "visa" if role == "mvtec" else "mvtec"


def missing_for(settings: Settings, roles: Sequence[str]) -> list[str]:
    """For a page's reader: the lines of `embeddings.missing`, and for which of the datasets that are there
    nothing can be learned, since the one to learn on is not."""
    lines = missing(settings, roles)
    there = [role for role in roles if not missing(settings, [role])]
    for auxiliary in ("mvtec", "visa"):
        targets = [role for role in there if auxiliary_role(role) == auxiliary]
        if targets and missing(settings, [auxiliary]):
            lines.append(
                f"Nothing is learned for {', '.join(targets)}, as the dataset in the place of {auxiliary} is "
                "missing: AnomalyCLIP, CoOp and VAND are not run there."
            )
    return lines


def smoothing(image_size: tuple[int, int]) -> float:
    """The sigma in pixels that is to a map of this size what 4 is to one of 518 pixels."""
    return SIGMA * image_size[0] / SIGMA_AT


def learned_prompts(
    settings: Settings, encoder: ClipEncoder, auxiliary: str, preset: str = "released", **options
) -> LearnedPrompts | None:
    """Prompts learned on the dataset in a role, read if they were learned before; None without the dataset.

    Of `MEDICAL` all images are used, of other sets the test split.
    """
    if settings.prompt_epochs is not None:
        options = {"epochs": settings.prompt_epochs, **options}
    key = {"preset": preset, "recipe": recipe_of(encoder, preset, **options).key()}
    train = partial(train_prompts, encoder, preset=preset, **options)
    return _kept(settings, encoder, auxiliary, key, train, LearnedPrompts)


def learned_adapters(settings: Settings, encoder: ClipEncoder, auxiliary: str) -> Adapters | None:
    """VAND's layers, as in `learned_prompts`; on MVTec AD 3 epochs and mosaics, on others 15 epochs without,
    as its authors have."""
    epochs = settings.prompt_epochs or (3 if auxiliary == "mvtec" else 15)
    mosaic = 0.2 if auxiliary == "mvtec" else 0.0
    train = partial(train_adapters, encoder, epochs=epochs, mosaic=mosaic)
    key = {"vand": 1, "epochs": epochs, "mosaic": mosaic}
    return _kept(settings, encoder, auxiliary, key, train, Adapters)


def _kept(
    settings: Settings, encoder: ClipEncoder, role: str, key: dict, train: Callable, kind: type
) -> LearnedPrompts | Adapters | None:
    """What `train(dataset, ...)` learns, kept in `cache_dir/prompts` under everything that it depends on."""
    dataset = dataset_of(settings, role)
    if dataset is None:
        return None
    split = None if role == MEDICAL else "test"
    chosen = dataset if split is None else dataset.select(split=split)
    key |= {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}
    name = f"{dataset.root.name}-{content_key(**key, images=chosen.fingerprint)}"
    path = Path(settings.cache_dir) / "prompts" / f"{name}.safetensors"
    if path.is_file():
        return kind.load(path)
    unfinished = path.with_name(f"{name}.unfinished.safetensors")
    folder = settings.cache_dir  # where the features lie that the studies of this dataset read
    found = train(dataset, cache_dir=folder, checkpoint=unfinished, split=split, progress=False)
    found.save(path)
    unfinished.unlink(missing_ok=True)
    return found


def extractor_of(encoder: ClipEncoder, recipe: Recipe, attention: str | None = None) -> Extractor:
    """The features that prompts of a recipe are compared with."""
    kinds = attention or recipe.attention
    return glocal_extractor(encoder, recipe.layers, kinds, recipe.first, recipe.final_norm)


def detector(
    texts: Tensor, grid: tuple[int, int], temperature: float = 0.07, *, maps: bool = True
) -> Detector:
    """Image scores and maps of features from `extractor_of`. texts: (2, d) unit rows, normal first.

    maps: False for data without masks.
    """
    direction = (texts[1] - texts[0]).double() / temperature  # (d,)
    # The softmax of two is the sigmoid of the difference. The features have unit length, or are means of unit
    # rows, whose cosine is the mean of theirs.
    probability = lambda features: torch.sigmoid(features.double() @ direction)  # noqa: E731

    def detect(dense: Dense) -> dict[str, Output]:
        local = [probability(v).unflatten(1, grid) for v in dense.starting("local").values()] if maps else []
        return {"": Output(probability(dense.tensor("global")), sum(local) / len(local) if local else None)}

    return detect


def clip_texts(
    encoder: ClipEncoder, category: str, cache_dir: str | Path, *, ensemble: bool = False
) -> Tensor:
    """(2, d) unit rows of the baselines CLIP and, with the ensemble, CLIP-AC (App. A.2).

    "A photo of a normal [cls]" and "A photo of an anomalous [cls]"; the ensemble puts both states into CLIP's
    ImageNet templates and takes the mean of unit embeddings of each.
    """
    name = object_name(category)
    if ensemble:
        sides = [[t(f"{word} {name}") for t in OPENAI_IMAGENET_TEMPLATES] for word in ("normal", "anomalous")]
    else:
        sides = [[f"A photo of a normal {name}"], [f"A photo of an anomalous {name}"]]
    vectors = torch.from_numpy(
        text_embeddings(encoder, [*sides[0], *sides[1]], cache_dir, "anomalyclip-clip")
    )
    unit = F.normalize(vectors, dim=-1).split([len(side) for side in sides])
    return F.normalize(torch.stack([side.mean(0) for side in unit]), dim=-1)


def has_masks(dataset: AnomalyDataset) -> bool:
    return bool(((dataset.meta["label"] == 1) & (dataset.meta["mask"] != "")).any())


def score_dataset(
    prompts: LearnedPrompts,
    encoder: ClipEncoder,
    dataset: AnomalyDataset,
    measure: Callable[[Extractor, Detector, str], dict[str, np.ndarray]],
    *,
    attention: str | None = None,
    swap: bool = False,
    allow_training_images: bool = False,
) -> dict[str, np.ndarray]:
    """What `measure` finds for one category; refuses images that the prompts were learned from.

    swap: the category's name in the place of "object" (Figure 9).
    allow_training_images: look at them all the same.
    """
    if not allow_training_images:
        prompts.refuse_training_images(dataset)
    names = [object_name(dataset.meta["category"].iloc[0])]
    texts = prompts.texts(encoder, names, swap=swap)[0]
    found = detector(texts, encoder.grid, prompts.recipe.temperature, maps=has_masks(dataset))
    key = content_key(texts=texts.double().flatten().tolist(), temperature=prompts.recipe.temperature)
    return measure(extractor_of(encoder, prompts.recipe, attention), found, key)
