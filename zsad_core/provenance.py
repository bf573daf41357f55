"""Where a number comes from: the line at the top of every page, and the same facts for the result files.

Nothing here depends on the time or the machine's name: two runs with the same seed write the same bytes.
"""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from zsad_core.settings import KINDS, Settings, read_settings, repository_root

PUBLISHED_ENCODERS = {
    "rwda": ("ViT-B-16-plus-240", "laion400m_e32"),
    "winclip": ("ViT-B-16-plus-240", "laion400m_e32"),
    "anomalyclip": ("ViT-L-14-336-quickgelu", "openai"),
}
"""The (architecture, weights tag) of each paper's main results."""

PACKAGES = ("torch", "open_clip_torch", "numpy", "scipy", "scikit-learn", "pandas")


class Encoder(Protocol):
    """What a run line needs to know of an encoder (see `zsad_core.encoders.ClipEncoder`)."""

    model_id: str
    weights_id: str


def run_line(
    settings: Settings,
    encoder: Encoder | None = None,
    datasets: Iterable[str] | None = None,
    *,
    paper: str = "rwda",
) -> str:
    """One line of Markdown: profile, weights, datasets, seeds and commit, and whether they are the paper's.

    encoder: the one in use, for its exact weights; None where a notebook needs none.
    datasets: names of those in use, each said once (default: every one of `settings.datasets`; empty when
        none is read).
    """
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
    parts += [_seeds(settings, paper), f"commit {commit()}"]
    return "This run: " + "; ".join(parts) + ". " + _verdict(settings, encoder, names, roles, paper)


def provenance(
    settings: Settings, encoder: Encoder | None = None, fingerprints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The facts that a result file carries, as plain JSON values. fingerprints: of the datasets, by name."""
    return {
        "profile": profile_name(settings),
        "parameters": _recorded(settings),
        "model": encoder.model_id if encoder else None,
        "weights": encoder.weights_id if encoder else None,
        "datasets": dict(fingerprints or {}),
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


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
    values = {name: getattr(settings, name) for name in KINDS if not name.endswith("_dir")}
    for name, value in values.items():
        if isinstance(value, tuple):
            values[name] = list(value)
        elif isinstance(value, str) and Path(value).is_absolute():
            values[name] = Path(value).name
    values["datasets"] = {role: dataset for role, dataset in settings.datasets.items() if dataset}
    return values | {"profile": profile_name(settings)}


def changed_parameters(settings: Settings) -> dict[str, Any]:
    """Parameters whose value is not the profile's; folders do not count."""
    usual = _recorded(read_settings({"profile": settings.profile}))
    return {name: value for name, value in _recorded(settings).items() if value != usual[name]}


def _verdict(
    settings: Settings,
    encoder: Encoder | None,
    names: list[str],
    roles: Mapping[str, list[str]],
    paper: str,
) -> str:
    model, weights = PUBLISHED_ENCODERS[paper]
    differs = []
    own = (settings.model, settings.weights)
    if paper == "anomalyclip":
        own = (settings.prompt_model, settings.prompt_weights)
    if encoder is not None and own != (model, weights):
        differs.append(f"the weights (the paper: {model}, {weights})")
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


def _seeds(settings: Settings, paper: str) -> str:
    """RWDA's seeds train networks; WinCLIP's only draw reference images; AnomalyCLIP trains once."""
    if paper == "anomalyclip":
        from zsad_core.recipes import Recipe  # here: other pages need not wait for torch

        return f"one training, seed {Recipe().seed}"
    draws = paper == "winclip"
    number = settings.reference_seeds if draws else settings.seeds
    last = settings.seed + number - 1
    seeds = f"seed {settings.seed}" if number == 1 else f"seeds {settings.seed} to {last}"
    return f"{seeds} for drawing reference images" if draws else seeds


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).split("+")[0]  # without the label of a CPU or CUDA build
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
