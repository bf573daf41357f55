"""What a long run needs, looked at beforehand: device, weights, datasets, folders. Nothing is downloaded.

Each check is a line: what was looked at, how it stands, and what to do about it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import timm
import torch
from huggingface_hub import try_to_load_from_cache

import zsad_papers
from zsad_core.architectures import build, read_config
from zsad_core.cache import sha256_of
from zsad_core.checkpoints import CLIP_CACHE, PINNED_BACKBONES, Download, download_of, locate_weights
from zsad_core.datasets import AnomalyDataset, load_dataset
from zsad_core.encoders import _choose_device
from zsad_papers.common.data import missing
from zsad_papers.common.settings import Settings, folder_and_category

TIMEOUT = 5.0  # seconds that an address has to answer in
LEAST_FREE = 10**9  # bytes that any run leaves free
WORKING_MEMORY = 2 * 2**30  # bytes of activations, features and the libraries themselves, roughly
DECODED = 3  # images of each dataset that are read whole
MADE = ("mini_", "textile")
"""Datasets that `make book` makes itself begin so."""


@dataclass(frozen=True)
class Check:
    """state: ok, warning (the run goes on without something) or error (it would fail). note: what was found,
    and what to do."""

    what: str
    state: str
    note: str

    def __str__(self) -> str:
        return f"{self.state:8}{self.what}: {self.note}"


@dataclass(frozen=True)
class Weights:
    """present: whether a model's weights need no download. bytes: to be downloaded, as far as it is known."""

    check: Check
    present: bool
    bytes: int = 0


def check_device(settings: Settings) -> list[Check]:
    """The device, its precision, its memory; and what is left out for want of an optional package."""
    try:
        device = _choose_device(settings.device, settings.precision)
        torch.empty(1, device=device)
    except (ValueError, RuntimeError, AssertionError) as error:
        return [Check("device", "error", f"{error}")]
    cuda = device.type == "cuda"
    kind = torch.cuda.get_device_name(device) if cuda else f"{torch.get_num_threads()} threads"
    checks = [Check("device", "ok", f"{device} ({kind}), {settings.precision}")]
    try:
        parameters = max(map(_parameters, {settings.model, settings.prompt_model}))
    except (ValueError, FileNotFoundError) as error:
        return [*checks, Check("model", "error", str(error))]
    needed = 4 * parameters + WORKING_MEMORY
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    pools = {"memory": (installed, needed + 4 * parameters)}  # the file beside the model
    if cuda:
        pools["memory of the GPU"] = (torch.cuda.mem_get_info(device)[0], needed)
    for name, (there, wanted) in pools.items():
        note = f"{gigabytes(there)}, roughly {gigabytes(wanted)} needed for each process"
        checks.append(Check(name, "ok" if there >= wanted else "warning", note))
    if settings.backbone != "clip" and find_spec("anomalib") is None:
        note = "RD4AD is left out of AnomalyCLIP's Table 12: pip install '.[baselines]' brings it"
        checks.append(Check("anomalib", "warning", note))
    return checks


def _parameters(model: str) -> int:
    with torch.device("meta"):  # sizes without numbers
        return sum(p.numel() for p in build(read_config(model)[1]).parameters())


def models_of(settings: Settings) -> list[tuple[str, str | None]]:
    """(architecture, weights) of every CLIP that the profile names, each once."""
    others = [tuple(text.split()) for text in settings.clip_backbones.values()]
    own = [(settings.model, settings.weights), (settings.prompt_model, settings.prompt_weights)]
    return list(dict.fromkeys([*own, *others]))


