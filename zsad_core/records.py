"""What a notebook leaves behind: its numbers as a CSV file, and where they come from as a JSON file beside
it.

Both hold nothing that depends on time or machine, so two runs with the same seed write the same bytes. Times
go to a file of their own (`write_times`), which is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from zsad_core.cache import write_atomically
from zsad_core.embeddings import Embedded
from zsad_core.encoders import ClipEncoder
from zsad_core.provenance import provenance
from zsad_core.results import read_results, write_results
from zsad_core.settings import Settings


def write_record(
    name: str,
    frame: pd.DataFrame,
    settings: Settings,
    encoder: ClipEncoder | None = None,
    images: Iterable[Embedded] = (),
) -> None:
    """Writes `<results_dir>/<name>.csv`, the rows, and `<name>.json`, their provenance."""
    folder = Path(settings.results_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_results(frame, folder / f"{name}.csv")
    facts = provenance(settings, encoder, {part.name: part.fingerprint for part in images})
    text = json.dumps(facts, indent=1, sort_keys=True) + "\n"
    write_atomically(folder / f"{name}.json", lambda path: path.write_text(text, encoding="utf-8"))


def write_times(name: str, frame: pd.DataFrame, settings: Settings) -> None:
    """Writes measured times to `<results_dir>/times/<name>.csv`: a run's own, never the same twice."""
    folder = Path(settings.results_dir) / "times"
    folder.mkdir(parents=True, exist_ok=True)
    write_results(frame, folder / f"{name}.csv")


def read_records(settings: Settings, times: bool = True) -> pd.DataFrame | None:
    """All rows that this profile's notebooks have written; None if there are none yet."""
    folder = Path(settings.results_dir)
    paths = sorted(folder.glob("*.csv")) + (sorted((folder / "times").glob("*.csv")) if times else [])
    return read_results(paths) if paths else None
