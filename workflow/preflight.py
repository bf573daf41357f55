"""`zsad check`: checks before a long run: device, weights, datasets, folders.

    zsad check --profile paper
    zsad check --profile paper -p limit_images 10 -p cache_dir elsewhere

Each check is a line: ok, warning (the run leaves something out) or error (it would fail), the subject, the
result, and what to do. Nothing is downloaded. Exit code 0: the run can start; 1: it cannot.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import click
import pandas as pd
import timm
import torch
import yaml
from huggingface_hub import hf_hub_url, try_to_load_from_cache

from data_scripts.source import PUBLISHED
from zsad_core.cache import sha256_of
from zsad_core.checkpoints import PINNED, config_of_tag, locate_weights, read_config
from zsad_papers.baselines.backbones import LITE0, PACKAGE, packaged_weights
from zsad_papers.common.data import dataset_named, datasets_by_stand_in, missing
from zsad_papers.common.settings import Settings, read_settings

CLIP_CACHE = Path("~/.cache/clip").expanduser()  # where open_clip keeps what it downloads
TIMEOUT = 5.0  # seconds that an address has to answer in
LEAST_FREE = 10**9  # bytes that must stay free
MADE = ("mini_", "textile")  # datasets with these prefixes are made by `make book`
WITH_REFERENCES = {"mvtec", "visa"}  # datasets with reference images and measured maps


class Check(NamedTuple):
    """state: ok, warning or error. note: what was found, and what to do."""

    what: str
    state: str
    note: str

    def __str__(self) -> str:
        return f"{self.state:8}{self.what}: {self.note}"


def check_all(settings: Settings) -> Iterator[Check]:
    yield Check("profile", "ok", f"{settings.profile}, every parameter is valid")
    for check in (check_device, check_weights, check_datasets, check_folders):
        yield from check(settings)


def check_device(settings: Settings) -> Iterator[Check]:
    """Whether the device is there, and what is left out because an optional package is missing."""
    try:
        torch.empty(1, device="cpu" if settings.device == "auto" else settings.device)
        yield Check("device", "ok", f"{settings.device}, {settings.precision}")
    except (RuntimeError, AssertionError) as error:
        yield Check("device", "error", str(error).splitlines()[0])
    if settings.backbone not in ("clip", LITE0) and find_spec("anomalib") is None:
        note = "RD4AD is left out of AnomalyCLIP's Table 12: pip install '.[baselines]' brings it"
        yield Check("anomalib", "warning", note)


def check_weights(settings: Settings) -> Iterator[Check]:
    """A line a model. Files that are here are compared with their checksum, other addresses are tried."""
    clips = [tuple(text.split()) for text in settings.clip_backbones.values()]
    clips = [(settings.model, settings.weights), (settings.prompt_model, settings.prompt_weights), *clips]
    finders = dict.fromkeys(clips, partial(_clip_weights, seed=settings.seed))
    if settings.backbone != "clip":
        finders[settings.backbone, settings.backbone_weights] = _backbone_weights
    for (model, weights), find in finders.items():
        try:
            yield Check(f"weights of {model}", "ok", f"{weights or 'shipped'}: {find(model, weights)}")
        except (ValueError, OSError) as error:
            yield Check(f"weights of {model}", "error", str(error))


def _clip_weights(model: str, weights: str | None, seed: int) -> str:
    """Where the weights are, or will come from. Raises ValueError as `locate_weights`."""
    quick_gelu = read_config(model)[1].get("quick_gelu", False)
    if weights in (None, "random") or Path(weights).expanduser().is_file():
        return locate_weights(model, weights, quick_gelu, seed).weights_id
    config = config_of_tag(model, weights, quick_gelu)
    repository, name = os.path.split(config.get("hf_hub") or "")
    # the order in which open_clip looks
    names = ("open_clip_model.safetensors", name or "open_clip_pytorch_model.bin")
    return _kept_or_offered((model, weights), config.get("url", ""), repository, names)


def _backbone_weights(name: str, weights: str) -> str:
    """As `_clip_weights`, of a timm network; errors as `backbones.load_backbone` gives them."""
    if (name, weights) == (LITE0, PACKAGE):
        return str(packaged_weights())
    if weights == "random" or (weights.endswith(".safetensors") and Path(weights).expanduser().is_file()):
        return "here"
    config = timm.get_pretrained_cfg(f"{name}.{weights}", allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        raise ValueError(
            f"no weights {weights!r} on the hub and no such .safetensors file: correct backbone_weights"
        )
    return _kept_or_offered((name, weights), "", config.hf_hub_id, ("model.safetensors",))


def _kept_or_offered(key: tuple[str, str], url: str, repository: str, names: Sequence[str]) -> str:
    """The path or the address of the pinned file, or of that at `url`; of a repository of the hub, of the
    first of the names that is here, else of the last one. OSError if it is neither here nor available."""
    url, sha256 = PINNED.get(key, (url, ""))
    if url:
        places = [CLIP_CACHE / url.rsplit("/", 1)[-1]]
    else:
        url = hf_hub_url(repository, names[-1])
        cached = (try_to_load_from_cache(repository, name) for name in names)
        places = [Path(path) for path in cached if isinstance(path, str)]
    path = next((place for place in places if place.is_file()), None)
    if path and sha256_of(path).startswith(sha256):
        return str(path)
    damaged = f"{path} is damaged or another file; " if path else ""
    try:
        return f"{damaged}{size_of(url)} will be downloaded from {url}"
    except OSError as error:
        place = f"put it at {places[0]}" if sha256 else "give the file's path in the profile"
        raise OSError(
            f"{damaged}the weights are not here and {url} does not answer ({error}): "
            f"fetch them on another machine and {place}"
        ) from error


def size_of(url: str) -> str:
    """A phrase on the file at an address. OSError if it does not answer."""
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=TIMEOUT) as response:
        size = int(response.headers.get("Content-Length") or 0)
    return f"{size / 1e6:.0f} MB" if size else "a file of unknown size"


def check_datasets(settings: Settings) -> Iterator[Check]:
    """One line or more for each prepared dataset that stands in for one of the papers'."""
    stand_ins = datasets_by_stand_in(settings)
    for name, own in stand_ins.items():
        lacking = missing(settings, own[:1])
        if lacking and name.startswith(MADE):
            yield Check(f"dataset {name}", "ok", "not there yet: `make book` makes it")
        elif lacking:
            yield Check(f"dataset {name}", "warning", lacking[0])
        else:
            try:
                yield from _check_dataset(settings, name, own)
            except (ValueError, OSError) as error:
                yield Check(f"dataset {name}", "error", str(error))
    if not stand_ins:
        yield Check("datasets", "warning", "the profile names none")


