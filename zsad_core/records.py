"""What a notebook leaves behind: its numbers as a CSV file, and where they come from as a JSON file beside
it.

Both hold nothing that depends on time or machine, so two runs with the same seed write the same bytes. What
does depend on them goes to the folder `times`, which is not compared: measured times (`write_times`), and of
each record when it was made, in how many seconds and on what.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from zsad_core.cache import write_atomically
from zsad_core.embeddings import Embedded
from zsad_core.encoders import ClipEncoder
from zsad_core.provenance import provenance, run_facts
from zsad_core.results import read_results, write_results
from zsad_core.settings import Settings


def write_record(
    name: str,
    frame: pd.DataFrame,
    settings: Settings,
    encoder: ClipEncoder | None = None,
    images: Iterable[Embedded] = (),
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
