"""zsad_papers.common.claims: verdicts on published numbers, worked out by hand, turn with the numbers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from zsad_papers.common.claims import Verdict, evaluate, ledger, load_claims, predicates
from zsad_papers.common.results import COLUMNS, KEYS, as_roles, load_published, validate
from zsad_papers.rwda.claims import WORD_PAIR_VARIANTS

HOLDS, FAILS, UNDECIDED = "holds", "fails", "cannot be decided"

PUBLISHED_VERDICTS = {
    # c04: VisA AUROC +1.7 unknown, +3.5 known; AUPR +1.0, +2.4 (Table 1)
    **{f"rwda-c{i:02d}": HOLDS for i in (1, 2, 3, 5, 6, 8, 9, 10, 13, 14, 15, 18, 19, 20, 24, 27, 28)},
    "rwda-c04": FAILS,
    **{f"rwda-c{i:02d}": UNDECIDED for i in (7, 11, 12, 16, 17, 21, 22, 23, 25, 26)},
}


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    return load_published("rwda")


def changed(frame: pd.DataFrame, mean: float, **keys: str | int) -> pd.DataFrame:
    """The frame with the mean of exactly one row set."""
    rows = (frame[list(keys)] == list(keys.values())).all(axis=1) & (frame["category"] == "mean")
    assert rows.sum() == 1, keys
    return frame.assign(mean=frame["mean"].mask(rows, mean))


def measured(*rows: tuple) -> pd.DataFrame:
    """A run's frame: (dataset, method, variant, shots, metric, mean[, std])."""
    names = ["dataset", "method", "variant", "shots", "metric", "mean", "std"]
    frame = pd.DataFrame([dict(zip(names, (*row, math.nan)[:7])) for row in rows])
    task = np.where(
        frame["metric"].isin(["auroc", "aupr", "f1max", "latency_ms", "macs_G", "params_M"]), "image", "text"
    )
    return validate(frame.assign(paper="rwda", artifact="run", category="mean", task=task))


def verdict(claim: str, frame: pd.DataFrame, **options) -> Verdict:
    return predicates("rwda")[f"rwda-{claim}"](frame, **options)


def test_every_claim_has_a_predicate_that_returns_its_own_id(published):
    tests = predicates("rwda")
    assert (
        list(tests) == [claim.id for claim in load_claims("rwda")] == [f"rwda-c{i:02d}" for i in range(1, 29)]
    )
    assert all(test(published).claim_id == name for name, test in tests.items())


def test_verdicts_on_the_published_numbers(published):
    table = evaluate("rwda", published)
    assert dict(zip(table["id"], table["verdict"])) == PUBLISHED_VERDICTS
    undecided = table[table["verdict"] == UNDECIDED]
    assert undecided["reason"].str.contains("no row for").all()


def test_numbers_behind_published_verdicts_by_hand(published):
    assert verdict("c01", published).numbers == {
        "mvtec auroc gain": 0.7,  # 92.2 - 91.5
        "mvtec aupr gain": 0.3,
        "mvtec f1max gain": 0.8,
        "visa auroc gain": 1.7,  # 78.2 - 76.5
        "visa aupr gain": 1.0,
        "visa f1max gain": 1.8,
    }
    assert verdict("c03", published).numbers["mvtec aupr lead"] == -0.1  # 96.4 - 96.5, the only one of six
    assert verdict("c04", published).reason == "not larger in visa auroc, visa aupr"
    assert verdict("c09", published).numbers == {
        "mvtec auroc lead 1-shot": 0.2,  # 93.3 - 93.1
        "visa auroc lead 1-shot": -0.4,
        "mvtec auroc lead 4-shot": -0.7,
        "visa auroc lead 4-shot": -0.7,
    }
    assert verdict("c13", published).numbers["added percent"] == pytest.approx(100 * 0.30 / 77.81, abs=1e-4)
    assert verdict("c14", published).numbers["ratio"] == pytest.approx(41.9 / 18.3, abs=1e-4)
    assert verdict("c28", published).numbers == {
        "mvtec auroc gain": 1.2,
        "visa auroc gain": 0.1,
        "sewerml auroc gain": -0.9,
    }


