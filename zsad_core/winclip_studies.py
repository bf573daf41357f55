"""WinCLIP's experiments: what is measured on each category, cached, as one long table.

Every study is a function from a `Category` to records with the entries category, method, variant, shots,
seed, task (image or pixel) and the metrics as fractions; `winclip_tables` makes the papers' rows of them.
Measurements are cached category by category under everything that they depend on, so a killed run goes on,
and notebooks only read. Studies with reference images are in `winclip_few_shot`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from zsad_core import winclip
from zsad_core.cache import cached_arrays, content_key
from zsad_core.datasets import AnomalyDataset
from zsad_core.dense import Dense, DensePart, Extractor, clip_extractor, compute_parts, dense_parts
from zsad_core.embeddings import dataset_of, image_embeddings
from zsad_core.encoders import ClipEncoder
from zsad_core.loading import Preprocess
from zsad_core.metrics import aupr, auroc, f1_max
from zsad_core.prompts import PromptKind
from zsad_core.references import sample_references
from zsad_core.relevance import maskclip_tokens, trans_mm
from zsad_core.scores import prompt_score
from zsad_core.settings import Settings
from zsad_core.tiling import tiling_extractor, tiling_map
from zsad_core.views import Whole
from zsad_core.winclip import Detector, Output, Texts, image_scores

IMAGE_METRICS: dict[str, Callable] = {"auroc": auroc, "aupr": aupr, "f1max": f1_max}
PIXEL_METRICS = ("auroc", "pro", "f1max")
SCORES = ("max_map", "ascore0", "ascore0+max_map")  # Table 5


def hidden_layers(depth: int) -> tuple[int, int]:
    """The blocks that stand for a ResNet's second and third stage: the 6th and 9th of 12 (supplement B)."""
    return depth // 2, depth * 3 // 4


