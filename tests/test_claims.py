"""zsad_papers.common.claims: verdicts worked out by hand turn with the numbers.

- `claims_published.csv`: the verdict on the printed numbers, and how many numbers a test reads, by hand.
- `claims_evidence.csv`: rows that no table prints, and changes of printed ones, with which every claim holds.
- `claims_turned.csv`: changes of that evidence, and the verdict with them. Most are a tie, or the first
  number beyond a limit; those that hold are at the limit. The rows of one `case` change together.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from zsad_papers import all_papers
from zsad_papers.common import claims
from zsad_papers.common.claims import (
    FAILS,
    HOLDS,
    UNDECIDED,
    Comparison,
    Numbers,
    Verdict,
    evaluate,
    judge,
    ledger,
    load_claims,
    load_tests,
    meets,
    method_key,
)
from zsad_papers.common.results import COLUMNS, FULL_SHOT, KEYS, as_roles, load_published, validate
from zsad_papers.rwda.claims import WORD_PAIR_VARIANTS

HERE = Path(__file__).parent
CELL = [key for key in KEYS if key not in ("paper", "artifact")]


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(HERE / name, keep_default_na=False, na_values={"mean": "", "std": ""})


EXPECTED = read("claims_published.csv").set_index("claim")
TURNED = dict(list(read("claims_turned.csv").groupby("case")))
CLAIMS = list(EXPECTED.index)
PAPERS = list(dict.fromkeys(claim.split("-")[0] for claim in CLAIMS))


def changed(frame: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """The frame with other means in all tables that print them, and with the rows that it lacks."""
    keys = ["paper", *CELL]
    means = changes.set_index(keys)["mean"]
    cells = pd.MultiIndex.from_frame(frame[keys])
    known = cells.isin(means.index)
    frame = frame.assign(mean=np.where(known, means.reindex(cells), frame["mean"]))
    new = changes[~pd.MultiIndex.from_frame(changes[keys]).isin(cells)]
    return pd.concat([frame, new.reindex(columns=COLUMNS)], ignore_index=True) if len(new) else frame


def measured(paper: str, *rows: dict) -> pd.DataFrame:
    """A run's frame; what a row leaves out is a zero-shot image AUROC of the paper's method on mvtec."""
    default = {"paper": paper, "artifact": "run", "dataset": "mvtec", "category": "mean", "task": "image"}
    default |= {"shots": 0, "method": paper, "variant": "", "metric": "auroc", "std": math.nan}
    return validate(pd.DataFrame([default | row for row in rows], columns=COLUMNS))


def verdict(claim: str, frame: pd.DataFrame, **options) -> Verdict:
    """One claim's verdict, `rwda-c01`."""
    paper = claim.split("-")[0]
    tests, usual = load_tests(paper)
    rows = frame[frame["paper"] == paper]
    return judge(Numbers(rows, claims.cells_of(rows), {**usual, **options}), tests[claim])


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return pd.concat([load_published(paper) for paper in all_papers()], ignore_index=True)


@pytest.fixture(scope="module")
def evidence(published) -> pd.DataFrame:
    return validate(changed(published, read("claims_evidence.csv")))


def test_the_lists_of_this_test_have_every_claim():
    assert [claim for paper in PAPERS for claim in load_claims(paper)["id"]] == CLAIMS
    fails = {case["claim"].iloc[0] for case in TURNED.values() if (case["verdict"] == FAILS).all()}
    assert fails == set(CLAIMS)


@pytest.mark.parametrize("paper", PAPERS)
def test_verdicts_on_the_published_numbers(published, paper):
    table = evaluate(paper, published).set_index("id")
    assert table["verdict"].to_dict() == EXPECTED.loc[table.index, "verdict"].to_dict()
    assert table.loc[table["verdict"] == UNDECIDED, "reason"].str.startswith("no row for").all()
    run = published.assign(dataset=published["dataset"].replace({"mvtec": "mini_mvtec", "visa": "mini_visa"}))
    named = as_roles(run, {"mvtec": "mini_mvtec", "visa": "mini_visa"})
    assert evaluate(paper, named).set_index("id").equals(table)
    others = published.assign(mean=published["mean"].where(published["paper"] == paper, 0.5))
    assert evaluate(paper, others).set_index("id").equals(table)
    assert set(evaluate(paper, pd.DataFrame(columns=COLUMNS))["verdict"]) == {UNDECIDED}


def test_c07_of_rwda_compares_spreads_too(evidence):
    other = evidence["std"].mask(evidence["variant"] == "object_known", 0.7)
    assert verdict("rwda-c07", evidence.assign(std=other)).verdict == FAILS