def test_word_pair_numbers_against_scipy_and_the_table(published):
    table = published[published["artifact"] == "T4"].pivot(index="variant", columns="method", values="mean")
    gain = table["clip_rwda"] - table["clip"]
    shown = verdict("c19", published).numbers
    np.testing.assert_allclose(
        shown["Spearman correlation"], spearmanr(table["clip"], gain).statistic, atol=1e-6
    )
    worst = table["clip"].sort_values().index[:8]
    np.testing.assert_allclose(shown["mean gain of 8 worst"], gain[worst].mean(), atol=1e-6)
    spread = verdict("c20", published).numbers
    np.testing.assert_allclose(spread["std of clip"], table["clip"].std(), atol=1e-6)
    np.testing.assert_allclose(spread["range of clip_rwda"], 92.2 - 71.9, atol=1e-6)


T1 = {"artifact": "T1", "metric": "auroc"}


@pytest.mark.parametrize(
    ("claim", "mean", "keys"),
    [
        ("c01", 91.5, T1 | {"dataset": "mvtec", "method": "clip_rwda", "variant": "object_unknown"}),  # a tie
        ("c02", 76.3, T1 | {"dataset": "visa", "method": "clip_rwda", "variant": "object_known"}),
        ("c03", 93.1, T1 | {"dataset": "mvtec", "method": "winclip", "variant": "object_known"}),
        ("c05", 93.6, T1 | {"dataset": "mvtec", "method": "winclip", "variant": "object_known"}),
        ("c06", 91.1, {"artifact": "T2", "method": "winclip", "metric": "auroc"}),
        ("c08", 94.4, T1 | {"dataset": "mvtec", "method": "winclip", "shots": 1}),
        ("c09", 94.4, T1 | {"dataset": "mvtec", "method": "winclip", "shots": 4}),
        ("c10", 94.2, T1 | {"dataset": "mvtec", "method": "winclip", "shots": 4}),
        ("c13", 78.13, {"artifact": "T3", "method": "rwda", "metric": "params_M"}),
        ("c14", 53.0, {"artifact": "T3", "method": "winclip", "metric": "latency_ms"}),
        ("c15", 105.4, {"artifact": "T3", "method": "winclip", "metric": "macs_G"}),
        ("c18", 87.6, {"artifact": "T4", "method": "clip_rwda", "variant": "normal=an;anomaly=a broken"}),
        ("c20", 99.0, {"artifact": "T4", "method": "clip_rwda", "variant": "normal=an;anomaly=a damaged"}),
        ("c24", 60.0, {"artifact": "T5", "method": "rwda", "metric": "auroc"}),
        ("c27", 76.9, {"artifact": "T5", "method": "rwda", "metric": "f1max"}),
        ("c28", 82.6, {"artifact": "T5", "method": "clip_rwda", "metric": "auroc"}),
    ],
)
def test_one_changed_number_turns_the_verdict(published, claim, mean, keys):
    assert verdict(claim, published).verdict == HOLDS
    assert verdict(claim, changed(published, mean, **keys)).verdict == FAILS


def test_c04_holds_once_the_gains_are_larger(published):
    better = changed(published, 76.3, **T1, dataset="visa", method="clip_rwda", variant="object_known")
    better = changed(
        better, 80.4, artifact="T1", metric="aupr", dataset="visa", method="clip_rwda", variant="object_known"
    )
    assert verdict("c04", better).verdict == HOLDS


@pytest.mark.parametrize("claim", [name for name, v in PUBLISHED_VERDICTS.items() if v != UNDECIDED])
def test_missing_and_undefined_rows_leave_a_claim_undecided(published, claim):
    test = predicates("rwda")[claim]
    nothing = test(published.iloc[:0])
    assert nothing.verdict == UNDECIDED and nothing.reason.startswith("no row for")
    undefined = test(published.assign(mean=math.nan))
    assert undefined.verdict == UNDECIDED and "is undefined" in undefined.reason


def test_two_artifacts_that_differ_leave_a_claim_undecided(published):
    row = published.query(
        "artifact == 'T1' and method == 'clip' and variant == 'object_unknown' and dataset == 'visa'"
    )
    other = row.assign(artifact="S1")
    assert verdict("c01", pd.concat([published, other])).verdict == HOLDS
    found = verdict("c01", pd.concat([published, other.assign(mean=other["mean"] + 0.1)]))
    assert found.verdict == UNDECIDED
    assert "visa auroc clip[object_unknown] differs between rwda T1, rwda S1: [76.5, 76.6]" in found.reason


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=12, max_size=12))
def test_c01_is_the_sign_of_the_smallest_gain(tenths):
    values = [t / 10 for t in tenths]
    cells = [(d, m) for d in ("mvtec", "visa") for m in ("auroc", "aupr", "f1max")]
    frame = measured(
        *((d, "clip", "object_unknown", 0, m, v) for (d, m), v in zip(cells, values[:6])),
        *((d, "clip_rwda", "object_unknown", 0, m, v) for (d, m), v in zip(cells, values[6:])),
    )
    gains = [b - a for a, b in zip(tenths[:6], tenths[6:])]
    assert verdict("c01", frame).verdict == (HOLDS if min(gains) > 0 else FAILS)