@dataclass(frozen=True)
class Category:
    """One category of a dataset, the encoder, and what the studies of it share."""

    settings: Settings
    encoder: ClipEncoder
    dataset: AnomalyDataset
    name: str
    whole: Whole = "tiles"
    normalize_sentences: bool = True

    @cached_property
    def test(self) -> AnomalyDataset:
        return self.dataset.select(category=self.name, split="test")

    @cached_property
    def train(self) -> AnomalyDataset:
        """The normal images that references are drawn from; none in a dataset without a training split."""
        rows = (self.dataset.meta["category"] == self.name) & (self.dataset.meta["split"] == "train")
        return self.dataset.where(rows.to_numpy())

    @property
    def temperature(self) -> float:
        """The profile's, or the one that the model was trained with, which for CLIP's weights is 0.01."""
        return self.settings.temperature or self.encoder.temperature

    @property
    def depth(self) -> int:
        """Number of the last block; 0 for a ResNet, which has no patch tokens."""
        return 0 if self.encoder.is_resnet else len(self.encoder.model.visual.transformer.resblocks)

    @cached_property
    def clip(self) -> Extractor:
        layers = (*hidden_layers(self.depth), self.depth) if self.depth else ()
        return clip_extractor(self.encoder, self.settings.scales, layers)

    def texts(self, kind: str = "prompt_ens", **options) -> Texts:
        options = {"normalize_sentences": self.normalize_sentences, **options}
        return winclip.category_texts(self.encoder, self.name, self.settings.cache_dir, kind, **options)

    def sentences_key(self, kinds: Sequence[PromptKind] = ("prompt_ens",)) -> str:
        """A key of the sentences of these kinds: what depends on edited ones is measured again."""
        return content_key(**{kind: winclip.category_sentences(self.name, kind) for kind in kinds})

    def defects(self) -> list[str]:
        """The kinds of defects that the dataset names for this category."""
        return sorted(set(self.test.meta["defect"]) - {"good"})

    def views(self, whole: Whole = "tiles") -> np.ndarray:
        """(n, v, d) views of the test images. Squares have one tile, so theirs are RWDA's views, as are
        squashed ones: those of the whole category, which are then embedded and kept once for both papers."""
        images, options = self.viewed(whole)
        found = image_embeddings(self.encoder, images, self.settings.cache_dir, progress=False, **options)
        return found.select(split="test").vectors

    def viewed(self, whole: Whole) -> tuple[AnomalyDataset, dict]:
        """The images that `views` embeds, and how: options of `views.test_views`."""
        sizes = (self.test.size(i) for i in range(len(self.test)))
        if whole == "squash" or all(width == height for width, height in sizes):
            return self.dataset.select(category=self.name), {}
        return self.test, {"whole": whole}

    def draws(self, shots: Sequence[int]) -> dict[tuple[int, int], np.ndarray]:
        """{(shots, seed): images}: without replacement, fewer shots the first of more, the same as RWDA's.

        Raises ValueError for a category with fewer normal training images than shots."""
        if len(self.train) < max([1, *shots]):
            raise ValueError(
                f"{self.dataset.name}, category {self.name!r}: {len(self.train)} normal training images, "
                f"expected at least {max([1, *shots])} to draw references from. List more in meta.csv with "
                "split train, ask for fewer shots, or leave the studies with references out"
            )
        first = 1000 * self.dataset.categories.index(self.name)
        seeds = range(self.settings.seed, self.settings.seed + self.settings.reference_seeds)
        return {(k, s): sample_references(len(self.train), k, first + s) for k in shots for s in seeds}

    def references(self, draws: Mapping, extractor: Extractor) -> tuple[list[Dense], dict]:
        """Features of the images that any draw needs, and the draws as numbers into these."""
        needed = np.unique(np.concatenate(list(draws.values())))
        chosen = self.train.where(np.isin(np.arange(len(self.train)), needed))
        parts = self.computed(extractor, chosen)
        return [part.load() for part in parts], {k: np.searchsorted(needed, v) for k, v in draws.items()}

    def computed(self, extractor: Extractor, images: AnomalyDataset) -> list[DensePart]:
        """The features of images of this category, which are computed now if nobody has yet."""
        options = {"whole": self.whole}
        compute_parts(extractor, images, self.settings.cache_dir, **options)
        return dense_parts(extractor, images, self.settings.cache_dir, **options)

    def measured(
        self,
        study: str,
        make_detector: Callable[[], Detector],
        extractor: Extractor | None = None,
        *,
        each: Sequence[str] = (),
        shots: Sequence[int] = (),
        map_size: tuple[int, int] | None = None,
        sigma: float = 0.0,
        kinds: Sequence[PromptKind] = ("prompt_ens",),
        **options,
    ) -> dict[str, np.ndarray]:
        """`winclip.measure` of the test images, cached; `study`, `shots` and `options` tell what is done.

        map_size: None takes the profile's. kinds: of the sentences that the detector compares with; () when
            it uses no language.
        """
        extractor, settings = extractor or self.clip, self.settings
        map_size = map_size or settings.map_size
        options |= {"temperature": self.temperature, "whole": self.whole}
        options |= {"map_size": list(map_size) if isinstance(map_size, tuple) else map_size}
        options |= {"sigma": sigma} if sigma else {}
        options |= {"normalize_sentences": self.normalize_sentences}
        key = {
            **extractor.key,
            "images": self.test.fingerprint,
            "study": study,
            "each": list(each),
            **options,
        }
        if kinds:
            key["sentences"] = self.sentences_key(kinds)
        if shots:
            place = self.dataset.categories.index(self.name)  # what `draws` depends on too
            seeds = [settings.seed, settings.reference_seeds, place]
            key |= {"references": self.train.fingerprint, "shots": list(shots), "seeds": seeds}

        def run() -> dict[str, np.ndarray]:
            parts = self.computed(extractor, self.test)
            return winclip.measure(parts, make_detector(), map_size=map_size, sigma=sigma, each=each)

        file = f"{self.dataset.root.name}-{self.name}-{study}"
        return cached_arrays(Path(settings.cache_dir) / "scores", file, key, run)

    def record(self, values: np.ndarray, task: str, method: str, variant: str = "", **where: int) -> dict:
        """One record. values: scores (n,) of the test images for the task "image", else those of a `pixel`
        array of `winclip.measure`. where: shots, seed."""
        names = {"category": self.name, "method": method, "variant": variant, "shots": 0, "seed": 0, **where}
        if task == "image":
            found = {name: metric(self.test.labels, values) for name, metric in IMAGE_METRICS.items()}
        else:
            found = dict(zip((*PIXEL_METRICS, "error"), [*values[:3], values[3:].max()], strict=True))
        return {**names, "task": task, **found}


