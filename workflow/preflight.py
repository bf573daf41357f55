"""`zsad check`: checks before a long run: device, weights, datasets, folders.

    zsad check --profile paper
    zsad check --profile paper -p limit_images 10 -p cache_dir elsewhere

Each check is a line: ok, warning (the run leaves something out) or error (it would fail), the subject, the
result, and what to do. Nothing is downloaded. Exit code 0: the run can start; 1: it cannot.
"""

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
from zsad_predict.options import caveat

CLIP_CACHE = Path("~/.cache/clip").expanduser()  # where open_clip keeps what it downloads


class Check(NamedTuple):
    what: str
    state: str  # ok, warning or error
    note: str  # what was found, and what to do

    def __str__(self) -> str:
        return f"{self.state:8}{self.what}: {self.note}"


def check_device(settings: Settings) -> Iterator[Check]:
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
            note = find(model, weights)
            about = f"{weights or 'shipped'}: {note}"
            yield Check(f"weights of {model}", "ok", ". ".join(filter(None, [about, caveat(model, note)])))
        except (ValueError, OSError) as error:
            yield Check(f"weights of {model}", "error", str(error))


def _clip_weights(model: str, weights: str | None, seed: int) -> str:
    """Where the weights are, or will come from. Raises ValueError as `locate_weights`."""
    quick_gelu = read_config(model)[1].get("quick_gelu", False)
    if weights in (None, "random") or Path(weights).expanduser().is_file():
        return locate_weights(model, weights, quick_gelu, seed).weights_id
    config = config_of_tag(model, weights, quick_gelu)
    repository, _, name = (config.get("hf_hub") or "").rpartition("/")
    names = ("open_clip_model.safetensors", name or "open_clip_pytorch_model.bin")  # as open_clip looks
    return _kept_or_offered((model, weights), config.get("url", ""), repository, names)


def _backbone_weights(name: str, weights: str) -> str:
    """As `_clip_weights`, of a timm network; errors as `backbones.load_backbone` gives them."""
    if (name, weights) == (LITE0, PACKAGE):
        return str(packaged_weights())
    if weights == "random" or Path(weights).expanduser().is_file():
        return "here"
    config = timm.get_pretrained_cfg(f"{name}.{weights}", allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        found = f"no weights {weights!r} on the hub and no such file"
        raise ValueError(f"{found}: correct backbone_weights")
    return _kept_or_offered((name, weights), "", config.hf_hub_id, ("model.safetensors",))


def _kept_or_offered(key: tuple[str, str], url: str, repository: str, names: Sequence[str]) -> str:
    """Where the file is kept or offered: the pinned one, that at `url`, else the first of the names in a
    repository of the hub that is here, or the last one. OSError if there is none."""
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
        found = f"{damaged}the weights are not here and {url} does not answer ({error})"
        raise OSError(f"{found}: fetch them on another machine and {place}") from error


def size_of(url: str) -> str:
    """A phrase on the file at an address. OSError if it does not answer."""
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5) as response:
        size = int(response.headers.get("Content-Length") or 0)
    return f"{size / 1e6:.0f} MB" if size else "a file of unknown size"


def check_datasets(settings: Settings) -> Iterator[Check]:
    stand_ins = datasets_by_stand_in(settings)
    for name, own in stand_ins.items():
        lacking = missing(settings, own[:1])
        if lacking and name.startswith(("mini_", "textile")):
            yield Check(f"dataset {name}", "ok", "not there yet: `make book` makes it")
        elif lacking:
            yield Check(f"dataset {name}", "warning", lacking[0])
        else:
            yield from _check_dataset(settings, name, own)
    if not stand_ins:
        yield Check("datasets", "warning", "the profile names none")


def _check_dataset(settings: Settings, name: str, datasets: Sequence[str]) -> Iterator[Check]:
    try:
        images = dataset_named(settings, name, limit=False)
        test = images.select(split="test")
        for i in {0, len(test) // 2, len(test) - 1}:
            _ = test.image(i), test.mask(i)
    except (ValueError, OSError) as error:
        yield Check(f"dataset {name}", "error", str(error))
        return
    normal, anomalous = int((test.labels == 0).sum()), int((test.labels == 1).sum())
    note = f"{len(test.categories)} categories, {normal} normal and {anomalous} anomalous test images"
    yield Check(f"dataset {name}", "ok", note)
    compared = "mvtec" in datasets or "visa" in datasets  # with references, and by their maps
    bare = int(((test.meta["label"] == 1) & (test.meta["mask"] == "")).sum())
    if 0 < bare < anomalous or (bare and compared):
        note = f"{bare} of {anomalous} anomalous test images have no mask, so maps cannot be measured"
        yield Check(f"masks of {name}", "error", f"{note}: add them")
    elif bare and pd.read_csv(PUBLISHED, index_col="dataset")["has_pixel_masks"].get(name) == 1:
        yield Check(f"masks of {name}", "warning", "none, though the papers measure its maps")
    shots = max(settings.shots if datasets == ["visa"] else (*settings.shots, *settings.ablation_shots))
    train = (images.meta["split"] == "train").groupby(images.meta["category"], sort=False).sum()
    if compared and (few := ", ".join(train.index[train < shots])):
        note = f"fewer than {shots} normal training images in {few}: add some, or lower shots"
        yield Check(f"references of {name}", "error", note)


def check_folders(settings: Settings) -> Iterator[Check]:
    for name in ("cache_dir", "results_dir", "data_dir"):
        path = Path(getattr(settings, name)).absolute()
        folder = next(p for p in (path, *path.parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                free = shutil.disk_usage(folder).free
            advice = "" if free >= 1e9 else f": free some space, or give {name} another disk"
            yield Check(name, "error" if advice else "ok", f"{free / 1e9:.1f} GB free in {folder}{advice}")
        except OSError as error:
            note = f"{folder} cannot be written ({error}): give another folder, or the right to write there"
            yield Check(name, "warning" if name == "data_dir" else "error", note)


def check_all(settings: Settings) -> Iterator[Check]:
    yield Check("profile", "ok", f"{settings.profile}, every parameter is valid")
    for check in (check_device, check_weights, check_datasets, check_folders):
        yield from check(settings)


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