@pytest.mark.parametrize("claim", CLAIMS)
def test_every_claim_holds_on_the_evidence_and_needs_all_rows_that_it_names(evidence, claim):
    found = verdict(claim, evidence)
    assert found.verdict == HOLDS, found.reason
    undefined = verdict(claim, evidence.assign(mean=math.nan))
    assert undefined.verdict == UNDECIDED
    assert undefined.reason.count(" is undefined") == EXPECTED.loc[claim, "reads"]
    nothing = verdict(claim, evidence.iloc[:0])
    assert nothing.verdict == UNDECIDED and nothing.reason.startswith("no row for")


@pytest.fixture(scope="module")
def cells(evidence) -> dict[str, tuple[pd.DataFrame, claims.Cells]]:
    return {paper: (rows, claims.cells_of(rows)) for paper, rows in evidence.groupby("paper")}


@pytest.mark.parametrize("case", TURNED)
def test_changed_numbers_turn_a_verdict_and_limits_are_allowed(cells, case):
    claim, expected = TURNED[case].iloc[0][["claim", "verdict"]]
    rows, known = cells[claim.split("-")[0]]
    turned = {
        (row.metric, row.task, row.method, row.variant, row.shots, row.dataset, row.category): row.mean
        for row in TURNED[case].itertuples()
    }
    assert set(turned) <= set(known)
    changes = {key: {"run": (mean, math.nan)} for key, mean in turned.items()}
    tests, options = load_tests(claim.split("-")[0])
    assert judge(Numbers(rows, known | changes, options), tests[claim]).verdict == expected


NUMBERS = {  # on the published numbers, by hand: all that a verdict shows
    "rwda-c01": [0.7, 1.7, 0.3, 1.0, 0.8, 1.8],  # 92.2 - 91.5, 78.2 - 76.5, ...
    "rwda-c13": [0.3, 1 + 0.30 / 77.81],
    "rwda-c14": [41.9 / 18.3],
    "rwda-c28": [-0.9, 1.2, 0.1],
    "winclip-c02": [39.8, 20.2, 5.0],  # 74.0 - 34.2, ..., 88.5 - 83.5
    "winclip-c05": [15.8 - 1.0],  # 89.8 - 74.0, 90.8 - 89.8
    "winclip-c11": [9.7, 3.9],  # 93.1 - 83.4, 83.8 - 79.9
    "winclip-c16": [0.0, 0.2],
    "winclip-c29": [5.3, 5.3 - 0.8],  # 56.5 - 51.2, and the mean's gain
    "winclip-c37": [(71.1 + 85.1 + 64.4 - 86.1 - 90.8 - 86.1) / 3
                    - (65.6 + 62.4 + 71.3 + 65.3 - 79.8 - 79.2 - 81.9 - 82.3) / 4],
    "anomalyclip-c18": [7.6, 5.5],  # 91.5 - 80.7 - (91.1 - 87.9), 82.1 - 73.0 - (95.5 - 91.9)
    "anomalyclip-c34": [6.9, 3.5, -0.4, -0.4],
    "anomalyclip-c35": [10.3, 8.3],
    "anomalyclip-c37": [2.9, 13.1 / 6],
    "anomalyclip-c46": [8.92 / 1.20],
}  # fmt: skip


@pytest.mark.parametrize("claim", NUMBERS)
def test_numbers_behind_published_verdicts_by_hand(published, claim):
    np.testing.assert_allclose(list(verdict(claim, published).numbers.values()), NUMBERS[claim], atol=1e-6)


def test_reasons_name_what_stands_against_a_claim(published):
    lead = "winclip_plus (4-shot) - patchcore (4-shot)"
    found = verdict("winclip-c10", published)
    assert found.reason == f"met in 53 of 54; visa f1max {lead} is not > 0"
    assert found.numbers == {f"smallest of 54, visa f1max {lead}": -0.1}
    assert verdict("rwda-c03", published).reason.startswith("met in 5 of 6; 5 cells are needed; mvtec aupr")
    assert verdict("anomalyclip-c42", published).reason.startswith(
        "no row for isic pixel auroc anomalyclip[word"
    )


