"""One store of features: every image is encoded once for each set of views, and the features are cached.

Each `PART` images of a category are one cache file under a key made of content, so a killed run goes on.
Features for cosines are stored as float16, which moves a cosine by about 1e-5.
"""

from __future__ import annotations

import math
import multiprocessing
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from zsad_core import prompts
from zsad_core.cache import cache_file, cached_arrays, content_key
from zsad_core.datasets import AnomalyDataset
from zsad_core.devices import fast_products
from zsad_core.encoders import ClipEncoder
from zsad_core.images import CROPS, ZOOM, Whole, boxes_of, inference_views, read_image

PART = 32  # images in a part; bounds the memory and what a killed run loses, not the result
BATCH = 8  # images that are loaded and encoded at once; six views of 240 pixels of each take 33 MB
FEW = 200  # images that are prepared before workers would have started, which takes seconds


@dataclass(frozen=True)
class Extractor:
    """From tiles to features: `features(pixels (t, 3, H, W))` gives named arrays (t, ...).

    key: everything that they depend on. network: an encoder, or what has `image_size`, `device` and, from a
    PIL tile to pixels (3, H, W), a `transform` that can be pickled. dtype: what features are stored in.
    zoom: that of `images.inference_views`; `features` gets all six views of each tile then, (6 t, 3, H, W).
    """

    key: Mapping[str, object]
    network: Any = field(repr=False)
    features: Callable[[Tensor], Mapping[str, Tensor]] = field(repr=False)
    dtype: torch.dtype = torch.float16
    zoom: float | None = None


def encoder_extractor(
    encoder: ClipEncoder, features: Callable[[Tensor], Mapping[str, Tensor]], **key: object
) -> Extractor:
    """key: what features depend on besides the encoder."""
    return Extractor(_encoder_key(encoder) | key, encoder, features)


def view_extractor(encoder: ClipEncoder, zoom: float = ZOOM) -> Extractor:
    """`views` (t, 6, d) float32: raw embeddings of the inference views of each tile, view 0 the whole."""

    def features(pixels: Tensor) -> dict[str, Tensor]:
        return {"views": encoder.embed_images(pixels, normalize=False).unflatten(0, (-1, 1 + CROPS))}

    key = {"views": 1 + CROPS} | ({"zoom": zoom} if zoom != ZOOM else {})
    return replace(encoder_extractor(encoder, features, **key), dtype=torch.float32, zoom=zoom)


def clip_extractor(
    encoder: ClipEncoder, sizes: Sequence[int] = (2, 3), layers: Sequence[int] = ()
) -> Extractor:
    """Whole image `image` (t, d), windows `windows/<size>` (t, n_windows, d), patch tokens `layer/<block>`
    (t, patches, width) as they leave a block; embeddings normalised, tokens raw."""

    def features(pixels: Tensor) -> dict[str, Tensor]:
        scales = encoder.embed_scales(pixels, sizes, layers=layers)
        windows = {f"windows/{size}": value for size, value in scales.windows.items()}
        return {"image": scales.image, **windows, **{f"layer/{k}": v for k, v in scales.layers.items()}}

    return encoder_extractor(encoder, features, sizes=list(sizes), layers=list(layers))


def glocal_extractor(
    encoder: ClipEncoder,
    layers: Sequence[int],
    attention: str = "vv",
    first: int = 6,
    final_norm: bool = False,
) -> Extractor:
    """`ClipEncoder.embed_glocal`: `global` (t, d) and `local/<block>` (t, patches, d)."""

    def features(pixels: Tensor) -> dict[str, Tensor]:
        return _glocal(*encoder.embed_glocal(pixels, layers, attention, first, final_norm))

    key = {"glocal": list(layers), "attention": attention, "first": first, "final_norm": final_norm}
    return encoder_extractor(encoder, features, **key)


def _glocal(head: Tensor, patches: Mapping[int, Tensor]) -> dict[str, Tensor]:
    return {"global": head, **{f"local/{layer}": value for layer, value in patches.items()}}


