"""What the book's common pages, the records and the workflow need to know of a paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from zsad_papers.common.settings import Settings


@dataclass(frozen=True)
class Paper:
    """A paper of the book; each paper's package has one, called `PAPER`.

    seeds(settings) says in a few words what the seeds of this paper's experiments do.
    """

    key: str
    """The name of its package, and the value of the column `paper` in its results."""
    title: str
    order: int
    """Its place in the book."""
    encoder: tuple[str, str]
    """Architecture and weights tag of its main results, as open_clip names them."""
    datasets: tuple[str, ...]
    """The published datasets on which it has numbers."""
    settings: type[Settings]
    """The parameters of its notebooks."""
    seeds: Callable[[Any], str]
    prefix: str = ""
    """Of the parameters `model` and `weights` that name the encoder of a run of its experiments."""
    also_missing: Callable[[Any, Sequence[str]], list[str]] | None = None
    """For a page's reader, from settings and names of datasets: what cannot be run, and why."""

    def encoder_in(self, settings: Settings) -> tuple[str, str | None]:
        """Architecture and weights of a run, as `encoder`."""
        return getattr(settings, f"{self.prefix}model"), getattr(settings, f"{self.prefix}weights")


def seed_range(first: int, number: int) -> str:
    """The seeds of a run in words.

    >>> seed_range(5, 1), seed_range(5, 2)
    ('seed 5', 'seeds 5 to 6')
    """
    return f"seed {first}" if number == 1 else f"seeds {first} to {first + number - 1}"
