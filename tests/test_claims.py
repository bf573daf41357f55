"""zsad_papers.common.claims: verdicts worked out by hand turn with the numbers.

- `claims_published.csv`: the verdict on the printed numbers, and how many numbers a test reads, by hand.
- `claims_evidence.csv`: rows that no table prints, and changes of printed ones, with which every claim holds.
- `claims_turned.csv`: changes of that evidence, and the verdict with them. Most are a tie, or the first
  number beyond a limit; those that hold are at the limit. The rows of one `case` change together.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import refused

from zsad_papers import all_papers
from zsad_papers.common import claims, results, spread
from zsad_papers.common.claims import UNDECIDED, Numbers, evaluate, judge, load_tests, meets
from zsad_papers.common.experiment import image_metrics
from zsad_papers.common.results import COLUMNS, as_published, load_published, read_table
from zsad_papers.common.settings import all_settings, read_settings


def read(name):
    path = Path(__file__).with_name(name)
    return pd.read_csv(path, keep_default_na=False, na_values={"mean": "", "std": ""})


EXPECTED = read("claims_published.csv").set_index("claim")
TURNED = dict(list(read("claims_turned.csv").groupby("case")))
CLAIMS = list(EXPECTED.index)
PAPERS = list(dict.fromkeys(claim.split("-")[0] for claim in CLAIMS))


def verdict(claim, frame, **options):
    """One claim's verdict, `rwda-c01`."""
    paper = claim.split("-")[0]
    tests, usual = load_tests(paper)
    rows = frame[frame["paper"] == paper]
    return judge(Numbers(rows, claims.cells_of(rows), {**usual, **options}), tests[claim])


@pytest.fixture(scope="module")
def published():
    return pd.concat([load_published(paper) for paper in all_papers()], ignore_index=True)


@pytest.fixture(scope="module")
def evidence(published):
    """The printed rows with other means in all tables that print them, and the rows that these lack."""
    keys, changes = [key for key in results.KEYS if key != "artifact"], read("claims_evidence.csv")
    means = changes.set_index(keys)["mean"]
    cells = pd.MultiIndex.from_frame(published[keys])
    known = cells.isin(means.index)
    frame = published.assign(mean=np.where(known, means.reindex(cells), published["mean"]))
    new = changes[~pd.MultiIndex.from_frame(changes[keys]).isin(cells)]
    return results.validate(pd.concat([frame, new.reindex(columns=COLUMNS)], ignore_index=True))


def test_the_lists_of_this_test_have_every_claim():
    assert [claim for paper in PAPERS for claim in read_table(paper, "claims.csv")["id"]] == CLAIMS
    fails = {case["claim"].iloc[0] for case in TURNED.values() if (case["verdict"] == claims.FAILS).all()}
    assert fails == set(CLAIMS)


@pytest.mark.parametrize("paper", PAPERS)
def test_verdicts_on_the_published_numbers(published, paper):
    table = evaluate(paper, published).set_index("id")
    assert table["verdict"].to_dict() == EXPECTED.loc[table.index, "verdict"].to_dict()
    assert table.loc[table["verdict"] == UNDECIDED, "reason"].str.startswith("no row for").all()
    agreement = claims.ledger(paper, published)["agreement"].to_numpy()
    assert (agreement == np.where(table["verdict"] == UNDECIDED, "open", "same verdict")).all()
    run = published.assign(dataset=published["dataset"].replace({"mvtec": "mini_mvtec"}))
    assert evaluate(paper, as_published(run, {"mvtec": "mini_mvtec"})).set_index("id").equals(table)
    others = published.assign(mean=published["mean"].where(published["paper"] == paper, 0.5))
    assert evaluate(paper, others).set_index("id").equals(table)


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_holds_on_the_evidence_and_needs_all_rows_that_it_names(evidence, claim):
    found = verdict(claim, evidence)
    assert found.verdict == claims.HOLDS, found.reason
    undefined = verdict(claim, evidence.assign(mean=math.nan))
    assert undefined.verdict == UNDECIDED
    assert undefined.reason.count(" is undefined") == EXPECTED.loc[claim, "reads"]
    nothing = verdict(claim, evidence.iloc[:0])
    assert nothing.verdict == UNDECIDED and nothing.reason.startswith("no row for")


