"""What a predicate works with: numbers looked up in a frame, comparisons of decimals, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

HOLDS, FAILS, UNDECIDED = "holds", "fails", "cannot be decided"
TOLERANCE = 1e-9  # for differences of decimals: 92.5 - 91.5 must count as 1.0


def above(a: float, b: float) -> bool:
    """a > b, not only by rounding.

    >>> above(92.2 - 91.2, 1.0), above(92.3 - 91.2, 1.0)
    (False, True)
    """
    return a > b + TOLERANCE


def at_least(a: float, b: float) -> bool:
    """a >= b, up to rounding."""
    return a >= b - TOLERANCE


@dataclass(frozen=True)
class Verdict:
    """`holds`, `fails` or `cannot be decided`, with the numbers behind it and the reason in words."""

    claim_id: str
    verdict: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in (HOLDS, FAILS, UNDECIDED):
            raise ValueError(f"verdict is {self.verdict!r}; expected {HOLDS!r}, {FAILS!r} or {UNDECIDED!r}")

    @property
    def numbers_text(self) -> str:
        """The numbers as 'name value; name value'."""
        return "; ".join(f"{name} {value:.6g}" for name, value in self.numbers.items())


class Numbers:
    """Looks up numbers for one claim; remembers those that were used and what stood in the way.

    results: rows of a valid tidy frame; those with category `mean` count. A number that several artifacts
    give must be the same in all of them; then the artifact does not matter.
    """

    def __init__(self, results: pd.DataFrame, claim_id: str) -> None:
        self.claim_id = claim_id
        self.used: dict[str, float] = {}
        self.problems: list[str] = []
        self._cells: dict[tuple[str | int, ...], dict[str, tuple[float, float]]] = {}
        for row in results[results["category"] == "mean"].itertuples(index=False):
            key = (row.metric, row.method, row.dataset, row.variant, row.shots, row.task)
            self._cells.setdefault(key, {})[f"{row.paper} {row.artifact}"] = (row.mean, row.std)

    def __call__(
        self,
        metric: str,
        method: str,
        dataset: str = "",
        *,
        variant: str = "",
        shots: int = 0,
        task: str = "image",
        std: bool = False,
    ) -> float:
        """The mean (or standard deviation) in that row; NaN, and a problem noted, if there is none."""
        name = f"{dataset} {metric} {method}".strip()
        name += (f"[{variant}]" if variant else "") + (f" ({shots}-shot)" if shots else "")
        found = self._cells.get((metric, method, dataset, variant, shots, task), {})
        if not found:
            return self._problem(f"no row for {name}")
        means = [mean for mean, _ in found.values()]
        if any(math.isnan(mean) for mean in means):
            return self._problem(f"{name} is undefined")
        if max(means) - min(means) > 1e-6:
            return self._problem(f"{name} differs between {', '.join(found)}: {means}")
        self.used[name] = means[0]
        return next(iter(found.values()))[1] if std else means[0]

    def gains(
        self,
        method: str,
        baseline: str,
        metrics: tuple[str, ...],
        datasets: tuple[str, ...],
        **where: str | int,
    ) -> dict[str, float]:
        """method minus baseline by 'dataset metric'; where: variant, shots."""
        return {
            f"{d} {m}": self(m, method, d, **where) - self(m, baseline, d, **where)
            for d in datasets
            for m in metrics
        }

    def _problem(self, text: str) -> float:
        if text not in self.problems:
            self.problems.append(text)
        return math.nan

    def verdict(self, holds: bool, reason: str = "", numbers: Mapping[str, float] | None = None) -> Verdict:
        """The claim's verdict: undecided, with the problems as reason, if a number was missing or undefined.

        numbers : derived numbers to show in the place of those that were looked up.
        """
        if self.problems:
            return Verdict(self.claim_id, UNDECIDED, self.used, "; ".join(self.problems))
        return Verdict(self.claim_id, HOLDS if holds else FAILS, dict(numbers or self.used), reason)
