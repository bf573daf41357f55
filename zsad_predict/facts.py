"""The provenance in `run.json` and in the report: options, weights, versions, and no folder of the
machine."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from zsad_core.encoders import ClipEncoder
from zsad_predict.options import ROOT, Options

PACKAGES = ("torch", "open_clip_torch", "numpy", "scipy", "scikit-learn", "pandas")


def run_facts(options: Options, encoder: ClipEncoder | None = None, **more: object) -> dict[str, Any]:
    """Plain JSON values. more: parameters besides the options. Of an absolute path the name alone is kept."""
    parameters = {**options.model_dump(mode="json", exclude={"cache_dir"}), **more}
    for name, value in parameters.items():
        if isinstance(value, Path) or isinstance(value, str) and Path(value).is_absolute():
            parameters[name] = Path(value).name
    return {
        "profile": Path(options.profile).stem,
        "parameters": parameters,
        "model": encoder.model_id if encoder else None,
        "weights": encoder.weights_id if encoder else None,
        "weights_sha256": encoder.weights_sha256 if encoder else None,
        "device": str(encoder.device) if encoder else None,
        "precision": options.precision,
        "seed": options.seed,
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def commit() -> str:
    """Twelve digits of the checkout's commit, '+changes' if tracked files differ; 'unknown' without git."""
    if not ((ROOT / ".git").exists() and shutil.which("git")):
        return "unknown"
    command = [
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--abbrev=12",
        "--exclude=*",
        "--dirty=+changes",
    ]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package).split("+")[0]  # without the label of a CPU or CUDA build
    except importlib.metadata.PackageNotFoundError:
        return None
