"""What `run.json` and the report tell of a run: options, weights, versions; never a machine's folder."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path

from zsad_core.cache import content_key
from zsad_core.encoders import ClipEncoder
from zsad_predict.options import ROOT, Options

PACKAGES = ("torch", "open_clip_torch", "numpy", "scipy", "scikit-learn", "pandas")


def run_facts(
    options: Options,
    encoder: ClipEncoder | None = None,
    files: Mapping[str, Collection[str]] | None = None,
    asked: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """Plain JSON values. files: digests of the files in each part of the run, of which a fingerprint is kept.
    asked: parameters besides the options."""
    return {
        "profile": Path(options.profile).stem,
        "parameters": {**_parameters(options), **(asked or {})},
        "model": encoder.model_id if encoder else None,
        "weights": encoder.weights_id if encoder else None,
        "weights_sha256": encoder.weights_sha256 if encoder else None,
        "device": str(encoder.device) if encoder else None,
        "precision": encoder.precision if encoder else None,
        "seed": options.seed,
        "datasets": {n: content_key(files=sorted(own)) for n, own in (files or {}).items() if own},
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    }


def _parameters(options: Options) -> dict[str, object]:
    """Tuples as lists, of an absolute path the name alone, no cache."""
    values = {name: value for name, value in asdict(options).items() if name != "cache_dir"}
    for name, value in values.items():
        if isinstance(value, tuple):
            values[name] = list(value)
        elif isinstance(value, str) and Path(value).is_absolute():
            values[name] = Path(value).name
    return values | {"profile": Path(options.profile).stem}


def commit() -> str:
    """Twelve digits of the checkout's commit, '+changes' if tracked files differ; 'unknown' without git."""
    try:
        if Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return "unknown"  # this copy lies inside some other project's repository
        digits = _git("rev-parse", "--short=12", "HEAD")
        changes = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return digits + ("+changes" if changes else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).split("+")[0]  # without the label of a CPU or CUDA build
    except importlib.metadata.PackageNotFoundError:
        return None