@pytest.fixture(scope="module")
def cells(evidence):
    return {paper: (rows, claims.cells_of(rows)) for paper, rows in evidence.groupby("paper")}


@pytest.mark.parametrize("case", TURNED)
def test_changed_numbers_turn_a_verdict_and_limits_are_allowed(cells, case):
    claim, expected = TURNED[case].iloc[0][["claim", "verdict"]]
    rows, known = cells[claim.split("-")[0]]
    keys = ["metric", "task", "method", "variant", "shots", "dataset", "category"]
    turned = TURNED[case].set_index(keys)["mean"].to_dict()
    assert set(turned) <= set(known)
    changes = {key: {"run": (mean, math.nan)} for key, mean in turned.items()}
    tests, options = load_tests(claim.split("-")[0])
    assert judge(Numbers(rows, known | changes, options), tests[claim]).verdict == expected


def test_conditions_allow_for_rounding():
    assert meets(92.2 - 91.2, ">= 1") and not meets(92.2 - 91.2, "> 1") and meets(92.2 - 91.2, "<= 1")
    assert meets(-2.0, "abs <= 2") and not meets(-2.1, "abs <= 2") and meets(-2.1, "< -2")
    assert not meets(2.1, "> 0, <= 2") and not meets(0.0, "> 0, <= 2") and not meets(math.nan, "<= 2")


def test_errors_name_what_is_wrong(monkeypatch, published):
    refused("is no method; expected for example", claims.method_key, "winclip (4)")
    assert claims.method_key("cutpaste (full-shot)")[2] == results.FULL_SHOT
    refused("'about 2' is no condition", meets, 1.0, "about 2")
    test = [claims.Comparison("", "a", "{pairs}", "image auroc", "mvtec")]
    message = r"'pairs' is no option of this paper's claims; .*'names'"
    refused(message, judge, Numbers(published, {}, {"names": ()}), test)
    tables = {name: read_table("rwda", name) for name in ("claims.csv", "claim_tests.csv")}
    monkeypatch.setattr(claims, "read_table", lambda paper, name: tables[name])
    usual = tables["claim_tests.csv"]
    for table, error in (
        (usual.query("id != 'rwda-c05'"), r"\['rwda-c05'\] are not both in claims.csv and tested"),
        (usual.replace("rwda-c05", "rwda-c17"), "rwda-c17 has a function .* and a row in claim_tests.csv"),
    ):
        tables["claim_tests.csv"] = table
        refused(error, load_tests.__wrapped__, "rwda")


def test_tables_that_differ_leave_a_claim_undecided(published):
    twice = (published["artifact"] == "T7") & (published["category"] == "mean") & (published["variant"] == "")
    found = verdict("winclip-c28", published.assign(mean=published["mean"].mask(twice, 78.0)))
    where = "winclip T1, winclip T7, winclip T16"
    assert found.verdict == UNDECIDED
    assert found.reason == f"visa auroc winclip differs between {where}: [78.1, 78.0, 78.1]"


def spread_of(first, second, stds=(math.nan, math.nan), condition="> 0", kind="run"):
    """The effect of `first` minus `second`, each a mean or the values of its categories."""
    cells, test = {}, [claims.Comparison("", "a", "b", "image auroc", "mvtec", condition=condition)]
    for name, values, std in zip("ab", (first, second), stds):
        for category, mean in {"mean": np.mean(values), **dict(enumerate(np.atleast_1d(values)))}.items():
            if category == "mean" or np.size(values) > 1:
                cells["auroc", "image", name, "", 0, "mvtec", category] = {"T1": (float(mean), std)}
    keys = [key for key in cells if key[-1] == "mean"]
    numbers = Numbers(pd.DataFrame(columns=COLUMNS), cells)
    draws = spread.draws_of(cells, keys, (4, 4) if kind == "run" else None, {})
    return spread.effect(numbers, test, draws, spread.QUANTILES[kind])


