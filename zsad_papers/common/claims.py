"""The claims of the papers: the same test runs on published and on measured numbers, rows of one paper with
published dataset names (`results.as_published`). `published.md` explains the tables of claims and tests."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from zsad_papers.common.results import FULL_SHOT, load_published, read_table, validate

HOLDS, FAILS, UNDECIDED = "holds", "fails", "cannot be decided"
SIDES = ("published", "run")
TOLERANCE = 1e-9  # for differences of decimals: 92.5 - 91.5 must count as 1.0
MANY = 12  # with more differences, a verdict shows the smallest only
METHOD_KEY = re.compile(r"(\w+)(?:\[(.+)\])?(?: \((full|\d+)-shot\))?")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
LIMIT = re.compile(r"(>=|<=|>|<) (-?\d+(?:\.\d+)?)")


def above(a: float, b: float) -> bool:
    """a > b, not only by rounding."""
    return a > b + TOLERANCE


def at_least(a: float, b: float) -> bool:
    """a >= b, up to rounding."""
    return a >= b - TOLERANCE


class Comparison(NamedTuple):
    """A row of `claim_tests.csv`."""

    id: str
    first: str
    second: str
    measures: str
    datasets: str
    category: str = ""
    average: str = ""
    condition: str = "> 0"
    enough: str = ""
    limit: str = "paper"

    def __str__(self) -> str:
        """The test in words."""
        word = "mean" if "settings" in self.average else "each"
        sides = [f"({side})" if " - " in side or " | " in side else side for side in self[1:3]]
        sides = [f"{word} of {side.replace(' | ', ', ')}" if " | " in side else side for side in sides]
        kind, condition = re.fullmatch("(abs |ratio |)(.*)", self.condition).groups()
        said = {"": " - ", "abs ": " - ", "ratio ": " / "}[kind].join(filter(None, sides))
        said = f"abs({said}) {condition}" if kind == "abs " else f"{said} {condition}"
        if self.second and condition.endswith(" 0"):
            said = f"{sides[0]} {condition[:-2]} {sides[1]}"
        datasets = self.datasets.replace("any where", "all datasets with").replace(" where", ", those with")
        where = " ".join(filter(None, [self.measures, datasets and "on", datasets, self.category]))
        average = f", mean over {self.average.replace(' | ', ' and ')}" if self.average else ""
        enough = f" in at least {self.enough} cells" if self.enough else ""
        return f"{where.replace(' | ', ', ')}{average}: {said}{enough}"


class Verdict(NamedTuple):
    """Whether a claim holds, the numbers behind it, and the reason in words."""

    verdict: str
    numbers: Mapping[str, float]
    reason: str


Test = Sequence[Comparison] | Callable[["Numbers"], Verdict]


@cache
def load_tests(paper: str) -> tuple[dict[str, Test], dict[str, Any]]:
    """The tests of a paper by claim, rows or a function, and the paper's own values of its options."""
    claims, module = read_table(paper, "claims.csv"), import_module(f"zsad_papers.{paper}.claims")
    found = vars(module).items()
    tests: dict[str, Any] = {f"{paper}-{name}": own for name, own in found if re.fullmatch(r"c\d+", name)}
    for row in read_table(paper, "claim_tests.csv").itertuples(index=False):
        if callable(tests.setdefault(row.id, [])):
            raise ValueError(f"{row.id} has a function in {module.__name__} and a row in claim_tests.csv")
        tests[row.id].append(Comparison(*row))
    if without := set(claims["id"]) ^ set(tests):
        raise ValueError(
            f"{sorted(without)} are not both in claims.csv and tested; expected for each claim rows in "
            f"claim_tests.csv or a function in {module.__name__}"
        )
    return tests, getattr(module, "OPTIONS", {})


def evaluate(paper: str, frame: pd.DataFrame, settings: Any = None) -> pd.DataFrame:
    """Verdicts on all claims of a paper: id, section, claim, test, verdict, numbers, reason.

    frame : results under published dataset names; rows of other papers do no harm.
    settings : of the run that gave the frame, for the options that the claims name; None: the paper's own.
    """
    tests, options = load_tests(paper)
    if settings is not None:
        options = {name: getattr(settings, name) for name in options}
    rows = validate(frame).query("paper == @paper")  # other papers run the same methods with other settings
    cells, table, records = cells_of(rows), read_table(paper, "claims.csv"), []
    for claim, note in zip(table["id"], table["note"]):
        verdict, numbers, reason = judge(Numbers(rows, cells, options), test := tests[claim])
        words = " ".join(test.__doc__.split()) if callable(test) else "; ".join(map(str, test))
        shown = "; ".join(f"{name} {value:.6g}" for name, value in numbers.items())
        records.append((f"{words} ({note})" if note else words, verdict, shown, reason))
    verdicts = pd.DataFrame(records, columns=["test", "verdict", "numbers", "reason"])
    return table[["id", "section", "claim"]].join(verdicts)