def test_word_pair_numbers_against_scipy_and_the_table(published):
    table = published[(published["artifact"] == "T4") & (published["paper"] == "rwda")]
    assert set(table["variant"]) == set(WORD_PAIR_VARIANTS)
    table = table.pivot(index="variant", columns="method", values="mean")
    gain = table["clip_rwda"] - table["clip"]
    worst = table["clip"].sort_values().index
    expected = [spearmanr(table["clip"], gain).statistic, gain[worst[:8]].mean(), gain[worst[8:]].mean()]
    np.testing.assert_allclose(list(verdict("rwda-c19", published).numbers.values()), expected, atol=1e-6)
    spread = verdict("rwda-c20", published).numbers
    np.testing.assert_allclose(spread["std of clip"], table["clip"].std(), atol=1e-6)
    np.testing.assert_allclose(spread["range of clip_rwda"], 92.2 - 71.9, atol=1e-6)


def test_leads_against_pivots_of_the_main_tables(published):
    """The tables as arrays: neither lookups nor names of the tests."""
    few = published[(published["paper"] == "winclip") & published["artifact"].isin(["T1", "T4"])]
    few = few.query("shots > 0")
    few = few.pivot(index=["task", "dataset", "metric", "shots"], columns="method", values="mean")
    leads = few["winclip_plus"] - few[["spade", "padim", "patchcore"]].max(axis=1)
    for claim, task in (("winclip-c10", "image"), ("winclip-c14", "pixel")):
        shown = list(verdict(claim, published).numbers.values())
        np.testing.assert_allclose(shown, [leads[task].min()], atol=1e-6)
    own = published[(published["paper"] == "anomalyclip") & published["artifact"].isin(["T1", "T2"])]
    table = own.pivot(index=["artifact", "task", "metric", "dataset"], columns="method", values="mean")
    others = table.drop(columns="anomalyclip")
    won = (table["anomalyclip"] > others.max(axis=1)) & others.notna().all(axis=1)
    shown = verdict("anomalyclip-c01", published).numbers
    for name, count in won["T1"].groupby(level=["task", "metric"]).sum().items():
        assert shown[f"{' '.join(name)}, datasets won"] == count
    pixel = table["anomalyclip"].xs("pixel", level="task").xs("auroc", level="metric")
    means = [pixel[artifact].mean() for artifact in ("T1", "T2")]
    np.testing.assert_allclose(list(verdict("anomalyclip-c06", published).numbers.values()), means, atol=1e-6)


VALUES = {"a": 6.0, "b": 4.0, "c": 5.0}  # by method on mvtec; on visa 1 less, in aupr a half


def synthetic(**changes: float) -> Numbers:
    frame = measured("x", *(
        {"dataset": d, "method": name, "metric": metric, "mean": max(value - (d == "visa"), 0) * share}
        for name, value in (VALUES | changes).items()
        for d in ("mvtec", "visa")
        for metric, share in (("auroc", 1), ("aupr", 0.5))
    ))  # fmt: skip
    return Numbers(frame, claims.cells_of(frame), {"names": ("b", "c"), "name": "b"})


@pytest.mark.parametrize(
    ("first", "second", "more", "leads"),
    [
        ("a", "b", {}, [2, 2, 1, 1]),
        ("a", "", {}, [6, 5, 3, 2.5]),
        ("a", "1.5", {"measures": "image auroc"}, [4.5, 3.5]),
        ("a", "{names}", {"datasets": "mvtec"}, [2, 1, 1, 0.5]),
        ("a", "{name}", {"datasets": "mvtec"}, [2, 1]),
        ("{b|c}", "{b|c}", {"datasets": "mvtec"}, [0] * 4),
        ("b | c", "b | c", {"datasets": "mvtec", "measures": "image auroc"}, [0, -1, 1, 0]),
        ("a - b", "a - c", {"datasets": "mvtec"}, [1, 0.5]),
        ("a", "b", {"measures": "image auroc - image aupr"}, [1, 1]),
        ("a", "", {"average": "datasets"}, [5.5, 2.75]),
        ("a", "", {"average": "datasets | measures"}, [16.5 / 4]),
        ("b | c", "a", {"average": "settings", "datasets": "mvtec"}, [-1.5, -0.75]),
        ("a", "b", {"condition": "ratio > 0", "measures": "image auroc"}, [1.5, 5 / 3]),
        ("a", "b", {"datasets": "any where a | b", "measures": "image auroc"}, [2, 2]),
        ("a", "b", {"datasets": "visa | mpdd where a", "measures": "image auroc"}, [2]),
    ],
)
def test_leads_of_a_row(first, second, more, leads):
    row = {"measures": "image auroc | image aupr", "datasets": "mvtec | visa"} | more
    found = judge(synthetic(), [Comparison("", first, second, **row)])
    assert list(found.numbers.values()) == pytest.approx(leads)


