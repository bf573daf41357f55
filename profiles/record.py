"""What the record of a run says of its parameters and of its program."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "open_clip_torch", "numpy", "scipy", "scikit-learn", "pandas")


def recorded(value: Any) -> Any:
    """A parameter's value for a record: a tuple as a list, a file elsewhere by its name alone."""
    if isinstance(value, tuple):
        return list(value)
    elsewhere = isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute())
    return Path(value).name if elsewhere else value


def program_facts(root: Path) -> dict[str, Any]:
    """The commit of the checkout at `root`, and versions without the label of a CPU or CUDA build."""
    versions = {name: version(name).split("+")[0] for name in PACKAGES}
    return {"commit": commit(root), "versions": {"python": platform.python_version(), **versions}}


def commit(root: Path) -> str:
    """Twelve digits of the checkout's commit, '+changes' if tracked files differ; 'unknown' without git, and
    where this copy lies inside another project's repository."""
    describe = ("describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+changes")
    try:
        top, digits = (
            subprocess.run(["git", "-C", str(root), *command], check=True, capture_output=True, text=True)
            for command in (("rev-parse", "--show-toplevel"), describe)
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return digits.stdout.strip() if Path(top.stdout.strip()).resolve() == root.resolve() else "unknown"