def flipped(c: Category, scores: np.ndarray, method: str, **where: int) -> list[dict]:
    """The record of claim 30: normal and flipped images only, of a category whose defects include `flip`."""
    if "flip" not in c.defects():
        return []
    own = c.test.meta["defect"].isin(["good", "flip"]).to_numpy()
    part = replace(c, dataset=c.test.where(own))
    return [part.record(scores[own], "image", method, "defect=flip", **where)]


def language(c: Category) -> list[dict]:
    """Zero-shot image scores: Tables 1, 3 and 7, and what the prompts' options change."""
    views, whole = c.views(), c.views()[:, :1]
    if views.shape[1] % 6 == 0 and views.shape[1] > 6:  # tiles: the whole-tile view of each
        whole = views[:, ::6]
    texts = c.texts()
    score = lambda v, t, temperature=c.temperature: image_scores(v, t, temperature)  # noqa: E731
    found = {
        ("clip_ac", ""): score(whole, c.texts("two_class")),
        ("clip_ac_prompt_ens", ""): score(whole, c.texts("imagenet")),
        ("winclip", "one_class"): winclip.one_class_scores(whole, c.texts("two_class")[0]),
        ("winclip", "two_class"): score(whole, c.texts("two_class")),
        ("winclip", "state_ens"): score(whole, c.texts("state_ens")),
        ("winclip", "prompt_ens"): score(whole, texts),
        ("winclip", "multi_crop"): score(views, texts),
        ("winclip", ""): score(views, texts),
        ("winclip", "specific_states"): score(views, c.texts("specific_states", defects=c.defects())),
        ("winclip", "whole=center_crop"): score(c.views("center_crop"), texts),
        ("winclip", "whole=squash"): score(c.views("squash"), texts),
        ("winclip", "normalize_sentences=0"): score(views, c.texts(normalize_sentences=False)),
        ("winclip", "temperature=0.07"): score(views, texts, 0.07),
        ("winclip", "temperature=0.01"): score(views, texts, 0.01),
    }
    records = [c.record(scores, "image", method, variant) for (method, variant), scores in found.items()]
    return records + flipped(c, found["winclip", ""], "winclip")


def zero_shot(c: Category) -> list[dict]:
    """Zero-shot maps of windows and patch tokens: Tables 4 and 8."""

    def make() -> Detector:
        texts, last = c.texts(), f"layer/{c.depth}"

        def detect(dense: Dense) -> dict[str, Output]:
            found = winclip.zero_shot_outputs(dense, texts, c.encoder.grid, temperature=c.temperature)
            if c.depth:
                tokens = winclip.patch_token_map(c.encoder, dense.tensor(last), texts, c.temperature)
                found["patch_token"] = Output(maps=tokens)
            return found

        return detect

    found = c.measured("zero-shot", make, each=("",))
    pixel = {k.removesuffix("/pixel"): v for k, v in found.items() if k.endswith("/pixel")}
    return [c.record(values, "pixel", "winclip", variant) for variant, values in pixel.items()]


def within_images(c: Category) -> pd.DataFrame:
    """Of each test image: label, area (the defect's share of the image), and of WinCLIP's zero-shot map in
    this image alone the pixel AUROC and F1-max (NaN where nothing is anomalous) and the maximum (claim 40,
    Figure 11). The index counts test images."""
    zero_shot(c)
    found = c.measured("zero-shot", lambda: None, each=("",))["/each"]  # measured just now
    areas = [c.test.mask(i).mean() if label else 0.0 for i, label in enumerate(c.test.labels)]
    names = ("auroc", "f1max", "maximum")
    return pd.DataFrame({"label": c.test.labels, "area": areas, **dict(zip(names, found.T, strict=True))})


