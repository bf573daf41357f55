"""Claims of the papers, each with a predicate that runs on published and on measured numbers alike.

The claims are rows of a paper's `claims.csv`: what it says, and a `test` that decides it from numbers. Its
module `claims.py` has one function for each claim, named after its id: `rwda_c01`. A predicate reads a valid
tidy frame (`zsad_papers.common.results`) in which datasets carry their published
names (`results.as_roles`), and returns a `Verdict`.

>>> from zsad_papers.common.results import load_published
>>> verdicts = evaluate("rwda", load_published("rwda"))
>>> verdicts.set_index("id").loc["rwda-c01", "verdict"]
'holds'
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from typing import Any, NamedTuple

import pandas as pd

from zsad_papers import all_papers
from zsad_papers.common.results import FULL_SHOT, validate

__all__ = [
    "FAILS",
    "HOLDS",
    "UNDECIDED",
    "Claim",
    "Verdict",
    "evaluate",
    "ledger",
    "load_claims",
    "predicates",
]


@dataclass(frozen=True)
class Claim:
    """What a paper says, in which section, and the test that decides it."""

    id: str
    paper: str
    section: str
    claim: str
    test: str


def load_claims(paper: str | None = None) -> list[Claim]:
    """The claims of a paper, or of all, in the order of `published/claims.csv`.

    >>> len(load_claims("rwda"))
    28
    """
    if paper not in (None, *all_papers()):
        raise ValueError(f"paper is {paper!r}; expected one of {sorted(all_papers())}")
    claims = []
    for key in all_papers() if paper is None else [paper]:
        with (files("zsad_papers") / key / "claims.csv").open(encoding="utf-8") as file:
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
        claims += [Claim(**row) for row in table.to_dict("records")]
    return claims


def predicates(paper: str) -> dict[str, Callable[..., Verdict]]:
    """The predicates of a paper by claim id: the functions of its module that are named `<paper>_cNN`."""
    if paper not in all_papers() or find_spec(f"zsad_papers.{paper}.claims") is None:
        raise ValueError(f"no predicates for {paper!r}: expected a module zsad_papers/{paper}/claims.py")
    module = import_module(f"zsad_papers.{paper}.claims")
    names = sorted(name for name in vars(module) if name.startswith(f"{paper}_c"))
    return {name.replace("_", "-"): getattr(module, name) for name in names}


def evaluate(paper: str, frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Verdicts of all predicates of a paper on a tidy frame with published dataset names.

    frame : results under published dataset names; rows of other papers do no harm.
    options : passed to the predicates that take them (`n_pairs`, `pair_counts` for RWDA); one that no
        predicate takes is an error.

    Returns
    -------
    One row for each claim: id, section, claim, test, verdict, numbers, reason.
    """
    tests = predicates(paper)
    takes = {claim: list(inspect.signature(test).parameters)[1:] for claim, test in tests.items()}
    unknown = set(options) - set().union(*takes.values())
    if unknown:
        raise ValueError(
            f"no predicate takes {sorted(unknown)}; expected some of {set().union(*takes.values())}"
        )
    frame = validate(frame)
    records = []
    for claim in load_claims(paper):
        verdict = tests[claim.id](
            frame, **{name: options[name] for name in takes[claim.id] if name in options}
        )
        records.append(
            {
                "id": claim.id,
                "section": claim.section,
                "claim": claim.claim,
                "test": claim.test,
                "verdict": verdict.verdict,
                "numbers": verdict.numbers_text,
                "reason": verdict.reason,
            }
        )
    return pd.DataFrame(records)


def ledger(published: pd.DataFrame, run: pd.DataFrame) -> pd.DataFrame:
    """Two results of `evaluate` side by side: columns `published`, `run` and their numbers and reasons.

    `agreement` is 'same verdict', 'other verdict', or 'open' where one side cannot decide.
    """
    shared = ["id", "section", "claim", "test"]
    if list(published["id"]) != list(run["id"]):
        raise ValueError("the two evaluations hold different claims; expected the same paper on both sides")
    sides = [
        side.set_index(shared)[["verdict", "numbers", "reason"]].rename(
            columns={"verdict": name, "numbers": f"{name}_numbers", "reason": f"{name}_reason"}
        )
        for name, side in (("published", published), ("run", run))
    ]
    table = pd.concat(sides, axis=1).reset_index()
    is_open = (table[["published", "run"]] == UNDECIDED).any(axis=1)
    same = table["published"] == table["run"]
    table["agreement"] = same.map({True: "same verdict", False: "other verdict"}).mask(is_open, "open")
    return table


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
