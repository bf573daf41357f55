"""The encoder and the datasets that a run's settings name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_core.cache import content_key, sha256_of, write_atomically
from zsad_core.datasets import AnomalyDataset, how_to_prepare, load_dataset
from zsad_papers.common.settings import Settings, folder_and_category

if TYPE_CHECKING:  # pages that show kept records do without torch, which takes seconds to import
    from zsad_core.encoders import ClipEncoder
    from zsad_core.image_features import TileFeatures


FACTS = ("model_id", "weights_id", "weights_sha256", "precision", "temperature", "image_size", "grid", "dim")
FACTS += ("depth", "width", "has_class_token", "text_depth")


@dataclass(frozen=True, eq=False)
class KnownEncoder:
    """A `ClipEncoder` that is loaded when it computes. The `FACTS` about it, and so the keys of all that it
    has computed, are kept in `folder` under the digests of its files. options: of `load_encoder`."""

    options: dict[str, Any]
    folder: Path

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.facts[name] if name in FACTS else getattr(self._loaded, name)

    @cached_property
    def _loaded(self) -> ClipEncoder:
        from zsad_core.encoders import load_encoder  # here: see above

        return load_encoder(**self.options)

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The `FACTS`, and `device` as text."""
        model, weights = self.options["model"], self.options["weights"]
        given = [Path(name) for name in (model, weights) if name and Path(name).is_file()]
        shipped = [str(files("zsad_core") / f"weights/zsad-mini.{end}") for end in ("json", "safetensors")]
        digests = [sha256_of(path) for path in (*given, *(shipped if model == "zsad-mini" else ()))]
        key = content_key(**self.options, files=digests, facts=FACTS, open_clip=version("open_clip_torch"))
        path = self.folder / f"{key}.json"
        if not path.is_file():
            facts = {name: getattr(self._loaded, name) for name in FACTS}
            text = json.dumps(facts | {"device": str(self._loaded.device)})
            write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        facts = json.loads(path.read_text(encoding="utf-8"))
        return {name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()}


def encoder_of(settings: Settings, prefix: str = "") -> KnownEncoder:
    """The encoder that the parameters `model` and `weights` name. prefix: of these parameters' names."""
    options = {name: getattr(settings, prefix + name, None) for name in ("model", "weights", "image_size")}
    options |= {name: getattr(settings, name) for name in ("device", "precision", "seed")}
    return KnownEncoder(options, Path(settings.cache_dir) / "models")


def dataset_of(settings: Settings, dataset: str) -> AnomalyDataset | None:
    """The stand-in that `settings.datasets` names; None without one, or, with a warning, if not prepared."""
    name = settings.datasets.get(dataset)
    if name is not None and not is_prepared(settings, name):
        warnings.warn(missing(settings, [dataset])[0], stacklevel=2)
    return dataset_named(settings, name) if dataset in dataset_names(settings, [dataset]) else None


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
    """Embeddings of the stand-ins that are prepared, six views each; view 0 is the whole image."""
    from zsad_core.image_features import image_embeddings  # here: see above

    found = {dataset: images for dataset in datasets if (images := dataset_of(settings, dataset)) is not None}
    return {dataset: image_embeddings(encoder, own, settings.cache_dir) for dataset, own in found.items()}


def has_masks(dataset: AnomalyDataset) -> bool:
    return bool(((dataset.meta["label"] == 1) & (dataset.meta["mask"] != "")).any())
