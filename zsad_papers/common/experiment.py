"""A category of a dataset under a method: features, draws of references, and measurements that are kept."""

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from zsad_core import methods
from zsad_core.auxiliary import stretched_masks
from zsad_core.cache import cached_arrays, content_key
from zsad_core.datasets import AnomalyDataset
from zsad_core.devices import fast_products
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import (
    PART,
    Extractor,
    FeaturePart,
    TileFeatures,
    clip_extractor,
    compute_features,
    image_embeddings,
)
from zsad_core.images import Whole
from zsad_core.methods import Detector, Texts
from zsad_core.metrics import anomalous_weights, ranked_metrics
from zsad_core.pixel_metrics import PixelHistogram, image_maps, scaled_size
from zsad_core.prompts import PromptKind, object_name, zero_shot_prompts
from zsad_core.references import sample_references
from zsad_papers.common.data import dataset_of
from zsad_papers.common.settings import Settings


def measure(
    parts: Sequence[FeaturePart],
    detect: Detector,
    *,
    map_size: int | tuple[int, int] | None = None,
    sigma: float = 0.0,
    each: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Run a detector over a category's test images, one part at a time.

    Arrays by name: `<output>/scores` (n,), the mean over an image's tiles; `<output>/pixel` (4,): the
    `PixelMetrics` of all pixels as fractions; `<output>/each` (n, 3), for outputs in `each`: of each image by
    itself the pixel AUROC and F1-max (NaN where its mask is empty) and the map's maximum.

    map_size: shorter edge in pixels at which maps meet masks; None: the masks' own size (WinCLIP does not say
        what it used); (height, width): maps and masks are stretched to it (AnomalyCLIP).
    sigma: of a Gaussian filter over the maps, in pixels at that size; 0: none.
    An anomalous image without a mask file is an error; an empty mask means normal pixels, with a warning."""
    scores, within = defaultdict(list), {name: [] for name in each}
    histograms = defaultdict(PixelHistogram)
    for part in parts:
        features, masks = part.load(), None
        with fast_products(torch.device("cpu")):  # where features are
            outputs = detect(features)
        for name, output in outputs.items():
            if output.scores is not None:
                scores[name].append(features.mean_of_tiles(output.scores))
            if output.maps is None:
                continue
            masks = masks or _seen(part, features, map_size)
            maps = image_maps(features, output.maps, map_size, sigma)
            for (mask, weights, place), anomaly_map in zip(masks, maps, strict=True):
                anomaly_map = anomaly_map[place]
                histograms[name].add(mask, anomaly_map, weights)
                if name in within:
                    within[name].append(_of_image(mask, anomaly_map))
    arrays = {f"{name}/scores": np.concatenate(values) for name, values in scores.items()}
    arrays |= {f"{name}/pixel": np.array(histogram.metrics()) for name, histogram in histograms.items()}
    return arrays | {f"{name}/each": np.array(values) for name, values in within.items()}


def _of_image(mask: np.ndarray, anomaly_map: np.ndarray) -> tuple[float, float, float]:
    labels, scores = mask.ravel(), anomaly_map.ravel()
    found = ranked_metrics(labels, scores) if mask.any() and not mask.all() else {}
    return *(found.get(name, np.nan) for name in ("auroc", "f1max")), float(scores.max())


def _seen(part: FeaturePart, features: TileFeatures, map_size: int | tuple[int, int] | None) -> list[tuple]:
    """Of what tiles cover (not the ends, in a centre crop): mask, `anomalous_weights`, place in the image."""
    masks, places = _masks(part, map_size), [...] * len(part.dataset)
    if part.whole == "center_crop":
        covered = image_maps(features, torch.ones(len(features.owner), 1, 1), map_size)
        inside = [np.isfinite(scores) for scores in covered]
        places = [np.ix_(own.any(1), own.any(0)) for own in inside]
    cut = [(mask[place], place) for mask, place in zip(masks, places, strict=True)]
    return [(mask, anomalous_weights(mask) if mask.any() else None, place) for mask, place in cut]


def _masks(part: FeaturePart, map_size: int | tuple[int, int] | None) -> list[np.ndarray]:
    """(h, w) bool masks of a part's images."""
    dataset = part.dataset
    lacking = dataset.meta[(dataset.meta["label"] == 1) & (dataset.meta["mask"] == "")]
    if len(lacking):
        raise ValueError(
            f"{dataset.name}, category {lacking['category'].iloc[0]!r}: {lacking['image'].iloc[0]} is "
            "anomalous and has no mask, so pixel metrics are undefined; measure image scores, or add masks"
        )
    if isinstance(map_size, tuple):  # of one size, so that they can be kept: each variant reads them
        return list(stretched_masks(dataset, map_size, part.folder.with_name("masks")))
    masks = []
    for i in range(len(dataset)):
        mask = dataset.mask(i)
        size = scaled_size(*mask.shape, map_size)
        if size != mask.shape:
            grey = torch.from_numpy(mask)[None, None].float()
            mask = F.interpolate(grey, size, mode="nearest-exact")[0, 0].numpy() > 0.5
        if dataset.labels[i] and not mask.any():
            warnings.warn(
                f"the mask of the anomalous {dataset.meta['image'].iloc[i]} is empty at {size}: its pixels "
                "count as normal",
                stacklevel=3,
            )
        masks.append(mask)
    return masks