def check_weights(settings: Settings, timeout: float = TIMEOUT) -> dict[tuple[str, str | None], Weights]:
    """By (architecture, weights), the network of the few-shot baselines last. Files that are there are
    compared with their checksum, the addresses of others are asked."""
    found: dict[tuple[str, str | None], Weights] = {}
    wanted: dict[tuple[str, str | None], Download] = {}
    for model, weights in models_of(settings):
        try:
            config = read_config(model)[1]
            download = _download(model, weights, config.get("quick_gelu", False))
            if download is None:
                source = locate_weights(model, weights, config.get("quick_gelu", False), settings.seed)
                found[model, weights] = _there(model, source.weights_id)
            elif _is_whole(download):
                found[model, weights] = _there(model, f"{weights} at {download.path}")
            else:
                wanted[model, weights] = download
        except (ValueError, OSError) as error:
            found[model, weights] = Weights(Check(f"weights of {model}", "error", str(error)), False)
    if settings.backbone != "clip":
        key = settings.backbone, settings.backbone_weights
        found_or_wanted = _backbone(*key)
        (wanted if isinstance(found_or_wanted, Download) else found)[key] = found_or_wanted
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = pool.map(lambda download: answer(download.url, timeout), wanted.values())
    found |= {key: _to_fetch(key, wanted[key], told) for key, told in zip(wanted, answers, strict=True)}
    return found


def _download(model: str, weights: str | None, quick_gelu: bool) -> Download | None:
    """None: weights that are files here already, or are drawn."""
    if weights in (None, "random") or Path(weights).expanduser().is_file():
        return None
    return download_of(model, weights, quick_gelu)


def _is_whole(download: Download) -> bool:
    path = download.path
    return path is not None and path.is_file() and sha256_of(path).startswith(download.sha256)


def _there(model: str, note: str) -> Weights:
    return Weights(Check(f"weights of {model}", "ok", note), True)


def _backbone(name: str, weights: str) -> Weights | Download:
    """Those of a timm network; errors as `backbones.load_backbone` gives them."""
    if weights == "random" or (weights.endswith(".safetensors") and Path(weights).expanduser().is_file()):
        return _there(name, weights)
    if f"{name}.{weights}" in PINNED_BACKBONES:
        url, expected = PINNED_BACKBONES[f"{name}.{weights}"]
        download = Download(url, CLIP_CACHE / url.rsplit("/", 1)[-1], expected)
        return _there(name, f"{weights} at {download.path}") if _is_whole(download) else download
    config = timm.get_pretrained_cfg(f"{name}.{weights}", allow_unregistered=False)
    if config is None or not config.hf_hub_id:
        note = f"no weights {weights!r} on the hub and no such .safetensors file: correct backbone_weights"
        return Weights(Check(f"weights of {name}", "error", note), False)
    cached = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    if isinstance(cached, str):
        return _there(name, f"{weights} at {cached}")
    return Download(f"https://huggingface.co/{config.hf_hub_id}/resolve/main/model.safetensors", None, "")


