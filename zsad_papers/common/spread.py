"""Verdicts that know the spread: a claim's effect (see `published.md`), and how easily noise meets it."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from zsad_papers.common import claims
from zsad_papers.common.claims import CELL, HOLDS, SIDES, TOLERANCE, UNDECIDED, Cells, Numbers, Test, judge
from zsad_papers.common.contradictions import HALF_UNIT
from zsad_papers.common.results import PERCENT, load_published, read_table

UNRESOLVED = "not resolved by this run"
INSIDE = ", inside the printed ±"
QUANTILES = {"published": (0.159, 0.841), "run": (0.025, 0.975)}  # one standard deviation; 95 %
DRAWS, LOOPS = 2000, 200  # a test that is a function looks at draws one by one, at fewer
EXACT = ("params_M", "macs_G", "n_categories", "n_normal", "n_anomalous")  # counted, so without a spread
NOISE = 3.0  # its standard deviation in points; in hundredths of the mean for what is no percentage
EASY = 0.3  # a test that noise meets in a larger share of frames needs a word

Key = tuple[str | int, ...]
Classes = Mapping[Key, Mapping[str, float]]
Arrays = dict[Key, np.ndarray]  # (1 + DRAWS,) each: the number itself, then draws of it


class Effect(NamedTuple):
    """The interval holds the limit if low < 0 < high; infinite where the spread is not known."""

    text: str
    low: float
    high: float


def classes_of(cells: Cells, part: int = 0) -> dict[Key, dict[str, float]]:
    """The means of single categories, or with part 1 their deviations, by the key without the category."""
    classes: dict[Key, dict[str, float]] = defaultdict(dict)
    for (*key, category), found in cells.items():
        if category != "mean":
            classes[tuple(key)][category] = next(iter(found.values()))[part]
    return classes


def image_draws(rows: pd.DataFrame) -> Arrays:
    """By the keys of `claims.cells_of`: the values on resampled images, of numbers that have them."""
    return rows.reindex(columns=[*CELL, "draws"]).set_index(CELL)["draws"].dropna().to_dict()


def draws_of(cells: Cells, keys: Iterable[Key], seeds: tuple[int, int] | None, images: Arrays) -> Arrays:
    """Draws of numbers. seeds: over how many a run's deviation is, without and with reference images; None:
    printed numbers, whose deviation is the spread, and which stay as they are without one. images: of
    `image_draws`, where categories are strata; of other numbers categories are drawn."""
    random, chosen, arrays = np.random.default_rng(0), {}, {}
    classes, spreads = classes_of(cells) if seeds else {}, classes_of(cells, 1)
    for key in sorted(keys, key=str):
        mean, std = _number(cells, key, spreads)
        own = classes.get(key[:-1], {}) if key[-1] == "mean" else {}
        draws = np.full(DRAWS, mean)
        if not math.isnan(std):
            count = seeds[key[4] != 0] if seeds else 1
            draws += std / math.sqrt(count) * random.standard_normal(DRAWS)
        if key in images:
            draws += np.resize(images[key] - np.mean(images[key]), DRAWS)
        elif len(own) > 1:
            names = (key[5], *sorted(own))
            if names not in chosen:
                chosen[names] = random.integers(len(own), size=(DRAWS, len(own)))
            values = np.array([own[name] for name in names[1:]])
            draws += values[chosen[names]].mean(axis=1) - values.mean()
        elif seeds and math.isnan(std) and key[0] not in EXACT:
            draws[:] = math.nan
        arrays[key] = np.array([mean, *draws])
    return arrays


def noise_draws(cells: Cells, keys: Iterable[Key]) -> Arrays:
    """Normal noise for each number, of one mean for all numbers of a metric."""
    random, means = np.random.default_rng(0), defaultdict(list)
    for key in sorted(keys, key=str):
        means[key[:2]].append(_number(cells, key)[0])
    arrays = {}
    for key in sorted(keys, key=str):
        mean = float(np.mean(means[key[:2]]))
        scale = NOISE if key[0] in PERCENT else NOISE / 100 * abs(mean)
        arrays[key] = mean + scale * random.standard_normal(1 + DRAWS)
    return arrays


def _number(cells: Cells, key: Key, spreads: Classes | None = None) -> tuple[float, float]:
    """Mean and standard deviation, which one of several artifacts may lack. spreads: of categories; where a
    mean row has their mean (`results.SPREADS`), that of a mean over categories that vary apart."""
    found = list(cells[key].values())
    std = next((std for _, std in found if not math.isnan(std)), math.nan)
    own = np.array(list((spreads or {}).get(key[:-1], {}).values())) if key[-1] == "mean" else np.empty(0)
    if len(own) > 1 and abs(std - own.mean()) <= 2 * HALF_UNIT:
        std = math.sqrt(np.sum(own**2)) / len(own)
    return found[0][0], std


def effect(numbers: Numbers, test: Test, arrays: Arrays, quantiles: tuple[float, float]) -> Effect:
    """A claim's effect on the numbers whose draws are given."""
    if callable(test):
        if any(np.isnan(draws).any() for draws in arrays.values()):
            return Effect("no spread known", -math.inf, math.inf)
        share = share_of(numbers, test, arrays)
        return Effect(f"holds in {share:.0%} of draws", share - quantiles[1], share - quantiles[0])

    def interval(lead: np.ndarray, condition: str) -> tuple[float, float, float]:
        ends = np.quantile(lead[1:], quantiles)
        if np.isnan(ends).any():
            return float(claims.margin(lead[0], condition)), -math.inf, math.inf
        inside = lead[1:][(lead[1:] >= ends[0]) & (lead[1:] <= ends[1])]
        left = claims.margin(np.array([lead[0], *inside]), condition)
        return left[0], left.min(), left.max()

    point, low, high = _needed(_with(numbers, arrays), test, interval)
    ends = ["unknown" if math.isinf(end) else f"{round(end, 9):+.3g}" for end in (low, high)]
    text = f"{round(point, 9):+.3g}" + (f" [{', '.join(ends)}]" if high - low > TOLERANCE else "")
    return Effect(text.replace(" [unknown, unknown]", ", no spread known"), low, high)


