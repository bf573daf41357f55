"""Dense features of a dataset's images (windows, patch tokens, feature maps), computed once and streamed.

A category is cut into parts of `PART` images. Each part is cached in a file of its own under a key made of
content, so a killed run goes on with the part it was in, and however many images there are, one part at a
time is in memory. Features are stored as float16, which moves a cosine by about 1e-5, or less near 1.

Images that are not square are cut into square tiles (WinCLIP, supplement A); features belong to tiles, and
`Dense.owner` tells whose they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from zsad_core import prompts
from zsad_core.cache import cached_arrays, cached_parts, content_key
from zsad_core.datasets import AnomalyDataset, fingerprints
from zsad_core.encoders import ClipEncoder
from zsad_core.loading import Batch, Preprocess, batches_of, load_batches
from zsad_core.shards import of_shard
from zsad_core.views import Whole, boxes_of, test_views

PART = 32
"""Images in a part; bounds the memory and what a killed run loses, not the result."""


@dataclass(frozen=True)
class Extractor:
    """From tiles to features: `features(pixels (t, 3, H, W))` gives named arrays (t, ...), and `key` names
    everything that they depend on. preprocess: can be pickled. dtype: what features are stored in. device:
    where pixels are wanted."""

    key: Mapping[str, object]
    image_size: tuple[int, int]
    preprocess: Callable[[Image.Image], Tensor] = field(repr=False)
    features: Callable[[Tensor], Mapping[str, Tensor]] = field(repr=False)
    dtype: torch.dtype = torch.float16
    device: torch.device = torch.device("cpu")


@dataclass(frozen=True)
class Dense:
    """Features of the t tiles of n images, float32.

    meta: (n rows) of meta.csv. sizes: (n, 2) heights and widths in pixels. owner: (t,) the image of each
    tile; boxes: (t, 4) left, upper, right, lower in its pixels. arrays: {name: (t, ...)}.
    """

    meta: pd.DataFrame
    sizes: np.ndarray
    owner: np.ndarray
    boxes: np.ndarray
    arrays: dict[str, np.ndarray]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def starting(self, prefix: str) -> dict[str, Tensor]:
        """The arrays `<prefix>/<name>` by name, in order."""
        names = [name for name in self.arrays if name.startswith(f"{prefix}/")]
        return {name.removeprefix(f"{prefix}/"): self.tensor(name) for name in names}

    def windows(self) -> dict[int, Tensor]:
        """{size: (t, n_windows, d)}."""
        return {int(size): value for size, value in self.starting("windows").items()}

    def only(self, image: int) -> Dense:
        """The features of one image, counted in `meta`."""
        own = self.owner == image
        arrays = {name: values[own] for name, values in self.arrays.items()}
        part = slice(image, image + 1)
        return Dense(self.meta[part], self.sizes[part], np.zeros(own.sum(), int), self.boxes[own], arrays)

    def mean_of_tiles(self, scores: Tensor | np.ndarray) -> np.ndarray:
        """(n,) from scores (t,) of tiles: the mean over an image's tiles (supplement A)."""
        return np.bincount(self.owner, np.asarray(scores, float)) / np.bincount(self.owner)


@dataclass(frozen=True)
class DensePart:
    """Some images of a category; `load` reads their features, or computes them when nobody has yet.

    `map` gives the arrays as they lie on the disk, memory-mapped, features in the extractor's dtype.
    """

    dataset: AnomalyDataset
    load: Callable[[], Dense] = field(repr=False)
    map: Callable[[], dict[str, np.ndarray]] = field(repr=False)


def clip_extractor(
    encoder: ClipEncoder, sizes: Sequence[int] = (2, 3), layers: Sequence[int] = ()
) -> Extractor:
    """Whole image `image` (t, d), windows `windows/<size>` (t, n_windows, d), patch tokens `layer/<block>`
    (t, patches, width) as they leave a block; embeddings normalised, tokens raw."""

    def features(pixels: Tensor) -> dict[str, Tensor]:
        scales = encoder.embed_scales(pixels, sizes, layers=layers)
        windows = {f"windows/{size}": value for size, value in scales.windows.items()}
        return {"image": scales.image, **windows, **{f"layer/{k}": v for k, v in scales.layers.items()}}

    key = {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}
    key |= {"sizes": list(sizes), "layers": list(layers)}
    preprocess = Preprocess.of(encoder).preprocess
    return Extractor(key, encoder.image_size, preprocess, features, device=encoder.device)


