"""What a predicate works with: numbers looked up in a frame, comparisons of decimals, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from zsad_core.results import FULL_SHOT

HOLDS, FAILS, UNDECIDED = "holds", "fails", "cannot be decided"
Cells = dict[tuple[str | int, ...], dict[str, tuple[float, float]]]
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


class Setting(NamedTuple):
    """What was run: a method with its variant and shots.

    >>> str(Setting("winclip_plus", "score=max_map", 4)), str(Setting("cutpaste", shots=FULL_SHOT))
    ('winclip_plus[score=max_map] (4-shot)', 'cutpaste (full-shot)')
    """

    method: str
    variant: str = ""
    shots: int = 0

    def __str__(self) -> str:
        few = "full" if self.shots == FULL_SHOT else str(self.shots)
        return (
            self.method
            + (f"[{self.variant}]" if self.variant else "")
            + (f" ({few}-shot)" if self.shots else "")
        )


class Numbers:
    """Looks up numbers for one claim; remembers those that were used and what stood in the way.

    results: rows of a valid tidy frame. A number that several artifacts give must be the same in all of them;
    then the artifact does not matter.
    """

    def __init__(self, results: pd.DataFrame, claim_id: str) -> None:
        self.claim_id = claim_id
        self.used: dict[str, float] = {}
        self.problems: list[str] = []
        self.results = results
        self._cells: dict[str, Cells] = {}

    def _cells_of(self, category: str) -> Cells:
        """Mean and standard deviation by setting and artifact; read when a category is first asked for."""
        if category not in self._cells:
            cells = self._cells[category] = {}
            for row in self.results[self.results["category"] == category].itertuples(index=False):
                key = (row.metric, row.method, row.dataset, row.variant, row.shots, row.task)
                cells.setdefault(key, {})[f"{row.paper} {row.artifact}"] = (row.mean, row.std)
        return self._cells[category]

    def __call__(
        self,
        metric: str,
        method: str,
        dataset: str = "",
        *,
        variant: str = "",
        shots: int = 0,
        task: str = "image",
        category: str = "mean",
        std: bool = False,
    ) -> float:
        """The mean (or standard deviation) in that row; NaN, and a problem noted, if there is none."""
        words = [dataset, category if category != "mean" else "", "pixel" if task == "pixel" else "", metric]
        name = " ".join([*filter(None, words), str(Setting(method, variant, shots))])
        found = self._cells_of(category).get((metric, method, dataset, variant, shots, task), {})
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

    def of(self, setting: Setting, measure: str, dataset: str = "mvtec", category: str = "mean") -> float:
        """A setting's number; measure: task and metric, `pixel auroc`."""
        task, metric = measure.split()
        where = {"variant": setting.variant, "shots": setting.shots, "task": task, "category": category}
        return self(metric, setting.method, dataset, **where)

    def leads(
        self,
        pairs: Iterable[tuple[Setting, Setting]],
        measures: tuple[str, ...] = ("image auroc",),
        datasets: tuple[str, ...] = ("mvtec",),
        category: str = "mean",
    ) -> dict[str, float]:
        """First minus second of each pair, by name."""
        leads = {}
        for one, other in pairs:
            names = f"{one._replace(shots=0) if one.shots == other.shots else one} - {other}"
            for d in datasets:
                where = d if category == "mean" else f"{d} {category}"
                for m in measures:
                    lead = self.of(one, m, d, category) - self.of(other, m, d, category)
                    leads[f"{where} {m.removeprefix('image ')} {names}"] = lead
        return leads

    def all_ahead(
        self, leads: Mapping[str, float], also: bool = True, asked: str = "", ties: bool = False
    ) -> Verdict:
        """Holds if all leads are above 0 and a further condition is met, which `asked` tells in words.

        ties : leads of 0 are allowed too. Of more than a dozen leads the verdict shows the smallest.
        """
        ahead, word = (at_least, "level or ahead") if ties else (above, "ahead")
        behind = [name for name, lead in leads.items() if not ahead(lead, 0)]
        reason = f"not {word} in {', '.join(behind)}" if behind else f"{word} in {len(leads)} of {len(leads)}"
        if len(leads) > 12:
            name = min(leads, key=leads.__getitem__)
            leads = {f"smallest of {len(leads)} leads, {name}": leads[name]}
        return self.verdict(not behind and also, f"{reason}; {asked}" if asked else reason, leads)

    def _problem(self, text: str) -> float:
        if text not in self.problems:
            self.problems.append(text)
        return math.nan

    def verdict(self, holds: bool, reason: str = "", numbers: Mapping[str, float] | None = None) -> Verdict:
        """The claim's verdict: undecided, with the problems as reason, if a number was missing or undefined.

        numbers : derived numbers to show in the place of those that were looked up, rid of their last bits.
        """
        if self.problems:
            return Verdict(self.claim_id, UNDECIDED, self.used, "; ".join(self.problems))
        shown = {name: round(value, 6) for name, value in numbers.items()} if numbers else self.used
        return Verdict(self.claim_id, HOLDS if holds else FAILS, shown, reason)
