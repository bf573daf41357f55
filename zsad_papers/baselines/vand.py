"""VAND, also called APRIL-GAN (Chen, Han and Zhang 2023): AnomalyCLIP's strongest baseline, zero-shot.

    z_l = unit(W_l h_l + b_l)                              patch tokens h_l of four blocks, adapted
    p_l = softmax(up(s z_l . t_normal), up(s z_l . t_anomalous))[anomalous]

Only W_l and b_l are learned, from masks of an auxiliary dataset; texts and image score are frozen. Logits are
upsampled before the softmax. All is float32; the original computes with mixed precision.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from zsad_core.auxiliary import auxiliary_of, image_hashes
from zsad_core.cache import content_key, write_atomically
from zsad_core.datasets import COLUMNS, AnomalyDataset, load_dataset, stretched_mask
from zsad_core.dpam import quarter_blocks
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import Extractor, TileFeatures, clip_extractor, text_embeddings
from zsad_core.losses import local_loss
from zsad_core.methods import Detector, Output, detector
from zsad_core.prompts import compositional_ensemble, object_name
from zsad_core.scores import prompt_score
from zsad_core.training import Learned

_SENTENCES = json.loads((files("zsad_papers.baselines") / "vand_sentences.json").read_text("utf-8"))
STATES = _SENTENCES["normal"], _SENTENCES["anomalous"]
"""7 and 5 phrases."""
TEMPLATES = _SENTENCES["templates"]
"""35 sentences, 30 of them out of those that CLIP's authors wrote for ImageNet."""

BATCH_SIZE, LR, BETAS, SEED = 8, 1e-3, (0.5, 0.999), 111
"""The original's."""


class Adapters(Learned):
    """One linear layer for each block: `weight/<block>` (d, width) and `bias/<block>` (d,). recipe: options
    of `train_adapters`; its `scale` multiplies the cosines."""

    KIND, PREFIXES = "adapters", ("weight/", "bias/")


def vand_texts(encoder: ClipEncoder, category: str, cache_dir: str | Path) -> Tensor:
    """(2, d) unit text embeddings, normal first: the mean of the unit embeddings of 245 and 175 sentences."""
    sides = compositional_ensemble(object_name(category), STATES, TEMPLATES)
    return mean_texts(encoder, sides, cache_dir)


def mean_texts(encoder: ClipEncoder, sides: Sequence[list[str]], cache_dir: str | Path) -> Tensor:
    """(2, d) unit rows: the mean of the unit embeddings of each side's sentences."""
    vectors = torch.from_numpy(text_embeddings(encoder, [*sides[0], *sides[1]], cache_dir))
    unit = F.normalize(vectors, dim=-1).split([len(side) for side in sides])
    return F.normalize(torch.stack([side.mean(0) for side in unit]), dim=-1)


def vand_extractor(encoder: ClipEncoder) -> Extractor:
    """`image` (t, d), the ordinary global feature, and raw patch tokens `layer/<block>` (t, patches, width)
    of the four quarter blocks, for `compute_features`."""
    blocks = quarter_blocks(encoder.depth)
    return clip_extractor(encoder, (), tuple(dict.fromkeys(blocks)))  # shallow towers have fewer than four


