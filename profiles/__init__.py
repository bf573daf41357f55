"""Profiles: the parameters of a run, a YAML file each. What reads such a file stands here, for the notebooks
and for your own images."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml


def profile_path(profile: str, root: Path) -> Path:
    """The YAML file of a profile: a name in `root/profiles` or in this package, or a path, also one that
    starts at `root`. Raises FileNotFoundError naming those that exist."""
    is_file = profile.endswith((".yaml", ".yml"))
    folders = [root / "profiles", Path(__file__).parent]
    places = [Path(profile), root / profile] if is_file else [path / f"{profile}.yaml" for path in folders]
    for path in places:
        if path.is_file():
            return path
    known = ", ".join(sorted({path.stem for folder in folders for path in folder.glob("*.yaml")}))
    raise FileNotFoundError(
        f"unknown profile {profile!r}: expected one of {known}, or the path of a YAML file that exists"
    )


def read_values(path: Path) -> dict[str, Any]:
    """{name: value} of a profile's file. Raises ValueError for what is not valid YAML or no mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"profile {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"profile {path} must hold lines 'name: value', got {type(values).__name__}")
    return values


def refuse_unknown(names: Iterable[Any], known: Collection[str], where: str) -> None:
    """Raises ValueError for a name that is not known, with the parameter that was perhaps meant."""
    for name in sorted({str(name) for name in names} - set(known)):  # YAML has numbers as names too
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown parameter {name!r} in the {where}: {hint}Known: {', '.join(known)}")
