"""VAND, also called APRIL-GAN (Chen, Han and Zhang 2023): AnomalyCLIP's strongest baseline, zero-shot.

    z_l = unit(W_l h_l + b_l)                              patch tokens h_l of four blocks, adapted
    p_l = softmax(up(s z_l . t_normal), up(s z_l . t_anomalous))[anomalous]

Only W_l and b_l are learned, from masks of an auxiliary dataset; the texts are a frozen hand-written ensemble
for each category. Logits are upsampled before the softmax, so maps are made at the size of the input. The
image score takes nothing that was learned.

Images go through the frozen tower once, as for prompt learning (`zsad_core.auxiliary`), and so do the mosaics
that replace some when it is trained on MVTec. All is float32; the original computes with mixed precision.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
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
from zsad_core.image_features import Dense, Extractor, clip_extractor, text_embeddings
from zsad_core.losses import logit_loss
from zsad_core.methods import Detector, Output
from zsad_core.prompts import compositional_ensemble, object_name
from zsad_core.scores import prompt_score
from zsad_core.training import check_encoder, read_tensors, refuse_training_images, run_epochs, write_tensors

_FAULTS = ("flaw", "defect", "damage")
STATES = (
    ("{}", "flawless {}", "perfect {}", "unblemished {}", *(f"{{}} without {fault}" for fault in _FAULTS)),
    ("damaged {}", "broken {}", *(f"{{}} with {fault}" for fault in _FAULTS)),
)
"""Normal and anomalous phrases: 7 and 5."""

_LOOKS = (
    "bad ",
    "low resolution ",
    "cropped ",
    "bright ",
    "dark ",
    "close-up ",
    "black and white ",
    "jpeg corrupted ",
    "blurry ",
    "good ",
    "",
)
TEMPLATES = (
    *(f"a {look}photo of {article} {{}}." for look in _LOOKS for article in ("a", "the")),
    *(
        f"a photo of {article} {kind} {{}}."
        for kind in ("cool", "large", "small")
        for article in ("a", "the")
    ),
    *(f"a photo of {article} {{}}." for article in ("my", "one")),
    *(f"there is {article} {{}} in the scene." for article in ("a", "the")),
    *(f"this is {article} {{}} in the scene." for article in ("a", "the", "one")),
)
"""35 sentences, 30 of them out of those that CLIP's authors wrote for ImageNet."""


@dataclass(frozen=True)
class Adapters:
    """One linear layer for each block, and for which model.

    parameters: `weight/<block>` (d, width) and `bias/<block>` (d,). scale: of the cosines.
    trained_on: (n,) int64, `auxiliary.image_hashes` of the images that they were learned from.
    losses: the mean loss of each epoch.
    """

    parameters: dict[str, Tensor]
    scale: float
    model_id: str
    weights_id: str
    trained_on: Tensor
    losses: tuple[float, ...] = ()

    @property
    def layers(self) -> tuple[int, ...]:
        """The 1-based blocks that are read."""
        names = [name for name in self.parameters if name.startswith("weight/")]
        return tuple(sorted(int(name.removeprefix("weight/")) for name in names))

    def check(self, encoder: ClipEncoder) -> None:
        """ValueError when the encoder is not the one that they were learned with."""
        check_encoder(encoder, self.model_id, self.weights_id, "adapters")

    def refuse_training_images(self, dataset: AnomalyDataset) -> None:
        """ValueError if any image of the dataset is among those that the adapters were learned from."""
        refuse_training_images(dataset, self.trained_on, "adapters")

    def save(self, path: str | Path) -> None:
        """A safetensors file; whole or not at all."""
        about = {"model": self.model_id, "weights": self.weights_id, "scale": self.scale}
        tensors = {**self.parameters, "trained_on": self.trained_on}
        write_tensors(path, tensors, about | {"losses": self.losses})

    @classmethod
    def load(cls, path: str | Path) -> Adapters:
        """Raises FileNotFoundError, or ValueError for a file that is cut off or not made by `save`."""
        tensors, about = read_tensors(path, "adapters")
        if "scale" not in about or "trained_on" not in tensors:
            raise ValueError(f"{path} holds no adapters; expected a file that Adapters.save has written")
        seen = tensors.pop("trained_on")
        return cls(tensors, about["scale"], about["model"], about["weights"], seen, tuple(about["losses"]))