@dataclass(frozen=True, eq=False)
class TileFeatures:
    """Features of the t square tiles (WinCLIP, supplement A) of n images.
    meta: (n rows) of meta.csv. sizes: (n, 2) heights and widths in pixels. owner: (t,) the image of each
    tile; boxes: (t, 4) left, upper, right, lower in its pixels. arrays: {name: (t, ...)}, float32.
    """

    meta: pd.DataFrame
    sizes: np.ndarray
    owner: np.ndarray
    boxes: np.ndarray
    arrays: dict[str, np.ndarray]
    name: str = ""

    @property
    def labels(self) -> np.ndarray:
        return self.meta["label"].to_numpy()

    @property
    def categories(self) -> list[str]:
        return self.meta["category"].unique().tolist()

    @property
    def views(self) -> np.ndarray:
        """(n, v, d), the views of each image's tiles. Images with fewer tiles have theirs repeated, all
        equally often, up to the least common multiple; so no mean over views changes."""
        views, counts = self.arrays["views"], np.bincount(self.owner)
        if len(counts) == len(views):  # one tile each
            return views
        own = np.split(views, np.cumsum(counts)[:-1])
        most = math.lcm(*counts.tolist())
        return np.stack([np.tile(v.reshape(-1, v.shape[-1]), (most // len(v), 1)) for v in own])

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def starting(self, prefix: str) -> dict[str, Tensor]:
        """The arrays `<prefix>/<name>` by name, in order."""
        names = [name.partition("/") for name in self.arrays]
        return {own: self.tensor(f"{prefix}/{own}") for first, _, own in names if first == prefix}

    def windows(self) -> dict[int, Tensor]:
        """{size: (t, n_windows, d)}."""
        return {int(size): value for size, value in self.starting("windows").items()}

    def where(self, keep: np.ndarray) -> TileFeatures:
        """The images at which `keep` (n,) bool is True. If all are, there is no copy: it may be gigabytes."""
        if keep.all():
            return self
        tiles, meta = keep[self.owner], self.meta[keep].reset_index(drop=True)
        owner, boxes = (np.cumsum(keep) - 1)[self.owner[tiles]], self.boxes[tiles]
        arrays = {name: values[tiles] for name, values in self.arrays.items()}
        return replace(self, meta=meta, sizes=self.sizes[keep], owner=owner, boxes=boxes, arrays=arrays)

    def select(self, category: str | None = None, split: str | None = None) -> TileFeatures:
        keep = np.ones(len(self.meta), bool)
        for column, value in (("category", category), ("split", split)):
            keep &= value is None or (self.meta[column] == value).to_numpy()
        return self.where(keep)

    def only(self, image: int) -> TileFeatures:
        """The features of one image, counted in `meta`."""
        return self.where(np.arange(len(self.meta)) == image)

    def mean_of_tiles(self, scores: Tensor | np.ndarray) -> np.ndarray:
        """(n,) from scores (t,) of tiles: the mean over an image's tiles (supplement A)."""
        return np.bincount(self.owner, np.asarray(scores, float)) / np.bincount(self.owner)


@dataclass(frozen=True)
class FeaturePart:
    """Some images of a category. Features that the cache does not have are computed."""

    dataset: AnomalyDataset
    extractor: Extractor = field(repr=False)
    whole: Whole
    folder: Path

    @property
    def place(self) -> tuple[Path, str, dict[str, object]]:
        """The cache's folder, the file's name, and what its content depends on."""
        key = {**self.extractor.key, "dtype": str(self.extractor.dtype), "whole": self.whole}
        name = f"{self.dataset.root.name}-{self.dataset.categories[0]}"
        return self.folder, name, {**key, "images": self.dataset.fingerprint}

    @property
    def batches(self) -> list[list[Path]]:
        paths = [self.dataset.root / path for path in self.dataset.meta["image"]]
        return [paths[start : start + BATCH] for start in range(0, len(paths), BATCH)]

    def map(self) -> dict[str, np.ndarray]:
        """The arrays as they lie on the disk, memory-mapped, features in the extractor's dtype."""
        return cached_arrays(*self.place, lambda: next(_compute([[self]]))[0])

    def load(self) -> TileFeatures:
        return join_parts([self])


def compute_features(
    extractor: Extractor, dataset: AnomalyDataset, cache_dir: str | Path, *, whole: Whole = "tiles"
) -> list[FeaturePart]:
    """The images as parts, category by category. Features that the cache does not have are computed now.
    whole: how images that are not square are seen: "tiles" (WinCLIP), "squash" (public code), "center_crop".
    """
    return [part for (part,) in _computed([extractor], dataset, cache_dir, whole)]


def compute_together(extractors: Sequence[Extractor], dataset: AnomalyDataset, cache_dir: str | Path) -> None:
    """What the cache lacks of the `glocal_extractor`s of one encoder that start their local path where the
    first does, of squashed images, in one pass. Their files are as if computed alone, up to rounding."""
    same = list({content_key(**own.key): own for own in extractors if "glocal" in own.key}.values())
    same = [own for own in same if own.key["first"] == same[0].key["first"]]
    if same:
        _computed(same, dataset, cache_dir, "squash")


def _computed(
    extractors: Sequence[Extractor], dataset: AnomalyDataset, cache_dir: str | Path, whole: Whole
) -> list[list[FeaturePart]]:
    """For each part of the images those of the extractors; what the cache lacks of them is computed."""
    dataset.digests.of(dataset.files)  # found, and kept, in one go; the parts share them
    cut = [part for category in dataset.categories for part in dataset.select(category).cut(PART)]
    parts = [[FeaturePart(p, own, whole, Path(cache_dir) / "features") for own in extractors] for p in cut]
    absent = [each for each in parts if not all(cache_file(*part.place).exists() for part in each)]
    if absent:
        with closing(_compute(absent)) as computed:
            found = zip(absent, computed, strict=True)
            for each, arrays in tqdm(found, dataset.name, len(absent), leave=False):
                for part, own in zip(each, arrays, strict=True):
                    cached_arrays(*part.place, partial(dict, own))
    return parts


def join_parts(parts: Sequence[FeaturePart], name: str = "") -> TileFeatures:
    """The features of several parts; they are computed now if the cache does not have them."""
    found = [part.map() for part in parts]
    meta = pd.concat([part.dataset.meta for part in parts], ignore_index=True)
    firsts = np.cumsum([0, *(len(part.dataset) for part in parts)])
    owner = np.concatenate([own["owner"] + first for own, first in zip(found, firsts)])
    joined = {key: np.concatenate([own[key] for own in found]) for key in found[0] if key != "owner"}
    sizes, boxes = joined.pop("sizes"), joined.pop("boxes")
    arrays = {key: value.astype(np.float32, copy=False) for key, value in joined.items()}
    return TileFeatures(meta, sizes, owner, boxes, arrays, name)


def image_embeddings(
    encoder: ClipEncoder, dataset: AnomalyDataset, cache_dir: str | Path, whole: Whole = "squash", zoom=ZOOM
) -> TileFeatures:
    """The inference views of every image of a dataset, as `view_extractor` has them."""
    parts = compute_features(view_extractor(encoder, zoom), dataset, cache_dir, whole=whole)
    return join_parts(parts, dataset.name)


def _compute(parts: Sequence[Sequence[FeaturePart]]) -> Iterator[list[dict[str, np.ndarray]]]:
    """The arrays of each extractor for the same images, part by part. Other processes read the images."""
    extractors = [part.extractor for part in parts[0]]
    own, batches = extractors[0], [batch for each in parts for batch in each[0].batches]
    network, views = own.network, {"zoom": own.zoom, "whole": parts[0][0].whole}
    make = partial(load_batch, image_size=network.image_size, transform=network.transform, **views)
    workers, on_gpu = worker_count(sum(map(len, batches)), network.device), network.device.type == "cuda"
    with closing(made_ahead(batches, make, workers=workers, pin_memory=on_gpu)) as loaded:
        for each in parts:
            yield _arrays(each[0], extractors, islice(loaded, len(each[0].batches)))


def _arrays(
    part: FeaturePart, extractors: Sequence[Extractor], batches: Iterable[tuple]
) -> list[dict[str, np.ndarray]]:
    sizes, found, dtype, device = [], [], part.extractor.dtype, part.extractor.network.device
    for pixels, own in batches:
        sizes += own
        with fast_products(device):
            each = _features(extractors, pixels.to(device, non_blocking=True))
        found.append([{name: v.to(dtype).cpu().numpy() for name, v in arrays.items()} for arrays in each])
    joined = [{name: np.concatenate([own[name] for own in each]) for name in each[0]} for each in zip(*found)]
    for name, values in (pair for arrays in joined for pair in arrays.items()):
        if not np.isfinite(values).all():
            limit = f"NaN or numbers too large for {dtype}"
            raise ValueError(f"{part.dataset.name}: {name} holds {limit}; check images and weights")
    boxes = [boxes_of(*size, part.whole) for size in sizes]
    owner = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes])
    places = {"sizes": np.array(sizes)[:, ::-1], "owner": owner, "boxes": np.concatenate(boxes)}
    return [places | arrays for arrays in joined]


def _features(extractors: Sequence[Extractor], pixels: Tensor) -> list[Mapping[str, Tensor]]:
    """The features of one extractor, or of several `glocal_extractor`s in one pass."""
    if len(extractors) == 1:
        return [extractors[0].features(pixels)]
    keys = [own.key for own in extractors]
    wanted = [(key["glocal"], key["attention"], key["final_norm"]) for key in keys]
    found = extractors[0].network.embed_glocals(pixels, wanted, keys[0]["first"])
    return [_glocal(*own) for own in found]


def load_batch(
    paths: Sequence[Path], image_size: tuple[int, int], transform: Callable[[Any], Tensor], **options
) -> tuple[Tensor, list[tuple[int, int]]]:
    """The views of images (n, 3, H, W), one after the other, for an encoder with these `image_size` and
    `transform`, and the images' (width, height). options: of `inference_views`. Errors name the file."""
    pixels, sizes = [], []
    for path in paths:
        try:
            image = read_image(path)
            pixels += map(transform, inference_views(image, image_size, **options))
        except Exception as error:
            error.add_note(f"with the image {path}")
            raise
        sizes.append(image.size)
    return torch.stack(pixels), sizes


def made_ahead(
    items: Sequence, make: Callable[[Any], Any], *, workers: int, pin_memory: bool = False
) -> Iterator[Any]:
    """make(item) of each item, in order, in worker processes while the caller works on earlier ones.
    A worker is two items ahead at most. make: can be pickled; an error in it is raised when its turn comes.
    workers: 0 for none; they end with the iterator."""
    context = None
    if workers:  # not forked from this process: it may hold threads and a GPU, which a fork breaks
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imported once, not by every worker
    loader = DataLoader(
        items,
        batch_size=None,
        collate_fn=partial(_made, make=make),
        pin_memory=pin_memory,
        generator=torch.Generator(),  # it draws a seed, by default from the global random state
        num_workers=workers,
        multiprocessing_context=context,
    )
    running = iter(loader)
    try:
        for found in running:
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        if workers:  # at once: an error's traceback holds the iterator, which would keep them
            running._shutdown_workers()


def worker_count(images: int, device: torch.device) -> int:
    """For a GPU half of this process's cores, at most 16; none on a CPU, for few images, or on Windows."""
    if device.type == "cpu" or images < FEW or "forkserver" not in multiprocessing.get_all_start_methods():
        return 0
    shared = Path("/dev/shm")  # through it workers hand over batches; containers often have 64 MB
    full = shared.is_dir() and shutil.disk_usage(shared).free < 2**29
    return 0 if full else min(16, max(1, joblib.cpu_count() // 2))


def _made(item: Any, make: Callable[[Any], Any]) -> Any:
    try:
        return make(item)
    except Exception as error:  # returned: raised here, it would arrive inside a report on the worker
        return error


def text_embeddings(encoder: ClipEncoder, sentences: Sequence[str], cache_dir: str | Path) -> np.ndarray:
    """Raw text embeddings (n, d)."""
    key = {**_encoder_key(encoder), "sentences": content_key(sentences=list(sentences))}

    def embed() -> dict[str, np.ndarray]:  # here alone the encoder itself is needed, which pages load late
        return {"vectors": encoder.embed_text(list(sentences), normalize=False).numpy()}

    found = cached_arrays(Path(cache_dir) / "texts", "texts", key, embed)
    return found["vectors"]


def random_word_embeddings(
    encoder: ClipEncoder, cache_dir: str | Path, n_pairs: int, **options
) -> tuple[np.ndarray, np.ndarray]:
    """Raw embeddings of `prompts.random_word_prompts(n_pairs, **options)`: two arrays (n_pairs, d)."""
    normal, anomalous = prompts.random_word_prompts(n_pairs, **options)
    return text_embeddings(encoder, normal, cache_dir), text_embeddings(encoder, anomalous, cache_dir)


def _encoder_key(encoder: ClipEncoder) -> dict[str, str]:
    return {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}