def _check_dataset(settings: Settings, name: str, datasets: Sequence[str]) -> Iterator[Check]:
    images = dataset_named(settings, name, limit=False)
    test = images.select(split="test")
    for i in {0, len(test) // 2, len(test) - 1} & set(range(len(test))):
        test.image(i)
        test.mask(i)
    normal, anomalous = int((test.labels == 0).sum()), int((test.labels == 1).sum())
    note = f"{len(test.categories)} categories, {normal} normal and {anomalous} anomalous test images"
    yield Check(f"dataset {name}", "ok", note)
    compared = bool(WITH_REFERENCES & set(datasets))
    bare = int(((test.meta["label"] == 1) & (test.meta["mask"] == "")).sum())
    if 0 < bare < anomalous or (bare and compared):
        note = f"{bare} of {anomalous} anomalous test images have no mask, so maps cannot be measured"
        yield Check(f"masks of {name}", "error", f"{note}: add them")
    shots = max(settings.shots if datasets == ["visa"] else (*settings.shots, *settings.ablation_shots))
    train = images.meta[images.meta["split"] == "train"]["category"].value_counts()
    few = [category for category in images.categories if train.get(category, 0) < shots]
    if compared and few:
        note = f"fewer than {shots} normal training images in {', '.join(few)}: add some, or lower shots"
        yield Check(f"references of {name}", "error", note)
    for known in pd.read_csv(PUBLISHED).query("dataset == @name and dataset in @datasets").itertuples():
        if (known.n_normal, known.n_anomalous) != (normal, anomalous):
            note = f"published are {known.n_normal} normal and {known.n_anomalous} anomalous test images"
            yield Check(f"counts of {name}", "warning", f"{note}; prepared.json may know the reason")
        if known.has_pixel_masks == 1 and bare == anomalous:
            yield Check(f"masks of {name}", "warning", "none, though the papers measure its maps")


def check_folders(settings: Settings) -> Iterator[Check]:
    """Whether the folders can be written, and what is free there."""
    for name in ("cache_dir", "results_dir", "data_dir"):
        path = Path(getattr(settings, name)).absolute()
        folder = next(p for p in (path, *path.parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
        except OSError as error:
            note = f"{folder} cannot be written ({error}): give another folder, or the right to write there"
            yield Check(name, "warning" if name == "data_dir" else "error", note)
            continue
        advice = "" if free >= LEAST_FREE else f": free some space, or give {name} another disk"
        yield Check(name, "error" if advice else "ok", f"{free / 1e9:.1f} GB free in {folder}{advice}")


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.option("--profile", default="mini", help="A name in profiles/, or a YAML file.")
@click.option("-p", "given", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter, as YAML.")
@click.option("--quiet", is_flag=True, help="Only the checks that are not ok.")
def main(profile: str, given: Sequence[tuple[str, str]], quiet: bool) -> None:
    try:
        values = {name: yaml.safe_load(text) for name, text in given}
        checks = list(check_all(read_settings({**values, "profile": profile})))
    except (ValueError, OSError, yaml.YAMLError) as error:
        checks = [Check("profile", "error", str(error))]
    for check in checks:
        if check.state != "ok" or not quiet:
            print(check)
    if errors := sum(check.state == "error" for check in checks):
        sys.exit(f"\n{errors} of the checks say that the run would fail.")


if __name__ == "__main__":
    main()
