"""The facts about a paper that common pages, records and the workflow need."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zsad_papers.common.settings import Settings


@dataclass(frozen=True)
class Paper:
    """A paper of the book; each paper's package has one, called `PAPER`.

    key: the name of its package, and the value of the column `paper` in its results.
    order: its place in the book.
    encoder: architecture and weights tag of its main results, as open_clip names them.
    datasets: the published ones that it has numbers for.
    settings: the parameters of its notebooks.
    seeds: takes settings; a phrase about the seeds of its experiments.
    prefix: of the parameters `model` and `weights` that name the encoder of a run.
    also_missing: takes settings and names of datasets; sentences on what cannot run, and why.
    """

    key: str
    title: str
    order: int
    encoder: tuple[str, str]
    datasets: tuple[str, ...]
    settings: type[Settings]
    seeds: Callable[[Any], str]
    prefix: str = ""
    also_missing: Callable[[Any, Sequence[str]], list[str]] | None = None

    def encoder_in(self, settings: Settings) -> tuple[str, str | None]:
        """Architecture and weights of a run, as `encoder`."""
        return getattr(settings, f"{self.prefix}model"), getattr(settings, f"{self.prefix}weights")


def seed_range(first: int, number: int) -> str:
    """The seeds of a run in words.

    >>> seed_range(5, 1), seed_range(5, 2)
    ('seed 5', 'seeds 5 to 6')
    """
    return f"seed {first}" if number == 1 else f"seeds {first} to {first + number - 1}"