PIXEL_METRICS = ("auroc", "pro", "f1max", "pro200")
RESAMPLES = 200


@cache
def resamples(category: str, labels: tuple[int, ...]) -> np.ndarray:
    """(RESAMPLES, n): how often each image is drawn, with replacement, among those of its label. Always the
    same for one category, so that the differences of methods are paired."""
    random, counts = np.random.default_rng([*category.encode()]), np.zeros((RESAMPLES, len(labels)))
    for own in (np.flatnonzero(np.array(labels) == label) for label in (0, 1)):
        counts[:, own] = random.multinomial(len(own), np.full(len(own), 1 / len(own)), RESAMPLES)
    return counts


def image_metrics(labels: np.ndarray, scores: np.ndarray, category: str) -> dict:
    """`ranked_metrics`, and as `draws` a function that gives them for all `resamples`: few records become
    rows. category: with its dataset."""
    draws = cache(lambda: ranked_metrics(labels, scores, resamples(category, tuple(labels.tolist()))))
    return ranked_metrics(labels, scores) | ({"draws": draws} if len({*labels}) == 2 else {})


def hidden_layers(depth: int) -> tuple[int, int]:
    """The blocks used instead of a ResNet's second and third stage: the 6th and 9th of 12 (supplement B)."""
    return depth // 2, depth * 3 // 4