def glocal_extractor(
    encoder: ClipEncoder,
    layers: Sequence[int],
    attention: str = "vv",
    first: int = 6,
    final_norm: bool = False,
) -> Extractor:
    """`ClipEncoder.embed_glocal` for `dense_parts`: `global` (t, d) and `local/<block>` (t, patches, d)."""

    def features(pixels: Tensor) -> dict[str, Tensor]:
        head, patches = encoder.embed_glocal(pixels, layers, attention, first, final_norm=final_norm)
        return {"global": head, **{f"local/{layer}": value for layer, value in patches.items()}}

    key = {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}
    key |= {"layers": list(layers), "attention": attention, "first": first, "final_norm": final_norm}
    preprocess = Preprocess.of(encoder).preprocess
    return Extractor({**key, "glocal": 1}, encoder.image_size, preprocess, features, device=encoder.device)


def dense_parts(
    extractor: Extractor,
    dataset: AnomalyDataset,
    cache_dir: str | Path,
    *,
    whole: Whole = "tiles",
    name: str = "dense",
) -> list[DensePart]:
    """The images of one category as parts, in the order of `dataset.meta`. Nothing is computed before `load`.

    whole: how an image that is not square is seen: "tiles" (the paper's), "squash" to a square, as public
        code does, or "center_crop".
    """
    parts = []
    for number, part in enumerate(dataset.cut(PART)):
        arrays = partial(_arrays, extractor, part, Path(cache_dir) / name, number, whole)
        parts.append(DensePart(part, partial(_load, part, arrays), partial(arrays, mapped=True)))
    return parts


def compute_parts(
    extractor: Extractor,
    dataset: AnomalyDataset,
    cache_dir: str | Path,
    *,
    whole: Whole = "tiles",
    name: str = "dense",
    shard: int | None = None,
    workers: int | None = None,
) -> int:
    """Compute what `dense_parts` will load and nobody has computed yet, in one go; how many images it is of.

    The images come from other processes, ahead of need (`loading.load_batches`, also for workers).
    shard: only the parts of this one, counted from 0 (`shards.of_shard`).
    """
    numbered = list(enumerate(dataset.cut(PART)))
    numbered = numbered if shard is None else of_shard(numbered, PART, shard)
    fingerprints([part for _, part in numbered])  # each part remembers its own
    places = [_place(extractor, part, number, whole) for number, part in numbered]

    def compute(absent: list[int]) -> Generator[dict[str, np.ndarray], None, None]:
        return _compute(extractor, [numbered[i][1] for i in absent], whole, workers)

    with closing(cached_parts(Path(cache_dir) / name, places, compute, mapped=True)) as found:
        for _ in found:
            pass
    return sum(len(part) for _, part in numbered)


def _place(extractor: Extractor, part: AnomalyDataset, number: int, whole: Whole) -> tuple[str, dict]:
    """The cache file of a part: the name, and what its content depends on."""
    key = {**extractor.key, "images": part.fingerprint, "whole": whole}
    if extractor.dtype != torch.float16:
        key["dtype"] = str(extractor.dtype)
    return f"{part.root.name}-{part.meta['category'].iloc[0]}-{number:04d}", key


def _arrays(
    extractor: Extractor, part: AnomalyDataset, folder: Path, number: int, whole: Whole, mapped: bool = False
) -> dict[str, np.ndarray]:
    compute = lambda: next(_compute(extractor, [part], whole))  # noqa: E731
    return cached_arrays(folder, *_place(extractor, part, number, whole), compute, mapped=mapped)


def _load(part: AnomalyDataset, arrays: Callable[[], dict[str, np.ndarray]]) -> Dense:
    found = arrays()
    numbers = {name: found.pop(name) for name in ("sizes", "owner", "boxes")}
    return Dense(part.meta, arrays={n: value.astype(np.float32) for n, value in found.items()}, **numbers)


def _compute(
    extractor: Extractor, parts: Sequence[AnomalyDataset], whole: Whole, workers: int | None = None
) -> Generator[dict[str, np.ndarray], None, None]:
    """The arrays of each part in turn."""
    cuts = [batches_of(part) for part in parts]
    prepare = partial(_tiles, whole=whole, size=extractor.image_size, preprocess=extractor.preprocess)
    batches = [batch for cut in cuts for batch in cut]
    with closing(load_batches(batches, prepare, device=extractor.device, workers=workers)) as loaded:
        for part, cut in zip(parts, cuts, strict=True):
            yield _features(extractor, part, islice(loaded, len(cut)), whole)