def share_of(numbers: Numbers, test: Test, arrays: Arrays) -> float:
    """The share of draws in which a test holds."""
    if not callable(test):
        left = _needed(_with(numbers, arrays), test, lambda lead, by: claims.margin(lead[1:], by))
        return float((left > 0).mean())
    verdicts = [judge(_with(numbers, arrays, draw), test).verdict for draw in range(1, LOOPS + 1)]
    return verdicts.count(HOLDS) / LOOPS


def _with(numbers: Numbers, arrays: Arrays, draw: int | None = None) -> Numbers:
    """The same numbers with draws instead of cells, all or one of them."""
    drawn = {key: draws if draw is None else float(draws[draw]) for key, draws in arrays.items()}
    cells = {key: {"draws": (value, _number(numbers.cells, key)[1])} for key, value in drawn.items()}
    return Numbers(numbers.rows, numbers.cells | cells, numbers.options)


def _needed(numbers: Numbers, test: Test, summary: Callable[..., Sequence[float]]) -> np.ndarray:
    """The margin that decides a test of rows. summary: what to make of a difference's draws and condition."""
    rows = []
    for row in test:
        places = defaultdict(list)
        for key, lead in claims.leads_of(numbers, row).items():
            places[key[:2]].append(summary(lead, row.condition))
        stack = np.sort([np.min(own, axis=0) for own in places.values()], axis=0)
        rows.append(stack[-int(row.enough or len(stack))])
    return np.min(rows, axis=0)


def ledger_with_spread(paper: str, run: pd.DataFrame, settings: Any) -> pd.DataFrame:
    """`claims.ledger` with verdicts that know the spread, `published_effect`, `run_effect`, whose `limit` it
    is, the share of `noise` frames that meet the test, and the words of `claim_reasons.csv`. A run's interval
    is over the test images of its categories and over seeds; of pixel metrics over categories and seeds, as
    `over_categories` is of all, which decides nothing."""
    tests, options = claims.load_tests(paper)
    name = getattr(import_module(f"zsad_papers.{paper}.claims"), "SEEDS", "reference_seeds")
    seeds = getattr(settings, name), settings.reference_seeds
    own = {name: getattr(settings, name) for name in options}
    frames = load_published(paper), run[run["paper"].isin([paper])]
    table, found = claims.ledger(paper, run, settings).set_index("id"), defaultdict(dict)
    for side, rows, values, over in zip(SIDES, frames, (options, own), (None, seeds)):
        cells, images = claims.cells_of(rows), image_draws(rows)
        for claim, test in tests.items():
            limits = test.__doc__ if callable(test) else [row.limit for row in test]
            found["limit"][claim] = "ours" if "ours" in limits else "paper"
            verdict = judge(numbers := Numbers(rows, cells, values), test).verdict
            found[side][claim], found[f"{side}_effect"][claim] = verdict, ""
            found["over_categories"][claim] = ""
            if verdict == UNDECIDED:
                continue
            result = effect(numbers, test, draws_of(cells, numbers.keys, over, images), QUANTILES[side])
            found[f"{side}_effect"][claim] = result.text
            if over:
                other = effect(numbers, test, draws_of(cells, numbers.keys, over, {}), QUANTILES[side])
                found["over_categories"][claim] = other.text
                if TOLERANCE < result.high - result.low < math.inf:
                    found["run_effect"][claim] += f" over {_drawn(numbers, images)}"
            if (-result.low if verdict == HOLDS else result.high) > TOLERANCE:
                found[side][claim] = UNRESOLVED if side == "run" else verdict + INSIDE
            found["noise"].setdefault(claim, share_of(numbers, test, noise_draws(cells, numbers.keys)))
    reasons = read_table(paper, "claim_reasons.csv").set_index("id").reindex(table.index).fillna("")
    table = table.assign(**{column: pd.Series(values) for column, values in found.items()}).join(reasons)
    bare = table[list(SIDES)].replace(INSIDE, "", regex=True)
    table["agreement"] = claims.agreement(bare, [UNDECIDED, UNRESOLVED])
    return table.reset_index()


def _drawn(numbers: Numbers, images: Arrays) -> str:
    """What `draws_of` draws for the numbers that a test reads, apart from seeds."""
    classes = {(*key, "mean") for key, own in classes_of(numbers.cells).items() if len(own) > 1}
    kinds = {"images" if k in images else "categories" if k in classes else "" for k in numbers.keys}
    return " and ".join(sorted(kinds - {""})) or "seeds alone"