def test_an_interval_pairs_categories_and_seeds_and_is_unknown_without_either():
    classes = np.array([60.0, 70, 80, 90])
    low, high = spread_of(classes + [1, 2, 1, 2], classes)[1:]
    assert 0.9 < low < 1.3 and 1.7 < high < 2.1  # the categories differ by 30, their differences by 1
    assert spread_of(85.0, 84.0).text == "+1, no spread known"
    low, high = spread_of(85.0, 84.0, stds=(1.0, 1.0))[1:]  # over 4 seeds: 1.96 * sqrt(1/4 + 1/4) = 1.39
    assert low == pytest.approx(-0.39, abs=0.25) and high == pytest.approx(2.39, abs=0.25)
    low, high = spread_of(85.0, 84.0, stds=(2.0, 0.0), kind="published")[1:]
    assert low == pytest.approx(-1, abs=0.4) and high == pytest.approx(3, abs=0.4)
    low, high = spread_of(84.0, 84.0, (2.0, 2.0), "abs <= 1")[1:]
    assert -3.5 < low < -0.5 and high == pytest.approx(1, abs=0.05)  # the number lies inside its interval


def test_images_give_delongs_variance_of_paired_differences_with_categories_as_strata(tmp_path):
    random, labels, frames, variance = np.random.default_rng(1), np.repeat([0, 1], [40, 60]), [], 0.0
    first = {category: random.normal(labels) for category in "xy"}
    scores = {"a": first, "b": {c: own + random.normal(0, 0.5, 100) for c, own in first.items()}}
    for c in first:  # (normal, anomalous)
        lead = np.subtract(*(np.heaviside(s[c][40:] - s[c][:40, None], 0.5) for s in scores.values()))
        variance += (lead.mean(0).var(ddof=1) / 60 + lead.mean(1).var(ddof=1) / 40) / 4
    for name, own in scores.items():
        values = pd.DataFrame([{"category": c, **image_metrics(labels, s, c)} for c, s in own.items()])
        frames.append(results.rows(values, paper="p", artifact="T1", dataset="d", method=name))
    results.write_results(pd.concat(frames), tmp_path / "t.csv")
    back = results.read_results(tmp_path / "t.csv")
    keys = [("auroc", "image", name, "", 0, "d", "mean") for name in scores]
    draws = spread.draws_of(claims.cells_of(back), keys, (1, 1), spread.image_draws(back))
    assert (draws[keys[0]] - draws[keys[1]])[1:].std() == pytest.approx(100 * math.sqrt(variance), rel=0.15)


@pytest.mark.parametrize("paper", PAPERS)
def test_the_ledger_has_a_word_where_verdicts_differ_and_where_noise_would_do(paper, root):
    settings = read_settings({"profile": "mini"}, all_settings())
    run = as_published(results.read_results((root / "reference" / "mini").glob("*.csv")), settings.datasets)
    table = spread.ledger_with_spread(paper, run, settings).set_index("id")
    bare = claims.ledger(paper, run, settings).set_index("id")
    unresolved = table["run"] == spread.UNRESOLVED
    assert unresolved.any() and (table["run"].where(~unresolved, bare["run"]) == bare["run"]).all()
    ends = table["run_effect"].str.extract(r"\[(.*), (.*)\]").apply(pd.to_numeric, errors="coerce")
    assert (
        not (ends[0][table["run"] == "holds"] < 0).any() and not (ends[1][table["run"] == "fails"] > 0).any()
    )
    assert not list(table.index[(bare["agreement"] == "other verdict") & (table["differs"] == "")])
    assert not list(table.index[(table["noise"] > spread.EASY) & (table["noise_word"] == "")])