def ledger(paper: str, run: pd.DataFrame, settings: Any = None) -> pd.DataFrame:
    """Verdicts on published numbers beside a run's: `run`, `run_numbers`, `run_reason`, ...; `agreement`."""
    frames = evaluate(paper, load_published(paper)), evaluate(paper, run, settings)
    table = frames[0][["id", "section", "claim", "test"]]
    for side, frame in zip(SIDES, frames):
        table[[side, f"{side}_numbers", f"{side}_reason"]] = frame[["verdict", "numbers", "reason"]]
    return table.assign(agreement=agreement(table[list(SIDES)], [UNDECIDED]))


def agreement(verdicts: pd.DataFrame, undecided: list[str]) -> pd.Series:
    """'same verdict', 'other verdict', or 'open' where one of the two sides is undecided."""
    same = verdicts.nunique(axis=1).map({1: "same verdict", 2: "other verdict"})
    return same.mask(verdicts.isin(undecided).any(axis=1), "open")


@cache
def method_key(text: str) -> tuple[str, str, int]:
    """The method, variant and shots that a text names.

    >>> method_key("winclip_plus[score=max_map] (4-shot)")
    ('winclip_plus', 'score=max_map', 4)
    """
    found = METHOD_KEY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no method; expected for example 'winclip_plus[maps=P] (4-shot)'")
    method, variant, shots = found.groups(default="")
    return method, variant, (FULL_SHOT if shots == "full" else int(shots or 0))


def _setting(name: str, measure: str) -> tuple[str | int, ...]:
    """The key of a number without dataset and category."""
    *task, metric = measure.split()
    return metric, "".join(task), *method_key(name)


CELL = ["metric", "task", "method", "variant", "shots", "dataset", "category"]
Cells = dict[tuple[str | int, ...], dict[str, tuple[float, float]]]


def cells_of(rows: pd.DataFrame) -> Cells:
    """Mean and standard deviation by the key of a number, its `CELL`, and by artifact."""
    cells, columns = defaultdict(dict), [*CELL, "paper", "artifact", "mean", "std"]
    for *key, paper, artifact, mean, std in rows[columns].itertuples(index=False):
        cells[tuple(key)][f"{paper} {artifact}"] = (mean, std)
    return dict(cells)


@dataclass
class Numbers:
    """Looks up numbers for one claim; records those that it used with their keys, and the problems. A cell
    may hold an array of draws, too, the first of which is the number itself."""

    rows: pd.DataFrame
    cells: Cells
    options: Mapping[str, Any] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    keys: set[tuple[str | int, ...]] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def of(
        self, name: str, measure: str, dataset: str = "", category: str = "mean", *, std: bool = False
    ) -> float:
        """Mean or deviation of a setting; NaN and a problem noted if it is missing or artifacts differ."""
        key, shown = (*_setting(name, measure), dataset, category), place(dataset, measure, category, name)
        found = self.cells.get(key, {})
        means = [mean if isinstance(mean, float) else float(mean[0]) for mean, _ in found.values()]
        if not found:
            return self._problem(f"no row for {shown}")
        if any(math.isnan(mean) for mean in means):
            return self._problem(f"{shown} is undefined")
        if max(means) - min(means) > 1e-6:
            return self._problem(f"{shown} differs between {', '.join(found)}: {means}")
        self.used[shown] = means[0]
        self.keys.add(key)
        return next(iter(found.values()))[1 if std else 0]

    def value(self, side: str, dataset: str, measure: str, category: str = "mean") -> float:
        """The value of one side of a row: differences are resolved, empty is 0."""
        if not side or NUMBER.fullmatch(side):
            return float(side or 0)
        parts = product(_signed(side), _signed(measure), _signed(category))
        return sum(s * m * c * self.of(name, by, dataset, of) for (s, name), (m, by), (c, of) in parts)

    def _problem(self, text: str) -> float:
        if text not in self.problems:
            self.problems.append(text)
        return math.nan

    def datasets(self, text: str, measure: str) -> list[str]:
        """The datasets of a row of `claim_tests.csv`; a problem is noted if ` where` leaves none."""
        names, _, settings = text.partition(" where ")
        if not settings:
            return names.split(" | ")
        found = set.intersection(*(self.measured_on(name, measure) for name in settings.split(" | ")))
        if names != "any":
            found &= set(names.split(" | "))
        if not found:
            of = settings.replace(" | ", " and ")
            among = "any dataset" if names == "any" else f"one of {names.replace(' | ', ', ')}"
            self._problem(f"no row for {measure} of {of} on {among}")
        return sorted(found)

    def measured_on(self, name: str, measure: str) -> set[str]:
        """The datasets with a mean of a setting."""
        key = _setting(name, measure)
        return {cell[-2] for cell in self.cells if cell[:-2] == key and cell[-1] == "mean"}

    def verdict(self, holds: bool, reason: str, numbers: Mapping[str, float] | None = None) -> Verdict:
        """Undecided, with the problems as reason, if there are any. numbers: to show instead of `used`."""
        if self.problems:
            return Verdict(UNDECIDED, self.used, "; ".join(self.problems))
        shown = {name: round(value, 6) for name, value in (numbers or self.used).items()}
        return Verdict(HOLDS if holds else FAILS, shown, reason)


