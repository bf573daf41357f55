"""Where a number comes from: a line at the top of every page, and facts for the result files. `provenance` is
the same for two runs with one seed; what differs from run to run is in `run_facts`."""

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from profiles.record import commit, program_facts, recorded
from zsad_core.cache import write_atomically
from zsad_core.datasets import AnomalyDataset
from zsad_papers.common import data
from zsad_papers.common.data import KnownEncoder
from zsad_papers.common.paper import Paper
from zsad_papers.common.results import read_results, write_results
from zsad_papers.common.settings import Settings, read_settings, repository_root
from zsad_papers.common.tables import as_table


def run_line(
    settings: Settings,
    encoder: KnownEncoder | None = None,
    datasets: Iterable[str] | None = None,
    paper: Paper | None = None,
) -> str:
    """Markdown: a line with profile, weights, datasets, seeds and commit, and whether they are the paper's;
    below it, folded, the rest of `provenance` and `run_facts`. datasets: names of those in use; None: all."""
    published = data.datasets_by_stand_in(settings)
    names = list(dict.fromkeys(published if datasets is None else datasets))
    usual = _recorded(read_settings({"profile": settings.profile}, type(settings)))
    changed = [f"{name} = {own!r}" for name, own in _recorded(settings).items() if own != usual[name]]
    changed = f" with {', '.join(changed)}" if changed else ""
    parts = [f"profile **{profile_name(settings)}**{changed}"]
    if encoder is not None:
        parts.append(f"model {encoder.model_id}, weights {encoder.weights_id}")
    if names:
        parts.append("datasets " + ", ".join(data.described(name, published.get(name, [])) for name in names))
    parts += [*([paper.seeds(settings)] if paper else []), f"commit {commit(repository_root())}"]
    line = f"This run: {'; '.join(parts)}. "
    differs = []
    if paper and encoder is not None and paper.encoder_in(settings) != paper.encoder:
        differs.append(f"the weights (the paper: {', '.join(paper.encoder)})")
    if any(published.get(name) != [name] for name in names):
        differs.append("the data")
    if settings.limit_images is not None and names:
        differs.append(f"the number of images (at most {settings.limit_images} a category and label)")
    if differs:
        line += f"Not the paper's: {' and '.join(differs)}. "
        line += "So no number measured here reproduces a published one."
    elif names or encoder is not None:
        line += "Weights and datasets are those that the paper names."
    there = (name for name in names if data.is_prepared(settings, name))
    fingerprints = {name: data.dataset_named(settings, name).fingerprint for name in there}
    return f"{line}\n\n{folded(provenance(settings, encoder, fingerprints) | run_facts())}"


def provenance(
    settings: Settings, encoder: KnownEncoder | None = None, fingerprints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The facts that a result file carries, as plain JSON values. fingerprints: of the datasets, by name."""
    return {
        "profile": profile_name(settings),
        "parameters": _recorded(settings),
        "model": encoder and encoder.facts["model_id"],
        "weights": encoder and encoder.facts["weights_id"],
        **{name: encoder and encoder.facts[name] for name in ("weights_sha256", "device", "precision")},
        "seed": settings.seed,
        "datasets": dict(fingerprints or {}),
        **program_facts(repository_root()),
    }


def run_facts() -> dict[str, Any]:
    """Of this run only: the start (UTC), seconds so far, and the kind of machine, without its name."""
    started, gpu = psutil.Process().create_time(), ""
    if "torch" in sys.modules:  # a page that imports none uses no GPU
        cuda = sys.modules["torch"].cuda
        gpu = f", {cuda.get_device_name()}" if cuda.is_available() else ""
    return {
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores{gpu}",
    }


def folded(facts: Mapping[str, Any]) -> str:
    """A table that opens with a click; what the line above it says is left out."""
    rest = {name: fact for name, fact in facts.items() if name not in ("profile", "parameters")}
    shown = pd.json_normalize(rest, sep=": ")
    table = as_table(shown.astype("object").T.set_axis(["value"], axis=1), "What was run", digits=1)
    return f"<details><summary>Provenance</summary>{table.html}</details>"


def profile_name(settings: Settings) -> str:
    """The profile's name, or a YAML file's name without its folder: no path of a machine is recorded."""
    return Path(settings.profile).stem if settings.profile.endswith((".yaml", ".yml")) else settings.profile


def _recorded(settings: Settings) -> dict[str, Any]:
    """Parameters without folders, allow_missing, datasets that have no stand-in; paths cut to the name."""
    apart = ("_dir", "allow_missing")
    values = {name: recorded(value) for name, value in vars(settings).items() if not name.endswith(apart)}
    values["datasets"] = {place: dataset for place, dataset in settings.datasets.items() if dataset}
    return values | {"profile": profile_name(settings)}


def write_record(
    name: str,
    rows: pd.DataFrame,
    settings: Settings,
    encoder: KnownEncoder | None = None,
    datasets: Iterable[AnomalyDataset] = (),
) -> None:
    """Writes rows to `<results_dir>/<name>.csv`, provenance to `<name>.json` and `times/<name>.json`."""
    folder = Path(settings.results_dir)
    write_results(rows, folder / f"{name}.csv")
    facts = provenance(settings, encoder, {dataset.name: dataset.fingerprint for dataset in datasets})
    for path, values in ((folder / f"{name}.json", facts), (folder / "times" / f"{name}.json", run_facts())):
        text = json.dumps(values, indent=1, sort_keys=True) + "\n"
        write_atomically(path, lambda temporary, text=text: temporary.write_text(text, encoding="utf-8"))


def read_records(settings: Settings) -> pd.DataFrame | None:
    """All rows that this profile's notebooks have written; None if there are none yet."""
    folder = Path(settings.results_dir)
    paths = [*sorted(folder.glob("*.csv")), *sorted((folder / "times").glob("*.csv"))]
    return read_results(paths) if paths else None