def answer(url: str, timeout: float = TIMEOUT) -> int | str:
    """Bytes that an address offers (0: it does not say), or why it does not answer. Nothing is read."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return int(response.headers.get("Content-Length") or 0)
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return str(reason) or type(error).__name__


def _to_fetch(key: tuple[str, str | None], download: Download, told: int | str) -> Weights:
    model, weights = key
    damaged = download.path is not None and download.path.is_file()
    what = f"{download.path} is damaged or another file; " if damaged else ""
    if isinstance(told, int):
        size = gigabytes(told) if told else "of a size that the address does not tell"
        note = f"{what}{weights}, {size}, will be downloaded from {download.url}"
        return Weights(Check(f"weights of {model}", "warning" if damaged else "ok", note), False, told)
    place = f"put it at {download.path}" if download.sha256 else "give the file's path in the profile"
    note = (
        f"{what}{weights} is not here and {download.url} does not answer ({told}): fetch it on another "
        f"machine and {place}"
    )
    return Weights(Check(f"weights of {model}", "error", note), False)


def check_datasets(settings: Settings) -> list[Check]:
    """One line for each dataset that stands in some place, and one for those that are not prepared."""
    places: dict[str, list[str]] = {}
    for role, name in settings.datasets.items():
        if name:
            places.setdefault(name, []).append(role)
    checks, loaded = [], {}
    for name, roles in places.items():
        folder, category = folder_and_category(name)
        lacking = missing(settings, roles[:1])
        if lacking and folder.startswith(MADE):
            checks.append(Check(f"dataset {name}", "ok", "not there yet: `make book` makes it"))
        elif lacking:
            checks.append(Check(f"dataset {name}", "warning", lacking[0]))
        else:
            try:
                if folder not in loaded:
                    loaded[folder] = load_dataset(Path(settings.data_dir) / folder)
                part = loaded[folder] if category is None else loaded[folder].select(category=category)
                checks += _check_dataset(settings, name, roles, part)
            except (ValueError, OSError) as error:
                checks.append(Check(f"dataset {name}", "error", str(error)))
    return checks or [Check("datasets", "warning", "the profile names none")]


def _check_dataset(
    settings: Settings, name: str, roles: Sequence[str], dataset: AnomalyDataset
) -> list[Check]:
    test = dataset.select(split="test")
    for i in {0, len(test) // 2, len(test) - 1} if len(test) >= DECODED else range(len(test)):
        test.image(i)
        test.mask(i)
    normal, anomalous = int((test.labels == 0).sum()), int((test.labels == 1).sum())
    note = f"{len(test.categories)} categories, {normal} normal and {anomalous} anomalous test images"
    checks = [Check(f"dataset {name}", "ok", note)]
    bare = int(((test.meta["label"] == 1) & (test.meta["mask"] == "")).sum())
    if 0 < bare < anomalous or (bare and {"mvtec", "visa"} & set(roles)):
        note = (
            f"{bare} of {anomalous} anomalous test images have no mask, so maps cannot be measured: add them"
        )
        checks.append(Check(f"masks of {name}", "error", note))
    shots = max(settings.shots if roles == ["visa"] else (*settings.shots, *settings.ablation_shots))
    if {"mvtec", "visa"} & set(roles):
        train = dataset.meta[dataset.meta["split"] == "train"]["category"].value_counts()
        few = [c for c in dataset.categories if train.get(c, 0) < shots]
        if few:
            note = f"fewer than {shots} normal training images in {', '.join(few)}: add some, or lower shots"
            checks.append(Check(f"references of {name}", "error", note))
    published = published_counts().get(name) if name in roles else None
    if published and published[:2] != (normal, anomalous):
        note = "{} normal and {} anomalous test images are published; prepared.json may know the reason"
        checks.append(Check(f"counts of {name}", "warning", note.format(*published)))
    if published and published[2] and bare == anomalous:
        checks.append(Check(f"masks of {name}", "warning", "none, though the papers measure its maps"))
    return checks


def published_counts() -> Mapping[str, tuple[int, int, bool]]:
    """By dataset: normal and anomalous test images, and whether it has masks."""
    frame = pd.read_csv(Path(zsad_papers.__file__).parent / "common" / "datasets.csv")
    columns = zip(frame["n_normal"], frame["n_anomalous"], frame["has_pixel_masks"] == 1, strict=True)
    return dict(zip(frame["dataset"], columns, strict=True))


def check_folders(settings: Settings, needed: Mapping[str, float], download: int = 0) -> list[Check]:
    """Whether the folders can be written, and what is free there against bytes needed by parameter (those of
    one file system together). download: bytes of weights."""
    places = {name: Path(getattr(settings, name)) for name in ("cache_dir", "results_dir", "data_dir")}
    places |= {"weights": CLIP_CACHE} if download else {}
    checks, sums, names = [], {}, {}
    for name, path in places.items():
        folder = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            note = f"{folder} cannot be written ({error}): give another folder, or the right to write there"
            checks.append(Check(name, "warning" if name == "data_dir" else "error", note))
            continue
        device = folder.stat().st_dev
        sums[device] = sums.get(device, 0) + (download if name == "weights" else needed.get(name, 0))
        names.setdefault(device, {})[name] = folder
    for device, folders in names.items():
        free, wanted = shutil.disk_usage(next(iter(folders.values()))).free, sums[device]
        note = f"{gigabytes(free)} free, {gigabytes(wanted)} needed"
        note += "" if needed else " besides what the run keeps, which was not estimated"
        state = "error" if free < wanted + LEAST_FREE else "warning" if free < 1.5 * wanted else "ok"
        note += "" if state == "ok" else ": free some space, or give cache_dir another disk"
        checks.append(Check(f"disk of {', '.join(folders)}", state, note))
    return checks


def gigabytes(number: float) -> str:
    """
    >>> gigabytes(1_500_000_000), gigabytes(2_000_000)
    ('1.5 GB', '2 MB')
    """
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