BOTH = ("mvtec", "visa")


def rwda_rows(variant: str, *means: float) -> list[tuple]:
    return [(d, "rwda", variant, 0, "auroc", mean, 0.3) for d, mean in zip(BOTH, means, strict=True)]


def few_shot(method: str, variant: str, *means: float, shots: int = 4) -> list[tuple]:
    return [(d, method, variant, shots, "auroc", mean) for d, mean in zip(BOTH, means, strict=True)]


def with_fnn(mean: float, shots: int) -> list[tuple]:
    """WinCLIP+ at 93.0, and with the FNN score added."""
    both = few_shot("winclip_plus_rwda", "", mean, mean, shots=shots)
    return [*few_shot("winclip", "", 93.0, 93.0, shots=shots), *both]


def by_pairs(*aurocs: float) -> list[tuple]:
    return [
        ("mvtec", "rwda", f"object_unknown;n_pairs={k}", 0, "auroc", a) for k, a in zip((1, 2, 4), aurocs)
    ]


def accuracies(*values: float) -> list[tuple]:
    return [("", "rwda", f"n_pairs={k}", 0, "heldout_accuracy", a) for k, a in zip((2, 4), values)]


def distances(prefix: str, *values: float) -> list[tuple]:
    states = ("normal", "anomalous")
    return [("", "rwda", f"{prefix}state={s}", 0, "cosine_distance", v) for s, v in zip(states, values)]


def layers(*pairs: tuple[float, float]) -> list[tuple]:
    metrics = ("silhouette_state", "silhouette_domain")
    return [
        ("", "rwda", f"layer={layer}", 0, metric, value)
        for layer, pair in zip(("clip", "1", "2", "3"), pairs, strict=False)
        for metric, value in zip(metrics, pair, strict=True)
    ]


SIZES = {"n_pairs": 2, "pair_counts": (1, 2, 4)}
LINEAR = ("", "linear", "", 0, "heldout_accuracy", 95.0)


@pytest.mark.parametrize(
    ("claim", "options", "holding", "failing"),
    [
        (
            "c07",
            {},
            [*rwda_rows("object_unknown", 91.0, 78.0), *rwda_rows("object_known", 91.0, 78.0)],
            [*rwda_rows("object_unknown", 91.0, 78.0), *rwda_rows("object_known", 91.0, 78.01)],
        ),
        (
            "c11",
            {},
            [
                *few_shot("winclip_plus", "score=max_map", 92.6, 80.0),
                *few_shot("clip", "score=s_img", 92.5, 79.0),
            ],
            [*few_shot("winclip", "score=max_map", 92.6, 80.0), *few_shot("clip", "score=s_img", 92.5, 81.0)],
        ),
        (
            "c12",
            {},
            [*with_fnn(93.1, 1), *with_fnn(93.1, 2), *with_fnn(93.1, 4)],
            [*with_fnn(93.1, 1), *with_fnn(93.1, 2), *with_fnn(93.0, 4)],
        ),
        ("c16", SIZES, by_pairs(89.0, 91.0, 91.0), by_pairs(89.0, 91.0, 91.1)),
        (
            "c17",
            SIZES,
            [*by_pairs(0, 91.0, 90.0), *accuracies(99.0, 99.0)],
            [*by_pairs(0, 91.0, 90.0), *accuracies(99.0, 98.9)],
        ),
        (
            "c21",
            {},
            [
                *rwda_rows("object_unknown", 91.0, 78.0),
                *rwda_rows("object_unknown;pair_in_batch=0", 90.0, 77.9),
            ],
            [
                *rwda_rows("object_unknown", 91.0, 78.0),
                *rwda_rows("object_unknown;pair_in_batch=0", 89.9, 77.9),
            ],
        ),
        (
            "c22",
            {},
            [
                *distances("", 0.2, 0.3),
                *distances("random_words=0;", 0.0, 0.0),
                *rwda_rows("object_unknown", 91.0, 78.0),
                *rwda_rows("object_unknown;random_words=0", 80.0, 70.0),
            ],
            [
                *distances("", 0.2, 0.3),
                *distances("random_words=0;", 0.0, 0.31),
                *rwda_rows("object_unknown", 91.0, 78.0),
                *rwda_rows("object_unknown;random_words=0", 80.0, 70.0),
            ],
        ),
        ("c23", {}, [LINEAR, *distances("", 0.02, 0.09)], [LINEAR, *distances("", 0.02, 0.08)]),
        ("c25", {}, layers((0.1, 0.4)), layers((0.4, 0.4))),
        (
            "c26",
            {},
            layers((0.1, 0.4), (0.3, 0.3), (0.4, 0.35), (0.5, 0.1)),
            layers((0.1, 0.4), (0.3, 0.3), (0.3, 0.3), (0.5, 0.1)),
        ),
    ],
)
def test_claims_that_only_a_run_can_decide(claim, options, holding, failing):
    assert verdict(claim, measured(*holding), **options).verdict == HOLDS
    assert verdict(claim, measured(*failing), **options).verdict == FAILS
    partial = verdict(claim, measured(*holding[:-1]), **options)
    assert partial.verdict == UNDECIDED and "no row for" in partial.reason