@dataclass(frozen=True)
class Category:
    """One category of a dataset, the encoder, and what all experiments on it share."""

    settings: Settings
    encoder: ClipEncoder
    dataset: AnomalyDataset
    name: str
    whole: Whole = "tiles"
    normalize_sentences: bool = True
    learned: Texts | None = None  # embeddings of learned prompts instead of all sentences
    kept: dict[tuple, np.ndarray] = field(default_factory=dict)  # of `views`; shared

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
        """The profile's, or the one of the model's training, which is 0.01 for CLIP's weights."""
        return self.settings.temperature or self.encoder.temperature

    @cached_property
    def clip(self) -> Extractor:
        depth = self.encoder.depth  # 0 for a ResNet, which has no patch tokens
        layers = (*hidden_layers(depth), depth) if depth else ()
        return clip_extractor(self.encoder, self.settings.scales, layers)

    def texts(self, kind: str = "prompt_ens", **options) -> Texts:
        if self.learned is not None:
            return self.learned
        options = {"normalize_sentences": self.normalize_sentences, **options}
        return methods.category_texts(self.encoder, self.name, self.settings.cache_dir, kind, **options)

    def sentences_key(self, kinds: Sequence[PromptKind] = ("prompt_ens",)) -> str:
        """A key of the sentences of these kinds, so that edited sentences are measured again."""
        if self.learned is not None:
            return content_key(learned=[side.tolist() for side in self.learned])
        return content_key(**{kind: zero_shot_prompts(object_name(self.name), kind) for kind in kinds})

    def defects(self) -> list[str]:
        """The kinds of defects that the dataset names for this category."""
        return sorted(set(self.test.meta["defect"]) - {"good"})

    def views(self, whole: Whole = "tiles") -> np.ndarray:
        """(n, v, d) views of the test images."""
        if (key := (self.encoder, self.test, whole)) not in self.kept:
            images, options = self.viewed(whole)
            found = image_embeddings(self.encoder, images, self.settings.cache_dir, **options)
            self.kept[key] = found.select(split="test").views
        return self.kept[key]

    def seen(self, whole: Whole) -> Self:
        """This category with images that are not square seen in another way; itself, if all are square."""
        return self if self.dataset.select(category=self.name).square else replace(self, whole=whole)

    def viewed(self, whole: Whole) -> tuple[AnomalyDataset, dict]:
        """The images that `views` embeds, and the options of `images.inference_views`. Square or squashed
        ones are those of RWDA: embedded for the whole category, once for both papers."""
        if whole == "squash" or self.test.square:
            return self.dataset.select(category=self.name), {}
        return self.test, {"whole": whole}

    def draws(self, shots: Sequence[int]) -> dict[tuple[int, int], np.ndarray]:
        """{(shots, seed): images}, fewer shots the first of more, as RWDA's. ValueError: too few images."""
        there, needed = len(self.train), max([1, *shots])
        if there < needed:
            raise ValueError(
                f"{self.dataset.name}, category {self.name!r}: {there} normal training images, expected at "
                f"least {needed} to draw references from. List more in meta.csv with split train, use fewer "
                "shots, or leave the experiments with references out"
            )
        first = 1000 * self.dataset.categories.index(self.name)
        seeds = range(self.settings.seed, self.settings.seed + self.settings.reference_seeds)
        return {(k, s): sample_references(there, k, first + s) for k in shots for s in seeds}

    def references(self, draws: Mapping, extractor: Extractor) -> tuple[list[TileFeatures], dict]:
        """Features of the images of all draws, and the draws as indices into these."""
        needed = np.unique(np.concatenate(list(draws.values())))
        parts = self.computed(extractor, self.train.where(np.isin(np.arange(len(self.train)), needed)))
        return [part.load() for part in parts], {k: np.searchsorted(needed, v) for k, v in draws.items()}

    def computed(self, extractor: Extractor, images: AnomalyDataset) -> list[FeaturePart]:
        """The features of images of this category, computed where the cache does not hold them."""
        return compute_features(extractor, images, self.settings.cache_dir, whole=self.whole)

    def features(self, extractor: Extractor, image: int) -> TileFeatures:
        number, place = divmod(image, PART)
        return self.computed(extractor, self.test)[number].load().only(place)

    def measured(
        self,
        name: str,
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
        """`experiment.measure` of the test images, cached. map_size: None takes the profile's. kinds: of the
        sentences that the detector compares with, if any. options: what else the result depends on."""
        extractor, settings = extractor or self.clip, self.settings
        how = {"map_size": map_size or settings.map_size, "each": list(each)}
        how |= {"sigma": sigma} if sigma else {}
        key = extractor.key | how | options | {"study": name, "pixels": "two PRO", "whole": self.whole}
        own = {"images": self.test.fingerprint, "temperature": self.temperature}
        key |= {**own, "normalize_sentences": self.normalize_sentences}
        if kinds:
            key["sentences"] = self.sentences_key(kinds)
        if shots:
            place = self.dataset.categories.index(self.name)  # what `draws` depends on too
            seeds = [settings.seed, settings.reference_seeds, place]
            key |= {"references": self.train.fingerprint, "shots": list(shots), "seeds": seeds}

        def run() -> dict[str, np.ndarray]:
            return measure(self.computed(extractor, self.test), make_detector(), **how)

        file = f"{self.dataset.root.name}-{self.name}-{name}"
        return cached_arrays(Path(settings.cache_dir) / "scores", file, key, run)

    def record(self, values: np.ndarray, task: str, method: str, variant: str = "", **where: int) -> dict:
        """values: scores (n,) of the test images, or for the task "pixel" an array of `measure`."""
        names = {"category": self.name, "method": method, "variant": variant, "shots": 0, "seed": 0, **where}
        if task == "image":
            found = image_metrics(self.test.labels, values, f"{self.dataset.name} {self.name}")
        else:
            found = dict(zip(PIXEL_METRICS, values, strict=True))
        return {**names, "task": task, **found}


ARRANGEMENT = ("missing", "bent", "misplaced", "flip", "swap")  # in names of defects, not of the surface


def by_defect(
    category: Category, scores: np.ndarray, method: str, score: str = "", **where: int
) -> list[dict]:
    """Records of normal images and some kinds of defect only: flipped parts (claim 30); those of arrangement,
    and the others of the same category (claim 39). score: ends the variant's name."""
    kinds, defective = category.test.meta["defect"], category.test.labels == 1
    arranged, records = kinds.str.contains("|".join(ARRANGEMENT)).to_numpy(), []
    parts = {"flip": kinds.to_numpy() == "flip", "arrangement": arranged, "other": defective & ~arranged}
    for name, own in parts.items():
        if own.any() and (arranged.any() or name != "other"):
            shown = own | ~defective
            part = replace(category, dataset=category.test.where(shown))
            records.append(part.record(scores[shown], "image", method, f"defect={name}{score}", **where))
    return records


def categories(settings: Settings, encoder: ClipEncoder, dataset: str) -> list[Category]:
    """The categories of a dataset's stand-in; none without it (`dataset_of` warns of an unprepared one)."""
    images = dataset_of(settings, dataset)
    return [] if images is None else [Category(settings, encoder, images, n) for n in images.categories]


def run_experiment(
    settings: Settings, encoder: ClipEncoder, dataset: str, run: Callable[..., list[dict]], *options
) -> pd.DataFrame:
    """The records that `run(category, *options)` gives of all categories of a dataset's stand-in."""
    bar = f"{run.__name__.replace('_', ' ')}, {dataset}"
    parts = tqdm(categories(settings, encoder, dataset), desc=bar, leave=False)
    return as_frame([record for category in parts for record in run(category, *options)])


def as_frame(records: Sequence[dict]) -> pd.DataFrame:
    """Records as a frame, with all columns even if there is no record."""
    names = ["category", "method", "variant", "shots", "seed", "task"]
    return pd.DataFrame(records, columns=None if records else names)