def generic_extractor(c: Category) -> Extractor:
    """`maskclip`, `maskclip_full` (t, patches, d), `trans_mm_logit`, `trans_mm_difference` (t, rows,
    columns), of which the last two depend on the category's texts."""
    texts = c.texts()
    sides = torch.stack(
        [torch.nn.functional.normalize(torch.from_numpy(side), dim=-1).mean(0) for side in texts]
    )
    model = c.encoder.model
    key = {**{k: c.clip.key[k] for k in ("model", "weights", "precision")}, "generic": 1, "category": c.name}
    key |= {"sentences": c.sentences_key(), "normalize_sentences": c.normalize_sentences}  # Trans-MM's target

    def features(pixels: Tensor) -> dict[str, Tensor]:
        values = {
            "maskclip": maskclip_tokens(model.visual, pixels),
            "maskclip_full": maskclip_tokens(model.visual, pixels, residual_and_mlp=True),
        }
        for target in ("logit", "difference"):
            values[f"trans_mm_{target}"] = trans_mm(model, pixels, sides, target=target)
        return values

    return Extractor(key, c.encoder.image_size, Preprocess.of(c.encoder).preprocess, features)


def generic(c: Category) -> list[dict]:
    """Maps by MaskCLIP and Trans-MM: Table 4."""
    texts, grid = c.texts(), c.encoder.grid

    def detect(dense: Dense) -> dict[str, Output]:
        token = lambda name: Output(maps=winclip.token_map(dense.tensor(name), grid, texts, c.temperature))  # noqa: E731
        return {
            "maskclip|": token("maskclip"),
            "maskclip|residual_and_mlp=1": token("maskclip_full"),
            "trans_mm|": Output(maps=dense.tensor("trans_mm_logit")),
            "trans_mm|target=difference": Output(maps=dense.tensor("trans_mm_difference")),
        }

    found = c.measured("generic", lambda: detect, generic_extractor(c))
    return [c.record(v, "pixel", *k.removesuffix("/pixel").split("|")) for k, v in found.items()]


def tiling(c: Category) -> list[dict]:
    """Maps by image tiling: Table 8."""
    texts, sizes = c.texts(), c.settings.scales

    def detect(dense: Dense) -> dict[str, Output]:
        score = lambda name: prompt_score(dense.tensor(name), *map(torch.from_numpy, texts), c.temperature)  # noqa: E731
        scores = {size: score(f"tiles/{size}") for size in sizes}
        return {"image_tiling": Output(maps=tiling_map(scores, score("image"), c.encoder.grid))}

    found = c.measured("tiling", lambda: detect, tiling_extractor(c.encoder, sizes))
    return [c.record(found["image_tiling/pixel"], "pixel", "winclip", "image_tiling")]


def categories(settings: Settings, encoder: ClipEncoder, role: str) -> list[Category]:
    """The categories of the dataset in a role; none without it (`dataset_of` warns of an unprepared one)."""
    dataset = dataset_of(settings, role)
    return [] if dataset is None else [Category(settings, encoder, dataset, n) for n in dataset.categories]


def study(
    settings: Settings, encoder: ClipEncoder, role: str, run: Callable[..., list[dict]], *options
) -> pd.DataFrame:
    """The records of one study of all categories of the dataset in a role, as a frame; empty without it."""
    records = []
    bar = f"{run.__name__.replace('_', ' ')}, {role}"
    for category in tqdm(categories(settings, encoder, role), desc=bar, leave=False):
        records += run(category, *options)
    names = ["category", "method", "variant", "shots", "seed", "task"]  # tables of no records are empty
    return pd.DataFrame(records, columns=None if records else names)