def _tiles(
    image: Image.Image, whole: Whole, size: tuple[int, int], preprocess: Callable[[Image.Image], Tensor]
) -> Tensor:
    """(k, 3, H, W) of one image."""
    tiles = [image.crop(box) for box in boxes_of(image.width, image.height, whole)]
    if whole == "squash":
        tiles = [tile.resize(size[::-1], Image.Resampling.BICUBIC) for tile in tiles]
    return torch.stack([preprocess(tile) for tile in tiles])


def _features(
    extractor: Extractor, part: AnomalyDataset, loaded: Iterable[Batch], whole: Whole
) -> dict[str, np.ndarray]:
    sizes, owner, boxes, found = [], [], [], []
    for batch in loaded:
        for (width, height), count in zip(batch.sizes, batch.counts, strict=True):
            owner += [len(sizes)] * count
            boxes += boxes_of(width, height, whole)
            sizes.append((height, width))
        features = extractor.features(batch.pixels)
        found.append({name: value.to(extractor.dtype).cpu().numpy() for name, value in features.items()})
    arrays = {name: np.concatenate([values[name] for values in found]) for name in found[0]}
    broken = [name for name, value in arrays.items() if not np.isfinite(value).all()]
    if broken:
        raise ValueError(
            f"{part.name}: features {', '.join(broken)} hold NaN or numbers too large for "
            f"{str(extractor.dtype).removeprefix('torch.')}; "
            "check images and weights"
        )
    return {"sizes": np.array(sizes), "owner": np.array(owner), "boxes": np.array(boxes), **arrays}


VIEW_PART = 128
"""Images of a category in one file of the cache: what a killed run loses at most."""


@dataclass(frozen=True)
class Embedded:
    """Images of a dataset as embeddings: `meta` (n rows of meta.csv) and `vectors` (n, v, d), raw, view 0 the
    whole image.

    `fingerprint` is that of the whole dataset's content, also for a part of it.
    """

    name: str
    meta: pd.DataFrame
    vectors: np.ndarray
    fingerprint: str = ""

    def select(self, category: str | None = None, split: str | None = None) -> Embedded:
        keep = np.ones(len(self.meta), bool)
        for column, value in (("category", category), ("split", split)):
            if value is not None:
                keep &= (self.meta[column] == value).to_numpy()
        if keep.all():  # no second copy of what may be gigabytes
            return self
        return replace(self, meta=self.meta[keep].reset_index(drop=True), vectors=self.vectors[keep])

    @property
    def labels(self) -> np.ndarray:
        return self.meta["label"].to_numpy()

    @property
    def categories(self) -> list[str]:
        return self.meta["category"].unique().tolist()


def image_embeddings(
    encoder: ClipEncoder,
    dataset: AnomalyDataset,
    cache_dir: str | Path,
    *,
    progress: bool = True,
    workers: int | None = None,
    **view_options,
) -> Embedded:
    """Every image of a dataset through the encoder, once per set of views. See `views.test_views` for the
    options. progress: whether a bar counts the images.

    Cached in parts of `PART` images: a killed run goes on with the part it was in. workers: of the processes
    that read images, `loading.load_batches`.
    """
    parts = parts_of(dataset)
    found = _embedded_parts(encoder, parts, cache_dir, workers, **view_options)
    vectors = []
    bar = tqdm(total=len(dataset), desc=dataset.name, leave=False, disable=not progress)
    with bar, closing(found):
        for part in found:
            vectors.append(np.asarray(part["vectors"]))  # on the disk, so what follows is the only copy
            bar.update(len(vectors[-1]))
    meta = pd.concat([part.meta for part in parts], ignore_index=True)
    by_category = {category: dataset.select(category).fingerprint for category in dataset.categories}
    return Embedded(dataset.name, meta, _joined(vectors), content_key(**by_category))


def embed_images(
    encoder: ClipEncoder,
    dataset: AnomalyDataset,
    cache_dir: str | Path,
    *,
    shard: int | None = None,
    workers: int | None = None,
    **view_options,
) -> int:
    """Let the cache hold what `image_embeddings` will read of the dataset; how many images it is of.

    No more than a part is in memory. shard: only this one of a category, counted from 0
    (`shards.of_shard`), of which alone files are read.
    """
    parts = parts_of(dataset)
    parts = parts if shard is None else of_shard(parts, VIEW_PART, shard)
    with closing(_embedded_parts(encoder, parts, cache_dir, workers, **view_options)) as found:
        return sum(len(part["vectors"]) for part in found)