@pytest.mark.parametrize(("slope", "expected"), [(-0.1, HOLDS), (0.1, FAILS)])
def test_c19_asks_for_gains_that_fall_with_clips_score(slope, expected):
    clip = np.linspace(60, 90, 16)
    values = {"clip": clip, "clip_rwda": clip + 5 + slope * (clip - 75)}
    pairs = [
        ("mvtec", method, variant, 0, "auroc", value)
        for method, aurocs in values.items()
        for variant, value in zip(WORD_PAIR_VARIANTS, aurocs)
    ]
    assert verdict("c19", measured(*pairs)).verdict == expected


def test_c16_takes_the_papers_sizes_unless_told_otherwise(published):
    reason = verdict("c16", published).reason
    assert [f"n_pairs={k}]" in reason for k in (1000, 2000, 5000, 10000, 20000, 50000)] == [True] * 6


def test_a_measured_run_is_evaluated_under_published_names(published):
    own = published.assign(dataset=published["dataset"].replace({"mvtec": "mini_mvtec", "visa": "mini_visa"}))
    assert (evaluate("rwda", own)["verdict"] == HOLDS).sum() < 17
    named = as_roles(own, {"mvtec": "mini_mvtec", "visa": "mini_visa"})
    assert dict(zip(evaluate("rwda", named)["id"], evaluate("rwda", named)["verdict"])) == PUBLISHED_VERDICTS


def test_the_ledger_sets_verdicts_side_by_side(published):
    run = changed(published, 91.0, **T1, dataset="mvtec", method="clip_rwda", variant="object_unknown")
    table = ledger(evaluate("rwda", published), evaluate("rwda", run, n_pairs=10_000)).set_index("id")
    assert table.loc["rwda-c01", ["published", "run", "agreement"]].tolist() == [
        HOLDS,
        FAILS,
        "other verdict",
    ]
    assert table.loc["rwda-c02", "agreement"] == "same verdict"
    assert table.loc["rwda-c16", "agreement"] == "open"
    assert "mvtec auroc gain -0.5" in table.loc["rwda-c01", "run_numbers"]


def test_a_run_without_any_rows_decides_nothing():
    table = evaluate("rwda", pd.DataFrame(columns=COLUMNS))
    assert set(table["verdict"]) == {UNDECIDED}


def test_unknown_papers_and_options_are_named(published):
    with pytest.raises(ValueError, match=r"no predicate takes \['pairs'\]"):
        evaluate("rwda", published, pairs=3)
    with pytest.raises(ValueError, match="no predicates for 'vand'"):
        evaluate("vand", published)
    with pytest.raises(ValueError, match="paper is 'vand'; expected one of"):
        load_claims("vand")
    with pytest.raises(ValueError, match="verdict is 'yes'"):
        Verdict("rwda-c01", "yes")


def test_word_pairs_are_the_published_ones(published):
    assert set(published[published["artifact"] == "T4"]["variant"]) == set(WORD_PAIR_VARIANTS)
    assert not published.duplicated(KEYS).any()