def place(dataset: str, measure: str, category: str, name: str) -> str:
    """The name of a number: 'visa pcb2 pixel auroc winclip'."""
    category = "" if category == "mean" else category
    measure = measure if " - " in measure else measure.removeprefix("image ")
    return " ".join(filter(None, [dataset, category, measure, name]))


def judge(numbers: Numbers, test: Test) -> Verdict:
    """The verdict of a function, or of rows: holds if every row is met."""
    if callable(test):
        return test(numbers)
    holds, shown, reasons, n_met, total = True, {}, [], 0, 0
    for row in test:
        leads = leads_of(numbers, row)
        named = {place(*key): lead for key, lead in leads.items()}
        behind = {key: lead for key, lead in leads.items() if not meets(lead, row.condition)}
        won = {key[:2] for key in leads} - {key[:2] for key in behind}
        holds &= len(won) >= int(row.enough) if row.enough else not behind
        n_met, total = n_met + len(leads) - len(behind), total + len(leads)
        reasons += [f"{row.enough} cells are needed"] if row.enough else []
        reasons += [f"{place(*key)} is not {row.condition}" for key in behind]
        if len(named) > MANY:
            least = min(named, key=named.__getitem__)
            named = {f"smallest of {len(named)}, {least}": named[least]}
        shown |= named
    return numbers.verdict(holds, "; ".join([f"met in {n_met} of {total}", *reasons]), shown)


Leads = dict[tuple[str, str, str, str], float]
AXES = ("datasets", "measures", "category", "settings")


def leads_of(numbers: Numbers, row: Comparison) -> Leads:
    """First minus second, or their ratio, by dataset, measure and settings, averaged as the row says."""
    leads: Leads = {}
    for measure in row.measures.split(" | "):
        for dataset in numbers.datasets(row.datasets, measure):
            at = (dataset, measure, row.category or "mean")
            for first, second in pairs(row, numbers.options):
                one, other = (numbers.value(side, *at) for side in (first, second))
                if row.condition.startswith("ratio"):
                    with np.errstate(divide="ignore", invalid="ignore"):
                        lead, sign = np.divide(one, other), " / "
                else:
                    lead, sign = one - other, " - "
                sides = [first, f"({second})" if " - " in second else second]
                leads[*at, sign.join(filter(None, sides))] = lead
    return _averaged(leads, row.average)


def pairs(row: Comparison, options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """First and second settings with their braces filled."""
    braces = list(dict.fromkeys(re.findall(r"\{.*?\}", row.first + row.second)))
    choices = [_choices(text[1:-1], options) for text in braces]
    for first, second in product(row.first.split(" | "), row.second.split(" | ")):
        for chosen in product(*choices):
            pair = [first, second]
            for text, value in zip(braces, chosen):
                pair = [side.replace(text, value) for side in pair]
            yield tuple(pair)


def _choices(text: str, options: Mapping[str, Any]) -> list[str]:
    if "|" in text:
        return text.split("|")
    if text not in options:
        raise ValueError(f"{text!r} is no option of this paper's claims; expected one of {sorted(options)}")
    return [str(value) for value in np.atleast_1d(options[text])]


def _signed(text: str) -> list[tuple[int, str]]:
    """The parts of a difference, 'a - b', with their signs."""
    first, *others = text.split(" - ")
    return [(1, first), *((-1, other) for other in others)]


def _averaged(leads: Leads, average: str) -> Leads:
    """Means over the datasets, measures or settings that a row names."""
    axes = [AXES.index(axis) for axis in filter(None, average.split(" | "))]
    groups = defaultdict(list)
    for key, lead in leads.items():
        groups[tuple("mean" if i in axes else name for i, name in enumerate(key))].append(lead)
    return {group: sum(values) / len(values) for group, values in groups.items()}


def meets(lead: float, condition: str) -> bool:
    """Whether a number lies within the limits of a condition; NaN meets none.

    >>> meets(2.0, "> 0, <= 2"), meets(-0.5, "abs <= 1"), meets(0.0, "> 0")
    (True, True, False)
    """
    return all((above if strict else at_least)(left, 0.0) for left, strict in _margins(lead, condition))


def margin(lead: float, condition: str) -> float:
    """How far a number, or an array, is inside the limits of a condition; negative outside.

    >>> margin(1.5, "> 0, <= 2"), margin(-3.0, "abs <= 1")
    (np.float64(0.5), np.float64(-2.0))
    """
    return np.min([left for left, _ in _margins(lead, condition)], axis=0)


def _margins(lead: float, condition: str) -> Iterator[tuple[float, bool]]:
    """The distance to each limit, and whether it must be above 0."""
    lead = abs(lead) if condition.startswith("abs ") else lead
    for text in condition.removeprefix("abs ").removeprefix("ratio ").split(", "):
        limit = LIMIT.fullmatch(text)
        if limit is None:
            raise ValueError(f"{condition!r} is no condition; expected for example '> 0, <= 2' or 'abs <= 1'")
        left = lead - float(limit[2])
        yield (left if limit[1] in (">", ">=") else -left), limit[1] in (">", "<")
