"""What a notebook begins with: its settings, the encoder and the datasets of its paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from zsad_papers.common.claims import ledger
from zsad_papers.common.data import KnownEncoder, dataset_names, dataset_of, encoder_of, missing
from zsad_papers.common.paper import Paper
from zsad_papers.common.provenance import run_line, write_record
from zsad_papers.common.results import as_published, compare, load_published, read_results, write_results
from zsad_papers.common.settings import Settings, read_settings


@dataclass(frozen=True)
class Page:
    """As the last line of a cell it shows, in Markdown, what runs and what is missing."""

    settings: Settings = field(repr=False)  # its folders can be absolute
    datasets: tuple[str, ...]
    """The published datasets that the page is about."""
    paper: Paper | None = field(default=None, repr=False)

    @cached_property
    def encoder(self) -> KnownEncoder | None:
        return encoder_of(self.settings, self.paper.prefix) if self.paper else None

    @cached_property
    def names(self) -> dict[str, str]:
        return dataset_names(self.settings, self.datasets)

    @cached_property
    def published(self) -> pd.DataFrame:
        return load_published(self.paper.key)

    def compare(self, measured: pd.DataFrame, artifact: str | None = None, **options: Any) -> pd.DataFrame:
        """Published numbers of one table or all, beside measured ones. options: of `results.compare`."""
        published = self.published if artifact is None else self.published.query("artifact == @artifact")
        return compare(published, measured, **{"stand_ins": self.names, "keep": "both", **options})

    def verdicts(self, measured: pd.DataFrame) -> pd.DataFrame:
        """The ledger of the paper's claims on these rows, by the claims' names."""
        return ledger(self.paper.key, as_published(measured, self.names), self.settings).set_index("id")

    def write(self, name: str, rows: pd.DataFrame) -> None:
        """Writes result rows and their provenance; see `provenance.write_record`. Raises FileNotFoundError
        where they would replace rows on a dataset that is not prepared any more."""
        places = {own for dataset in self.datasets if (own := self.settings.datasets.get(dataset))}
        path = Path(self.settings.results_dir) / f"{name}.csv"
        before = set(read_results(path)["dataset"]) if path.is_file() else set()
        if lost := sorted((places - set(self.names.values())) & before):
            raise FileNotFoundError(
                f"{path} has results on {', '.join(lost)}, which this run would lose, since the data are not "
                "prepared now: prepare them again, give another results_dir, or remove the file"
            )
        first = {own: name for name, own in reversed(self.names.items())}  # one may stand in for several
        datasets = [dataset_of(self.settings, place) for place in first.values()]
        write_record(name, rows, self.settings, self.encoder, datasets)

    def write_times(self, name: str, rows: pd.DataFrame) -> None:
        """Writes measured times to `<results_dir>/times/<name>.csv`: a run's own, never the same twice."""
        write_results(rows, Path(self.settings.results_dir) / "times" / f"{name}.csv")

    def _repr_markdown_(self) -> str:
        line = run_line(self.settings, self.encoder, self.names.values(), self.paper)
        lines = missing(self.settings, self.datasets)
        if self.paper and self.paper.also_missing:
            lines += self.paper.also_missing(self.settings, self.datasets)
        return "\n\n".join([line, *lines])


def start(
    parameters: Mapping[str, Any], datasets: Sequence[str] | None = None, paper: Paper | None = None
) -> Page:
    """The page of a notebook, its parameters checked. datasets: None for all that the settings name.
    Raises FileNotFoundError where not one of them is prepared, unless the settings allow it."""
    settings = read_settings(parameters, paper.settings if paper else None)
    named = [name for name, own in settings.datasets.items() if own]
    page = Page(settings, tuple(dict.fromkeys(named if datasets is None else datasets)), paper)
    if page.datasets and not (page.names or settings.allow_missing):
        places = dict.fromkeys(own for dataset in page.datasets if (own := settings.datasets.get(dataset)))
        raise FileNotFoundError(
            f"no dataset of this page is prepared in {settings.data_dir}: "
            f"{', '.join(places) or 'none is named'}. `make notebook NB=<page>` makes those of the profile "
            "mini, `zsad prepare --help` tells about others; with allow_missing = true the page runs "
            "without numbers of its own"
        )
    return page