def test_rows_are_joined_and_enough_counts_cells_with_all_pairs():
    row = Comparison("", "a", "b | c", "image auroc", "mvtec | visa")
    assert judge(synthetic(), [row]).verdict == HOLDS
    assert judge(synthetic(a=5.0), [row]).verdict == FAILS
    assert judge(synthetic(), [row, row._replace(second="a")]).verdict == FAILS
    frame = changed(synthetic().rows, measured("x", {"dataset": "visa", "method": "c", "mean": 9.0}))
    for enough, expected in (("1", HOLDS), ("2", FAILS)):
        found = judge(Numbers(frame, claims.cells_of(frame)), [row._replace(enough=enough)])
        assert found.verdict == expected
    zero = judge(synthetic(b=0.0), [row._replace(datasets="mvtec", second="b", condition="ratio >= 3")])
    assert zero.verdict == HOLDS and list(zero.numbers.values()) == [math.inf]


def test_conditions_allow_for_rounding():
    assert meets(92.2 - 91.2, ">= 1") and not meets(92.2 - 91.2, "> 1") and meets(92.2 - 91.2, "<= 1")
    assert meets(-2.0, "abs <= 2") and not meets(-2.1, "abs <= 2") and meets(-2.1, "< -2")
    assert not meets(2.1, "> 0, <= 2") and not meets(0.0, "> 0, <= 2") and not meets(math.nan, "<= 2")


def test_errors_name_what_is_wrong(monkeypatch, published):
    for bad in ("winclip[", "winclip (4)", "a b"):
        with pytest.raises(ValueError, match="is no method; expected for example"):
            method_key(bad)
    assert method_key("cutpaste (full-shot)").shots == FULL_SHOT
    with pytest.raises(ValueError, match="'about 2' is no condition"):
        meets(1.0, "about 2")
    with pytest.raises(
        ValueError, match=r"'pairs' is no option of this paper's claims; .*\['name', 'names'\]"
    ):
        judge(synthetic(), [Comparison("", "a", "{pairs}", "image auroc", "mvtec")])
    with pytest.raises(ValueError, match="paper is 'vand'; expected one of"):
        evaluate("vand", published)
    tables = {name: load_claims("rwda", name) for name in ("claims.csv", "claim_tests.csv")}
    monkeypatch.setattr(claims, "load_claims", lambda paper, name="claims.csv": tables[name])
    usual = tables["claim_tests.csv"]
    for table, error in (
        (usual.query("id != 'rwda-c05'"), r"\['rwda-c05'\] are not both in claims.csv and tested"),
        (usual.replace("rwda-c05", "rwda-c29"), r"\['rwda-c05', 'rwda-c29'\] are not both"),
        (usual.replace("rwda-c05", "rwda-c07"), "rwda-c07 has a function .* and a row in claim_tests.csv"),
    ):
        tables["claim_tests.csv"] = table
        with pytest.raises(ValueError, match=error):
            load_tests.__wrapped__("rwda")


def test_tables_that_differ_leave_a_claim_undecided(published):
    twice = (published["artifact"] == "T7") & (published["category"] == "mean") & (published["variant"] == "")
    found = verdict("winclip-c28", published.assign(mean=published["mean"].mask(twice, 78.0)))
    assert found.verdict == UNDECIDED and found.reason == (
        "visa auroc winclip differs between winclip T1, winclip T7, winclip T16: [78.1, 78.0, 78.1]"
    )


def test_the_ledger_sets_verdicts_side_by_side(published):
    row = {"method": "clip_rwda", "variant": "object_unknown", "mean": 91.0}
    table = ledger("rwda", changed(published, measured("rwda", row))).set_index("id")
    assert table.loc["rwda-c01", ["published", "run", "agreement"]].tolist() == [
        HOLDS,
        FAILS,
        "other verdict",
    ]
    assert table.loc["rwda-c02", "agreement"] == "same verdict"
    assert table.loc["rwda-c16", "agreement"] == "open"
    assert "clip_rwda[object_unknown] - clip[object_unknown] -0.5" in table.loc["rwda-c01", "run_numbers"]
    sizes = SimpleNamespace(n_pairs=3, pair_counts=(2, 3))
    own = ledger("rwda", published, sizes).set_index("id").loc["rwda-c16"]
    assert own["run_reason"].count("no row") == 2 and own["published_reason"].count("no row") == 6


def test_c01_of_anomalyclip_is_open_where_a_method_that_was_not_run_could_turn_it(published):
    claim, coop = "anomalyclip-c01", {"dataset": "dtd_synthetic", "method": "coop"}
    lost = measured("anomalyclip", {"dataset": "visa", "method": "winclip", "mean": 82.1})
    four = changed(published, lost)  # CoOp on DTD-Synthetic would decide
    assert verdict(claim, four).reason == "no row for dtd_synthetic auroc coop"
    for mean, expected in ((93.4, HOLDS), (93.5, FAILS)):
        run = changed(four, measured("anomalyclip", coop | {"mean": mean}))
        assert verdict(claim, run).verdict == expected


