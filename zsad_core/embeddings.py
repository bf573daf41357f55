"""Embeddings of a dataset's images and of prompts, computed once and kept on disk.

Keys are made of content (weights, pixels, sentences, options), so no run reads what another one would not
have computed. Everything here is raw, that is not normalised: the prompt score divides by the length, RWDA's
FNN must not.

    python -m zsad_core.embeddings --profile mini --dataset mini_mvtec
    python -m zsad_core.embeddings --profile mini --texts
    python -m zsad_core.embeddings --profile paper --dataset sewerml --category sewer --shard 3
    python -m zsad_core.embeddings --profile paper --dataset visa --category pcb1 --shard 0 --features winclip
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from zsad_core import prompts
from zsad_core.cache import cached_arrays, cached_parts, content_key
from zsad_core.datasets import AnomalyDataset, fingerprints, how_to_prepare, load_dataset
from zsad_core.encoders import ClipEncoder, load_encoder
from zsad_core.loading import Batch, Preprocess, batches_of, load_batches
from zsad_core.settings import Settings, folder_and_category, read_settings
from zsad_core.shards import KINDS, SHARD, of_shard
from zsad_core.views import test_views

PART = 128
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
    parts = parts if shard is None else of_shard(parts, PART, shard)
    with closing(_embedded_parts(encoder, parts, cache_dir, workers, **view_options)) as found:
        return sum(len(part["vectors"]) for part in found)


def parts_of(dataset: AnomalyDataset) -> list[AnomalyDataset]:
    """Category by category, `PART` images each, the last of a category fewer."""
    return [part for category in dataset.categories for part in dataset.select(category).cut(PART)]


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


def encoder_of(settings: Settings) -> ClipEncoder:
    return load_encoder(
        settings.model,
        settings.weights,
        device=settings.device,
        precision=settings.precision,
        seed=settings.seed,
    )


def dataset_of(settings: Settings, role: str) -> AnomalyDataset | None:
    """The dataset that stands in the place of a published one, at most `limit_images` test images a category
    and label; None if the settings name none, and with a warning if the one they name is not prepared.

    Its name is the value that `settings.datasets` has for the role, also where that is one category of a
    prepared dataset, `name/category`: so result rows can be told apart, and `results.as_roles` finds them.
    """
    name = settings.datasets.get(role)
    if name is not None and not is_prepared(settings, name):
        warnings.warn(missing(settings, [role])[0], stacklevel=2)
        return None
    return None if name is None else dataset_named(settings, name)


def dataset_names(settings: Settings, roles: Sequence[str]) -> dict[str, str]:
    """The names of the datasets of these roles; a role without one is left out."""
    found = {role: dataset_of(settings, role) for role in roles}
    return {role: dataset.name for role, dataset in found.items() if dataset is not None}


def missing(settings: Settings, roles: Sequence[str]) -> list[str]:
    """For a page's reader, of each role without a prepared dataset: what is missing and how to get it."""
    lines = []
    for role in roles:
        name = settings.datasets.get(role)
        if name is None:
            lines.append(
                f"No dataset in the place of {role}: name a prepared one in the parameter `datasets`."
            )
        elif not is_prepared(settings, name):
            lines.append(
                f"The dataset {name} in the place of {role} is not prepared: "
                f"{how_to_prepare(folder_and_category(name)[0])}."
            )
    return lines


def is_prepared(settings: Settings, name: str) -> bool:
    return (Path(settings.data_dir) / folder_and_category(name)[0] / "meta.csv").is_file()


def dataset_named(settings: Settings, name: str) -> AnomalyDataset:
    """The prepared dataset `name` or `name/category`, limited as the settings say."""
    folder, category = folder_and_category(name)
    dataset = load_dataset(Path(settings.data_dir) / folder, Path(settings.cache_dir) / "digests")
    if category is not None:
        dataset = replace(dataset.select(category=category), name=name)
    return dataset.limit(settings.limit_images) if settings.limit_images else dataset


def embedded_datasets(
    settings: Settings, encoder: ClipEncoder, roles: Sequence[str], *, first: bool = False
) -> dict[str, Embedded]:
    """Embeddings of the datasets of these roles, six views each; the single-view results use view 0.

    A role without a prepared dataset is left out. first: only the first that has one, for a page that shows
    one example.
    """
    found: dict[str, Embedded] = {}
    for role in roles:
        dataset = None if first and found else dataset_of(settings, role)
        if dataset is not None:
            found[role] = image_embeddings(encoder, dataset, settings.cache_dir)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--category", help="only this one")
    parser.add_argument("--shard", type=int, help=f"only this one of the category, {SHARD} images, from 0")
    parser.add_argument("--features", choices=KINDS, default="views", help="of what (default: %(default)s)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--dataset", help="a prepared dataset in data_dir: name or name/category")
    what.add_argument("--texts", action="store_true", help="the random-word prompts of every word pair")
    arguments = parser.parse_args()
    settings = read_settings({"profile": arguments.profile})
    if arguments.dataset:
        from zsad_core.features import compute  # here: it knows the studies, which know this module

        where = (arguments.dataset, arguments.category, arguments.shard)
        print(compute(settings, arguments.features, *where))
        return
    encoder = encoder_of(settings)
    options = {"seed": settings.seed, "alphabet": prompts.ALPHABETS[settings.alphabet]}
    # each word once: eight sets of sentences for 16 pairs of words
    pairs = list(zip(prompts.NORMAL_WORDS, prompts.ANOMALY_WORDS, strict=True))
    for normal, anomaly in tqdm(pairs, desc="random-word prompts"):
        random_word_embeddings(encoder, settings.cache_dir, settings.pool_pairs, normal, anomaly, **options)
    print(
        f"random-word prompts: {settings.pool_pairs} of each of {2 * len(pairs)} words, {encoder.weights_id}"
    )


if __name__ == "__main__":
    main()