def initial_adapters(
    width: int, dim: int, layers: tuple[int, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """`weight/<block>` (dim, width) and `bias/<block>` (dim,), uniform as in a new `nn.Linear`."""
    shapes = {f"weight/{layer}": (dim, width) for layer in layers} | {f"bias/{n}": (dim,) for n in layers}
    uniform = {name: torch.rand(*shape, generator=generator) for name, shape in shapes.items()}
    return {name: width**-0.5 * (2 * values - 1) for name, values in uniform.items()}


def train_adapters(
    encoder: ClipEncoder,
    images: AnomalyDataset,
    cache_dir: str | Path,
    *,
    epochs: int,
    seed: int = SEED,
    mosaic: float = 0.0,
    checkpoint: str | Path | None = None,
) -> Adapters:
    """Learn the linear layers on auxiliary images, in the paper the test split of a dataset, by `vand_loss`.

    mosaic: probability in [0, 1] that an image is replaced by a mosaic of 2 x 2 images of its category.
    cache_dir, checkpoint, equal seeds: as in `prompt_learning.train_side_by_side`.
    Raises ValueError for other numbers or without masks, and the errors of `Learned.trained`.
    """
    if epochs < 0 or not 0 <= mosaic <= 1:
        raise ValueError(f"{epochs=}, {mosaic=}: expected 0 epochs (layers as drawn) or more, a probability")
    extractor, scale = vand_extractor(encoder), 1 / encoder.temperature  # of the cosines; 100 for most CLIPs
    layers = tuple(extractor.key["layers"])
    material, n = auxiliary_of(images, extractor, cache_dir), len(images)
    if not material.has_masks:
        raise ValueError(f"{images.name} has no anomalous image with a mask; choose another dataset")
    if mosaic:
        mosaics = mosaics_of(images, encoder.image_size, cache_dir)  # for all seeds the same
        others = auxiliary_of(mosaics, extractor, cache_dir)
        labels = np.append(material.labels, others.labels)
        owners = np.append(material.owners, others.owners)
        material = replace(material, parts=material.parts + others.parts, labels=labels, owners=owners)
    texts = torch.stack([vand_texts(encoder, name, cache_dir) for name in material.names])  # (c, 2, d)

    def loss_of(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
        batch = material.batch(rows[0].numpy(), layers, "image", "layer")
        tokens = {layer: values.to(encoder.device) for layer, values in batch.patches.items()}
        own, masks = texts[batch.names].to(encoder.device), batch.masks.to(encoder.device)
        return vand_loss(patch_logits(parameters, tokens, own, scale, encoder.grid), masks)

    def some_mosaics(places: Tensor, generator: torch.Generator) -> Tensor:
        return places + n * (torch.rand(n, generator=generator) < mosaic)  # image i has mosaic n + i

    recipe = {"epochs": epochs, "batch_size": BATCH_SIZE, "seed": seed, "lr": LR, "mosaic": mosaic}
    parameters = initial_adapters(encoder.width, encoder.dim, layers, torch.Generator().manual_seed(seed))
    seen = torch.from_numpy(image_hashes(images))
    drawn = Adapters(parameters, recipe | {"scale": scale}, encoder.model_id, encoder.weights_id, seen)
    options = {"change": some_mosaics if mosaic else None, "checkpoint": checkpoint}
    adam = {"lr": LR, "betas": BETAS}
    return drawn.trained(encoder, torch.optim.Adam, adam, loss_of, images, **options)


def patch_logits(
    parameters: Mapping[str, Tensor],
    tokens: Mapping[int, Tensor],
    texts: Tensor,
    scale: float,
    grid: tuple[int, int],
) -> list[Tensor]:
    """(n, rows, columns) of each layer: anomalous minus normal logits of tokens {block: (n, p, width)}.
    texts: (2, d) for all images, or (n, 2, d)."""
    direction = scale * (texts[..., 1, :] - texts[..., 0, :])[..., None]  # (d, 1) or (n, d, 1)
    logits = []
    for layer, x in tokens.items():
        adapted = F.linear(x, parameters[f"weight/{layer}"], parameters[f"bias/{layer}"])  # (n, p, d)
        logits.append((F.normalize(adapted, dim=-1) @ direction)[..., 0].unflatten(1, grid))
    return logits


def vand_loss(logits: Sequence[Tensor], masks: Tensor) -> Tensor:
    """The sum over layers of focal loss and of dice loss of the anomalous channel, not of the normal one."""
    return sum(local_loss(x, masks, ("focal", "dice_anomalous"), logits=True) for x in logits)


def vand_maps(logits: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """(n, H, W) in [0, 1]: the mean over layers of the anomalous probability, at `size` (H, W), unsmoothed.
    The original adds the layers up, which ranks pixels alike."""
    maps = [F.interpolate(x[:, None], size, mode="bilinear", align_corners=True)[:, 0] for x in logits]
    return sum(x.sigmoid() for x in maps) / len(maps)


def vand_detector(encoder: ClipEncoder, adapters: Adapters, category: str, cache_dir: str | Path) -> Detector:
    """VAND on features of `vand_extractor`: scores (t,), maps (t, H, W) at the encoder's image size.
    Raises ValueError when the adapters were learned with another encoder."""
    adapters.check(encoder)
    texts, scale = vand_texts(encoder, category, cache_dir), adapters.recipe["scale"]

    def vand(features: TileFeatures) -> Output:
        tokens = {layer: features.tensor(f"layer/{layer}") for layer in vand_extractor(encoder).key["layers"]}
        logits = patch_logits(adapters.parameters, tokens, texts, scale, encoder.grid)
        scores = prompt_score(features.tensor("image"), *texts, 1 / scale)
        return Output(scores, vand_maps(logits, encoder.image_size))

    return detector(vand)


def mosaics_of(dataset: AnomalyDataset, size: tuple[int, int], folder: str | Path) -> AnomalyDataset:
    """One mosaic for each image of the dataset, category by category, at `size` (H, W) in pixels:
    four different ones of its category (of fewer than four some repeat), each scaled to a quarter. Kept below
    `folder` under a key of all that it depends on."""
    key = content_key(images=dataset.fingerprint, size=list(size), seed=SEED)
    root = Path(folder) / "mosaics" / f"{dataset.root.name}-{key}"
    if not (root / "meta.csv").is_file():  # written last
        rows = []
        for number, category in enumerate(dataset.categories):
            part = dataset.select(category=category)
            for i in range(len(part)):
                generator = np.random.default_rng([SEED, number, i])  # its own: a rerun may begin anywhere
                picture, mask = _mosaic(part, generator.choice(len(part), 4, replace=len(part) < 4), size)
                defect = "mosaic" if mask.any() else "good"
                image = f"{category}/test/{defect}/{i:05d}.png"
                mask_file = f"{category}/ground_truth/{defect}/{i:05d}_mask.png" if mask.any() else ""
                write_atomically(root / image, picture.save)
                if mask_file:
                    write_atomically(root / mask_file, Image.fromarray(mask.astype(np.uint8) * 255).save)
                rows.append((category, "test", int(mask.any()), defect, image, mask_file))
        meta = pd.DataFrame(rows, columns=list(COLUMNS))
        write_atomically(root / "meta.csv", lambda path: meta.to_csv(path, index=False, lineterminator="\n"))
    return load_dataset(root)


def _mosaic(part: AnomalyDataset, four: np.ndarray, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    (height, width), (middle, centre) = size, (size[0] // 2, size[1] // 2)
    picture, mask = Image.new("RGB", (width, height)), np.zeros(size, bool)
    sides = product(((0, middle), (middle, height)), ((0, centre), (centre, width)))
    for i, ((top, bottom), (left, right)) in zip(four, sides, strict=True):
        quarter = (bottom - top, right - left)
        picture.paste(part.image(i).resize(quarter[::-1], Image.Resampling.BICUBIC), (left, top))
        mask[top:bottom, left:right] = stretched_mask(part.mask(i), quarter)
    return picture, mask