def vand_texts(encoder: ClipEncoder, category: str, cache_dir: str | Path | None = None) -> Tensor:
    """(2, d) unit text embeddings, normal first: the mean of the unit embeddings of 245 and 175 sentences.

    cache_dir: where the sentences' embeddings are kept; None: nowhere.
    """
    sides = compositional_ensemble(object_name(category), STATES, TEMPLATES)
    sentences = [*sides[0], *sides[1]]
    if cache_dir is None:
        vectors = encoder.embed_text(sentences)  # (420, d)
    else:
        vectors = torch.from_numpy(text_embeddings(encoder, sentences, cache_dir, "vand"))
    groups = F.normalize(vectors, dim=-1).split([len(side) for side in sides])
    return F.normalize(torch.stack([group.mean(0) for group in groups]), dim=-1)


def vand_extractor(encoder: ClipEncoder) -> Extractor:
    """`image` (t, d), the ordinary global feature, and raw patch tokens `layer/<block>` (t, patches, width)
    of the four quarter blocks, for `dense_parts`."""
    blocks = quarter_blocks(encoder.depth)
    return clip_extractor(encoder, (), tuple(dict.fromkeys(blocks)))  # shallow towers have fewer than four


def initial_adapters(
    width: int, dim: int, layers: tuple[int, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """`weight/<block>` (dim, width) and `bias/<block>` (dim,), uniform as in a new `nn.Linear`.

    >>> new = initial_adapters(1024, 768, (6, 12, 18, 24), torch.Generator().manual_seed(0))
    >>> sum(values.numel() for values in new.values())
    3148800
    """
    bound = width**-0.5
    draw = lambda *shape: bound * (2 * torch.rand(*shape, generator=generator) - 1)  # noqa: E731
    shapes = {f"weight/{layer}": (dim, width) for layer in layers}
    shapes |= {f"bias/{layer}": (dim,) for layer in layers}
    return {name: draw(*shape) for name, shape in shapes.items()}


def train_adapters(
    encoder: ClipEncoder,
    dataset: AnomalyDataset,
    *,
    epochs: int = 15,
    batch_size: int = 8,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.5, 0.999),
    seed: int = 111,
    scale: float | None = None,
    mosaic: float = 0.0,
    split: str | None = "test",
    cache_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Adapters:
    """Learn the linear layers on an auxiliary dataset, in the paper its test split, by focal and dice loss.

    epochs: 15 when trained on VisA, 3 when trained on MVTec. The rest of the defaults is the original's.
    scale: of the cosines; None: 1 / temperature of the encoder, 100 for most trained CLIPs.
    mosaic: probability that an image is replaced by a mosaic of 2 x 2 images of its category: 0.2 when
        trained on MVTec, 0 on VisA.
    split: None takes all images. cache_dir: where features are kept; None: in a temporary folder.
    checkpoint: a file that is written after every epoch, and from which the same training goes on.
    Equal seeds give equal layers, bit for bit, on one machine; the global random state is left as it was.

    The loss is the sum over layers of focal loss, gamma 2, and dice loss of the anomalous channel (not of the
    normal one). Raises ValueError without masks, FloatingPointError when the loss is not finite.
    """
    scale = float(1 / encoder.temperature if scale is None else scale)
    if not min(batch_size, lr, scale) > 0 or epochs < 0 or not 0 <= mosaic <= 1:
        raise ValueError(
            f"batch_size={batch_size}, lr={lr}, scale={scale}, epochs={epochs}, mosaic={mosaic}: expected "
            "numbers above 0, or 0 epochs for layers as drawn, and a probability"
        )
    extractor = vand_extractor(encoder)
    layers = tuple(extractor.key["layers"])
    chosen = dataset if split is None else dataset.select(split=split)
    with tempfile.TemporaryDirectory() as temporary:
        folder = cache_dir or temporary
        material = auxiliary_of(chosen, extractor, folder, split=None)
        if not material.has_masks:
            raise ValueError(
                f"{dataset.name} has no anomalous image with a mask, and VAND learns from nothing else; "
                "choose another auxiliary set"
            )
        n = len(material)
        if mosaic:
            mosaics = mosaics_of(chosen, encoder.image_size, folder, seed=seed)
            material = material.followed_by(auxiliary_of(mosaics, extractor, folder, split=None))
        texts = torch.stack([vand_texts(encoder, name, folder) for name in material.names])  # (c, 2, d)
        width = encoder.width
        drawn = initial_adapters(width, encoder.dim, layers, torch.Generator().manual_seed(seed))
        parameters = {name: value.to(encoder.device).requires_grad_() for name, value in drawn.items()}

        def loss_of(rows: Tensor) -> Tensor:
            batch = material.batch(rows.numpy(), layers, "image", "layer")
            tokens = {layer: values.to(encoder.device) for layer, values in batch.patches.items()}
            logits = patch_logits(parameters, tokens, texts[batch.names].to(encoder.device), scale)
            masks = batch.masks.to(encoder.device)
            parts = ("focal", "dice_anomalous")
            return sum(logit_loss(x.unflatten(1, encoder.grid), masks, parts) for x in logits.values())

        def some_mosaics(places: Tensor, generator: torch.Generator) -> Tensor:
            return places + n * (torch.rand(n, generator=generator) < mosaic)  # image i has mosaic n + i

        key = {**extractor.key, "images": chosen.fingerprint, "scale": scale, "lr": lr, "betas": list(betas)}
        key |= {"mosaic": mosaic} if mosaic else {}
        losses = run_epochs(
            parameters,
            torch.optim.Adam(parameters.values(), lr, betas),
            loss_of,
            n,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            key=content_key(**key, epochs=epochs, batch_size=batch_size, seed=seed),
            checkpoint=checkpoint,
            change=some_mosaics if mosaic else None,
            progress=progress,
            what="adapters",
        )
    learned = {name: value.detach().cpu() for name, value in parameters.items()}
    seen = torch.from_numpy(image_hashes(chosen))
    return Adapters(learned, scale, encoder.model_id, encoder.weights_id, seen, tuple(losses))


def patch_logits(
    parameters: Mapping[str, Tensor], tokens: Mapping[int, Tensor], texts: Tensor, scale: float
) -> dict[int, Tensor]:
    """{block: (n, p)}: the anomalous minus the normal logit of patch tokens {block: (n, p, width)}.

    texts: (2, d) for all images, or (n, 2, d).
    """
    direction = scale * (texts[..., 1, :] - texts[..., 0, :])[..., None]  # (d, 1) or (n, d, 1)
    logits = {}
    for layer, x in tokens.items():
        adapted = F.linear(x, parameters[f"weight/{layer}"], parameters[f"bias/{layer}"])  # (n, p, d)
        logits[layer] = (F.normalize(adapted, dim=-1) @ direction)[..., 0]
    return logits


def vand_maps(
    parameters: Mapping[str, Tensor],
    tokens: Mapping[int, Tensor],
    texts: Tensor,
    scale: float,
    grid: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """(n, H, W) in [0, 1]: the mean over layers of the anomalous probability, at `size` (H, W), unsmoothed.

    The original adds the layers up, which ranks pixels alike. Other arguments as in `patch_logits`.
    """
    logits = patch_logits(parameters, tokens, texts, scale)
    options = {"mode": "bilinear", "align_corners": True}
    maps = [F.interpolate(x.unflatten(1, grid)[:, None], size, **options)[:, 0] for x in logits.values()]
    return sum(x.sigmoid() for x in maps) / len(maps)


def vand_detector(
    encoder: ClipEncoder, adapters: Adapters, category: str, cache_dir: str | Path | None = None
) -> Detector:
    """VAND on features of `vand_extractor`: the output "" with image scores (t,) and maps (t, H, W) at the
    encoder's image size.

    The image score compares the ordinary global feature with the texts; the adapters have no part in it.
    Raises ValueError when the adapters were learned with another encoder. Whether the images trained them is
    for `Adapters.refuse_training_images`, which sees the files.
    """
    adapters.check(encoder)
    texts = vand_texts(encoder, category, cache_dir)

    def detect(dense: Dense) -> dict[str, Output]:
        tokens = {layer: dense.tensor(f"layer/{layer}") for layer in adapters.layers}
        maps = vand_maps(adapters.parameters, tokens, texts, adapters.scale, encoder.grid, encoder.image_size)
        return {"": Output(prompt_score(dense.tensor("image"), *texts, 1 / adapters.scale), maps)}

    return detect


def mosaics_of(
    dataset: AnomalyDataset, size: tuple[int, int], folder: str | Path, *, seed: int = 111
) -> AnomalyDataset:
    """One mosaic for each image of the dataset, category by category, at `size` (H, W) in pixels.

    Its four images are drawn without replacement (with, from a category of fewer than four) and scaled to a
    quarter each; the mask is made of theirs, and the mosaic is anomalous where one of them is. Kept as a
    prepared folder below `folder`, under a key of all that it depends on; written once.
    """
    key = content_key(images=dataset.fingerprint, size=list(size), seed=seed)
    root = Path(folder) / "mosaics" / f"{dataset.root.name}-{key}"
    if not (root / "meta.csv").is_file():  # written last
        rows = [
            row for category in dataset.categories for row in _category(dataset, category, size, root, seed)
        ]
        meta = pd.DataFrame(rows, columns=list(COLUMNS))
        write_atomically(root / "meta.csv", lambda path: meta.to_csv(path, index=False, lineterminator="\n"))
    return load_dataset(root)


def _category(
    dataset: AnomalyDataset, category: str, size: tuple[int, int], root: Path, seed: int
) -> list[tuple[str, str, int, str, str, str]]:
    part = dataset.select(category=category)
    number = dataset.categories.index(category)
    rows = []
    for i in range(len(part)):
        generator = np.random.default_rng([seed, number, i])  # its own: a rerun may begin anywhere
        picture, mask = _mosaic(part, generator.choice(len(part), 4, replace=len(part) < 4), size)
        defect = "mosaic" if mask.any() else "good"
        names = [
            f"{category}/test/{defect}/{i:05d}.png",
            f"{category}/ground_truth/{defect}/{i:05d}_mask.png",
        ]
        _save(picture, root / names[0])
        if mask.any():
            _save(Image.fromarray(mask.astype(np.uint8) * 255), root / names[1])
        rows.append((category, "test", int(mask.any()), defect, names[0], names[1] if mask.any() else ""))
    return rows


def _mosaic(part: AnomalyDataset, four: np.ndarray, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    height, width = size
    picture, mask = Image.new("RGB", (width, height)), np.zeros(size, bool)
    for place, i in enumerate(four):
        rows, columns = divmod(place, 2)
        top, left = rows * (height // 2), columns * (width // 2)
        bottom, right = (height if rows else height // 2), (width if columns else width // 2)
        quarter = (bottom - top, right - left)
        picture.paste(part.image(i).resize(quarter[::-1], Image.Resampling.BICUBIC), (left, top))
        mask[top:bottom, left:right] = stretched_mask(part.mask(i), quarter)
    return picture, mask


def _save(picture: Image.Image, path: Path) -> None:
    write_atomically(path, lambda temporary: picture.save(temporary))
