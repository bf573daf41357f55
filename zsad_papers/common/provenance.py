"""Where a number comes from: the line at the top of every page, and the same facts for the result files.

`provenance` depends neither on the time nor on the machine's name: two runs with the same seed write the same
bytes. What differs from run to run is in `run_facts`.
"""

from __future__ import annotations

import html
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import psutil

from zsad_core.cache import write_atomically
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import TileFeatures
from zsad_papers import all_papers
from zsad_papers.common.paper import Paper
from zsad_papers.common.results import read_results, write_results
from zsad_papers.common.settings import Settings, read_settings, repository_root

PACKAGES = ("torch", "open_clip_torch", "numpy", "scipy", "scikit-learn", "pandas")


class Encoder(Protocol):
    """What is recorded of an encoder (see `zsad_core.encoders.ClipEncoder`)."""

    model_id: str
    weights_id: str
    weights_sha256: str | None
    device: Any
    precision: str


def run_line(
    settings: Settings,
    encoder: Encoder | None = None,
    datasets: Iterable[str] | None = None,
    *,
    paper: str | None = None,
) -> str:
    """Markdown: a line with profile, weights, datasets, seeds and commit, and whether they are the paper's;
    below it, folded, the rest of `provenance` and `run_facts`.

    encoder: the one in use, for its exact weights; None where a notebook needs none.
    paper: the one whose encoder and seeds are named (default: the book's first).
    datasets: names of those in use, each said once (default: every one of `settings.datasets`; empty when
        none is read).
    """
    of = all_papers()[paper or next(iter(all_papers()))]
    roles: dict[str, list[str]] = {}
    for role, dataset in settings.datasets.items():
        if dataset:
            roles.setdefault(dataset, []).append(role)
    names = list(dict.fromkeys(roles if datasets is None else datasets))
    parts = [f"profile **{profile_name(settings)}**"]
    changed = changed_parameters(settings)
    if changed:
        parts[0] += " with " + ", ".join(f"{name} = {value!r}" for name, value in changed.items())
    if encoder is not None:
        parts.append(f"model {encoder.model_id}, weights {encoder.weights_id}")
    if names:
        parts.append("datasets " + ", ".join(_with_roles(name, roles.get(name, [])) for name in names))
    parts += [of.seeds(settings), f"commit {commit()}"]
    line = "This run: " + "; ".join(parts) + ". " + _verdict(settings, encoder, names, roles, of)
    facts = provenance(settings, encoder, _fingerprints(settings, names)) | run_facts()
    return f"{line}\n\n{folded(facts)}"