def parts_of(dataset: AnomalyDataset) -> list[AnomalyDataset]:
    """Category by category, `PART` images each, the last of a category fewer."""
    return [part for category in dataset.categories for part in dataset.select(category).cut(VIEW_PART)]


def _embedded_parts(
    encoder: ClipEncoder,
    parts: Sequence[AnomalyDataset],
    cache_dir: str | Path,
    workers: int | None = None,
    **view_options,
) -> Generator[dict[str, np.ndarray], None, None]:
    """`vectors` (n, v, d) of each part, memory-mapped."""
    prepare = partial(test_views, encoder=Preprocess.of(encoder), **view_options)
    options = {**_encoder_key(encoder), "views": view_options}
    # a part's own name has a slash in it where one category stands for a dataset
    files = [f"{part.root.name}-{part.meta['category'].iloc[0]}" for part in parts]
    keys = [{**options, "images": fingerprint} for fingerprint in fingerprints(parts)]

    def compute(absent: list[int]) -> Generator[dict[str, np.ndarray], None, None]:
        cuts = [batches_of(parts[i]) for i in absent]
        batches = [batch for cut in cuts for batch in cut]
        with closing(load_batches(batches, prepare, device=encoder.device, workers=workers)) as loaded:
            for i, cut in zip(absent, cuts, strict=True):
                yield {"vectors": _embed(encoder, parts[i], islice(loaded, len(cut)))}

    folder = Path(cache_dir) / "images"
    return cached_parts(folder, list(zip(files, keys, strict=True)), compute, mapped=True)


def _embed(encoder: ClipEncoder, part: AnomalyDataset, loaded: Iterator[Batch]) -> np.ndarray:
    """(n, v, d) of the images of a part."""
    vectors = []
    for batch in loaded:
        flat = encoder.embed_images(batch.pixels, normalize=False).cpu().numpy()  # (sum of counts, d)
        own = np.split(flat, np.cumsum(batch.counts)[:-1])
        vectors.append(_joined([views[None] for views in own]))  # (b, v, d)
    return _joined(vectors)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """(n, v, d) of parts (n_i, v_i, d). Images of other proportions have other numbers of tiles, so of views:
    theirs are repeated, all equally often, up to the least common multiple. No mean over views changes."""
    views = math.lcm(*(part.shape[1] for part in parts))
    even = [p if p.shape[1] == views else np.tile(p, (1, views // p.shape[1], 1)) for p in parts]
    return np.concatenate(even)


def _encoder_key(encoder: ClipEncoder) -> dict[str, str]:
    return {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}


def text_embeddings(
    encoder: ClipEncoder, sentences: Sequence[str], cache_dir: str | Path, name: str = "prompts"
) -> np.ndarray:
    """Raw text embeddings (n, d)."""
    key = {
        **_encoder_key(encoder),
        "sentences": content_key(sentences=list(sentences)),
        "number": len(sentences),
    }
    compute = lambda: {"vectors": encoder.embed_text(list(sentences), normalize=False).cpu().numpy()}  # noqa: E731
    return cached_arrays(Path(cache_dir) / "texts", name, key, compute)["vectors"]


def random_word_embeddings(
    encoder: ClipEncoder,
    cache_dir: str | Path,
    n_pairs: int,
    normal: str = "a",
    anomaly: str = "a damaged",
    **options,
) -> tuple[np.ndarray, np.ndarray]:
    """Raw embeddings of `prompts.random_word_prompts(n_pairs, ...)`: two arrays (n_pairs, d).

    The words do not depend on `normal` and `anomaly`, so 16 word pairs need eight sets of sentences, not 32.
    """
    normals, anomalous = prompts.random_word_prompts(n_pairs, normal=normal, anomaly=anomaly, **options)
    return (
        text_embeddings(encoder, normals, cache_dir, f"random-{_slug(normal)}"),
        text_embeddings(encoder, anomalous, cache_dir, f"random-{_slug(anomaly)}"),
    )


def _slug(words: str) -> str:
    return "a" if words == "an" else words.replace(" ", "-")  # the bare article: the same sentences for both