def sweep(dataset: str, letter: str, *values: int) -> list[dict]:
    """Highest in the middle of the values."""
    return [
        {"dataset": dataset, "task": task, "metric": metric, "variant": f"{letter}={v}"}
        | {"mean": 80.0 - abs(i - len(values) // 2)}
        for i, v in enumerate(values)
        for task, metric in (("pixel", "pro"), ("image", "ap"))
    ]


@pytest.mark.parametrize(
    ("claim", "values", "expected", "reason"),
    [
        ("c39", (2, 4, 6), HOLDS, ""),
        ("c39", (2, 4), UNDECIDED, "mvtec has M of [2, 4]; expected at least 3 values"),
        ("c39", (2,), UNDECIDED, "mvtec has M of [2]; expected at least 3 values"),
        ("c38", (8, 12, 16), HOLDS, ""),
        ("c38", (8, 12, 14), UNDECIDED, "no row for mvtec pixel pro anomalyclip[E=16]"),
        ("c40", (2, 3, 6), UNDECIDED, "no row for mvtec ap anomalyclip[L=4]"),
        ("c40", (3, 4, 8, 16), FAILS, "L=4 within 0.5 of it is needed"),
        ("c41", (1, 3, 4), UNDECIDED, "N=2]"),
    ],
)
def test_sweeps_take_the_values_that_there_are(claim, values, expected, reason):
    letter = {"c38": "E", "c39": "M", "c40": "L", "c41": "N"}[claim]
    found = verdict(f"anomalyclip-{claim}", measured("anomalyclip", *sweep("mvtec", letter, *values)))
    assert found.verdict == expected and reason in found.reason


def test_the_backbone_of_s8_may_have_any_name_but_must_be_one(published):
    mini = published["variant"].replace({"backbone=vit_b_16_plus": "backbone=zsad_mini"})
    run = published.assign(variant=mini)
    verdicts = [verdict(f"winclip-{claim}", run).verdict for claim in ("c33", "c34", "c35", "c36")]
    assert verdicts == [HOLDS, FAILS, HOLDS, UNDECIDED]
    two = verdict("winclip-c35", pd.concat([published, run[mini == "backbone=zsad_mini"]]))
    assert two.reason.startswith(
        "rows for backbone=vit_b_16_plus, backbone=zsad_mini of both winclip_plus and"
    )
    own = published.assign(variant=mini.where(published["method"] == "winclip_plus", published["variant"]))
    assert verdict("winclip-c35", own).reason.startswith("no row for a backbone of both winclip_plus and")


def test_c39_of_winclip_takes_the_other_categories_that_there_are(published):
    four = ["cable", "capsule", "pcb1", "pcb3"]
    two = verdict("winclip-c39", published[published["category"].isin([*four, "pill", "pipe_fryum"])])
    assert two.numbers == {"mean gain of the four": 9.6, "mean gain of 2 others": 21.25}  # (13.7 + 28.8) / 2
    none = verdict("winclip-c39", published[published["category"].isin(four)])
    assert none.reason == "no row for any category beside cable, capsule, pcb1 and pcb3"
    new = {"category": "new", "mean": 50.0}  # read at 0 and at 4 shots only, and without ablations
    unread = measured("winclip", new | {"shots": 1}, new | {"task": "pixel"}, new | {"dataset": "textile"})
    assert verdict("winclip-c39", pd.concat([published, unread])).verdict == HOLDS
    read_too = measured("winclip", new | {"method": "winclip_plus", "shots": 4})
    assert "mvtec new auroc winclip" in verdict("winclip-c39", pd.concat([published, read_too])).reason


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=12, max_size=12))
def test_c01_of_rwda_is_the_sign_of_the_smallest_gain(tenths):
    cells = [{"dataset": d, "metric": m} for d in ("mvtec", "visa") for m in ("auroc", "aupr", "f1max")]
    sides = zip(("clip", "clip_rwda"), (tenths[:6], tenths[6:]))
    rows = [
        cell | {"method": method, "variant": "object_unknown", "mean": value / 10}
        for method, values in sides
        for cell, value in zip(cells, values)
    ]
    gains = [b - a for a, b in zip(tenths[:6], tenths[6:])]
    assert verdict("rwda-c01", measured("rwda", *rows)).verdict == (HOLDS if min(gains) > 0 else FAILS)