def provenance(
    settings: Settings, encoder: Encoder | None = None, fingerprints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The facts that a result file carries, as plain JSON values. fingerprints: of the datasets, by name."""
    return {
        "profile": profile_name(settings),
        "parameters": _recorded(settings),
        "model": encoder.model_id if encoder else None,
        "weights": encoder.weights_id if encoder else None,
        "weights_sha256": encoder.weights_sha256 if encoder else None,
        "device": str(encoder.device) if encoder else None,
        "precision": encoder.precision if encoder else None,
        "seed": settings.seed,
        "datasets": dict(fingerprints or {}),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def run_facts() -> dict[str, Any]:
    """What no other run shares: when this process started (UTC), its seconds so far, and the kind of machine,
    without its name."""
    started = psutil.Process().create_time()
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{_gpu()}",
    }


def _gpu() -> str:
    import torch  # here: pages without a model need not wait for it

    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def _fingerprints(settings: Settings, names: Iterable[str]) -> dict[str, str]:
    """Of the datasets of these names that are prepared."""
    from zsad_papers.common.data import dataset_named, is_prepared  # here: it needs torch

    return {name: dataset_named(settings, name).fingerprint for name in names if is_prepared(settings, name)}


def folded(facts: Mapping[str, Any]) -> str:
    """A table that opens with a click and scrolls in its place; what the line above it says is left out."""
    shown = {name: value for name, value in facts.items() if name not in ("profile", "parameters")}
    rows = "".join(
        f"<tr><th scope='row'>{html.escape(name.replace('_', ' '))}</th><td>{_cell(value)}</td></tr>"
        for name, value in shown.items()
    )
    region = '<div role="region" aria-label="Provenance" tabindex="0" style="overflow-x: auto">'
    return f"<details><summary>Provenance</summary>{region}<table>{rows}</table></div></details>"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return "<br>".join(html.escape(f"{name}: {part}") for name, part in value.items()) or "none"
    return "none" if value is None else html.escape(str(value))


def commit() -> str:
    """Twelve digits of the checkout's commit, '+changes' if tracked files differ; 'unknown' without git."""
    root = repository_root()
    try:
        top = _git(root, "rev-parse", "--show-toplevel")
        if Path(top).resolve() != root.resolve():  # this copy lies inside some other project's repository
            return "unknown"
        digits = _git(root, "rev-parse", "--short=12", "HEAD")
        changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return digits + ("+changes" if changes else "")


def profile_name(settings: Settings) -> str:
    """The profile's name; of a YAML file its name alone, since no machine's path is recorded."""
    return Path(settings.profile).stem if settings.profile.endswith((".yaml", ".yml")) else settings.profile


def _recorded(settings: Settings) -> dict[str, Any]:
    """The parameters for a record: without folders, of `datasets` the places that are taken, tuples as lists,
    of an absolute path the name alone."""
    values = {name: getattr(settings, name) for name in vars(settings) if not name.endswith("_dir")}
    for name, value in values.items():
        if isinstance(value, tuple):
            values[name] = list(value)
        elif isinstance(value, str) and Path(value).is_absolute():
            values[name] = Path(value).name
    values["datasets"] = {role: dataset for role, dataset in settings.datasets.items() if dataset}
    return values | {"profile": profile_name(settings)}


def changed_parameters(settings: Settings) -> dict[str, Any]:
    """Parameters whose value is not the profile's; folders do not count."""
    usual = _recorded(read_settings({"profile": settings.profile}, type(settings)))
    return {name: value for name, value in _recorded(settings).items() if value != usual[name]}


def _verdict(
    settings: Settings,
    encoder: Encoder | None,
    names: list[str],
    roles: Mapping[str, list[str]],
    paper: Paper,
) -> str:
    differs = []
    own = tuple(getattr(settings, name) for name in paper.encoder_parameters)
    if encoder is not None and own != paper.encoder:
        differs.append(f"the weights (the paper: {', '.join(paper.encoder)})")
    if any(roles.get(name) != [name] for name in names):
        differs.append("the data")
    if settings.limit_images is not None and names:
        differs.append(f"the number of images (at most {settings.limit_images} a category and label)")
    if not differs:
        return "" if encoder is None and not names else "Weights and datasets are those that the paper names."
    return f"Not the paper's: {' and '.join(differs)}. So no number measured here reproduces a published one."


def _with_roles(name: str, roles: list[str]) -> str:
    if roles in ([], [name]):
        return name
    places = " and ".join(part for part in (", ".join(roles[:-1]), roles[-1]) if part)
    return f"{name} (in the place of {places})"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).split("+")[0]  # without the label of a CPU or CUDA build
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write_record(
    name: str,
    frame: pd.DataFrame,
    settings: Settings,
    encoder: ClipEncoder | None = None,
    images: Iterable[TileFeatures] = (),
) -> None:
    """Writes the rows to `<results_dir>/<name>.csv`, their provenance to `<name>.json` and
    `times/<name>.json`."""
    folder = Path(settings.results_dir)
    write_results(frame, folder / f"{name}.csv")
    _write_json(
        folder / f"{name}.json", provenance(settings, encoder, {p.name: p.fingerprint for p in images})
    )
    _write_json(folder / "times" / f"{name}.json", run_facts())


def write_times(name: str, frame: pd.DataFrame, settings: Settings) -> None:
    """Writes measured times to `<results_dir>/times/<name>.csv`: a run's own, never the same twice."""
    write_results(frame, Path(settings.results_dir) / "times" / f"{name}.csv")


def read_records(settings: Settings, times: bool = True) -> pd.DataFrame | None:
    """All rows that this profile's notebooks have written; None if there are none yet."""
    folder = Path(settings.results_dir)
    paths = sorted(folder.glob("*.csv")) + (sorted((folder / "times").glob("*.csv")) if times else [])
    return read_results(paths) if paths else None


def _write_json(path: Path, facts: dict[str, Any]) -> None:
    text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
