"""The encoder and the datasets that a run's settings name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_core.cache import content_key, sha256_of, write_atomically
from zsad_core.datasets import AnomalyDataset, how_to_prepare, load_dataset
from zsad_papers.common.settings import Settings, folder_and_category

if TYPE_CHECKING:  # pages that show kept records do without torch, which takes seconds to import
    from zsad_core.encoders import ClipEncoder
    from zsad_core.image_features import TileFeatures


@dataclass(frozen=True)
class Model:
    """What a page says of an encoder that it does not use; each as in `ClipEncoder`."""

    model_id: str
    weights_id: str
    weights_sha256: str | None
    device: str
    precision: str
    temperature: float
    depth: int
    grid: tuple[int, int]


def model_of(settings: Settings, prefix: str = "") -> Model:
    """Facts about `encoder_of(settings, prefix)`, kept in the cache under the digests of its files."""
    names = {name: getattr(settings, prefix + name, None) for name in ("model", "weights", "image_size")}
    names |= {name: getattr(settings, name) for name in ("device", "precision", "seed")}
    given = [Path(name) for name in (names["model"], names["weights"]) if name and Path(name).is_file()]
    shipped = [str(files("zsad_core") / f"weights/zsad-mini.{end}") for end in ("json", "safetensors")]
    digests = [sha256_of(path) for path in (*given, *(shipped if names["model"] == "zsad-mini" else ()))]
    key = content_key(**names, files=digests, open_clip=version("open_clip_torch"))
    path = Path(settings.cache_dir) / "models" / f"{key}.json"
    if not path.is_file():
        encoder = encoder_of(settings, prefix)
        facts = {field.name: getattr(encoder, field.name) for field in fields(Model)}
        text = json.dumps(facts | {"device": str(encoder.device)})
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    facts = json.loads(path.read_text(encoding="utf-8"))
    return Model(**facts | {"grid": tuple(facts["grid"])})


def encoder_of(settings: Settings, prefix: str = "") -> ClipEncoder:
    """The encoder that the parameters `model` and `weights` name. prefix: of these parameters' names."""
    from zsad_core.encoders import load_encoder  # here: see above

    return load_encoder(
        getattr(settings, f"{prefix}model"),
        getattr(settings, f"{prefix}weights"),
        device=settings.device,
        precision=settings.precision,
        seed=settings.seed,
        image_size=getattr(settings, f"{prefix}image_size", None),
    )


def dataset_of(settings: Settings, dataset: str) -> AnomalyDataset | None:
    """The stand-in for a published dataset, at most `limit_images` test images a category and label, by the
    name that `settings.datasets` has for it, as `results.as_published` expects; None if the settings name
    none, and with a warning if the one they name is not prepared."""
    name = settings.datasets.get(dataset)
    if name is not None and not is_prepared(settings, name):
        warnings.warn(missing(settings, [dataset])[0], stacklevel=2)
        return None
    return None if name is None else dataset_named(settings, name)


def dataset_names(settings: Settings, datasets: Sequence[str]) -> dict[str, str]:
    """{published dataset: the prepared one that stands in for it}, without those that are missing."""
    named = {dataset: settings.datasets.get(dataset) for dataset in datasets}
    return {dataset: name for dataset, name in named.items() if name and is_prepared(settings, name)}


def datasets_by_stand_in(settings: Settings) -> dict[str, list[str]]:
    """{prepared dataset: the published ones that it stands in for}, of all that the settings name."""
    found: dict[str, list[str]] = {}
    for dataset, name in settings.datasets.items():
        if name:
            found.setdefault(name, []).append(dataset)
    return found


def described(name: str, datasets: Sequence[str]) -> str:
    """The name of a prepared dataset, and which ones it stands in for, if they have other names."""
    return name if list(datasets) in ([], [name]) else f"{name} (stand-in for {', '.join(datasets)})"


def missing(settings: Settings, datasets: Sequence[str]) -> list[str]:
    """For a page's reader: for each dataset without a prepared stand-in, what to do about it."""
    lines = []
    for dataset in datasets:
        name = settings.datasets.get(dataset)
        if name is None:
            how = "name a prepared one in the parameter `datasets`"
            lines.append(f"No dataset stands in for {dataset}: {how}.")
        elif not is_prepared(settings, name):
            how = how_to_prepare(folder_and_category(name)[0])
            lines.append(f"The dataset {described(name, [dataset])} is not prepared: {how}.")
    return lines


def is_prepared(settings: Settings, name: str) -> bool:
    return (Path(settings.data_dir) / folder_and_category(name)[0] / "meta.csv").is_file()


def dataset_named(settings: Settings, name: str, *, limit: bool = True) -> AnomalyDataset:
    """The prepared dataset `name` or `name/category`. limit: to as many images as the settings say."""
    folder, category = folder_and_category(name)
    dataset = load_dataset(Path(settings.data_dir) / folder, Path(settings.cache_dir) / "digests")
    if category is not None:
        dataset = replace(dataset.select(category=category), name=name)
    return dataset.limit(settings.limit_images) if limit and settings.limit_images else dataset


def embedded_datasets(
    settings: Settings, encoder: ClipEncoder, datasets: Sequence[str]
) -> dict[str, TileFeatures]:
    """Embeddings of the stand-ins for these datasets, six views each; the single-view results use view 0. A
    dataset without a prepared one is left out."""
    from zsad_core.image_features import image_embeddings  # here: see above

    found = {dataset: images for dataset in datasets if (images := dataset_of(settings, dataset)) is not None}
    return {dataset: image_embeddings(encoder, own, settings.cache_dir) for dataset, own in found.items()}


def has_masks(dataset: AnomalyDataset) -> bool:
    return bool(((dataset.meta["label"] == 1) & (dataset.meta["mask"] != "")).any())
