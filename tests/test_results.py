import math

import numpy as np
import pandas as pd
import pytest
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st

from zsad_papers.common import results
from zsad_papers.common.results import KEYS, as_published, read_results, rows, validate, write_results

NAMES = {"paper": "rwda", "artifact": "T1", "dataset": "d", "method": "rwda"}
ROW = {"paper": "rwda", "artifact": "T1", "dataset": "mini_mvtec", "category": "mean", "task": "image"}
ROW |= {"shots": 0, "method": "clip", "variant": "object_unknown", "metric": "auroc"}
ROW |= {"mean": 90.0, "std": math.nan}


def frame_of(*changes):
    return pd.DataFrame([ROW | change for change in changes])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "auc"}, r"line 3: metric is 'auc'; expected one of \['accuracy'"),
        ({"mean": 100.4}, "line 3: mean is 100.4; expected a value in the metric's range"),
        ({"mean": "high"}, "line 3: mean is 'high'; expected a number or NaN"),
        ({"std": -0.1}, "line 3: std is -0.1; expected a standard deviation"),
        ({"shots": 1.5}, "line 3: shots is 1.5; expected a whole number"),
        ({"category": ""}, "line 3: category is ''; expected a name"),
        ({}, "line 3: .*this row repeats an earlier one"),
    ],
)
def test_bad_rows_are_named(change, message):
    frame = frame_of({}, {"artifact": "T2"} | change if change else {})
    refused(f"some.csv, {message}", validate, frame, source="some.csv")


SHOTS = st.sampled_from([results.FULL_SHOT, 4])
CELLS = st.tuples(st.text('a_ ;é,"', max_size=6), SHOTS, st.floats(0, 100), st.floats(0, 100))


@settings(max_examples=10, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=6, unique_by=lambda cell: cell[:2]), st.randoms())
def test_files_have_the_same_bytes_whatever_the_order_and_round_trip(tmp_path_factory, cells, random):
    a, b = (tmp_path_factory.mktemp("results") / name for name in ("a.csv", "b.csv"))
    records = [ROW | dict(zip(("variant", "shots", "mean", "std"), cell)) for cell in cells]
    records += [ROW | {"category": "a", "mean": math.nan}]
    write_results(pd.DataFrame(records), a)
    expected = validate(pd.DataFrame(records)).sort_values(KEYS, ignore_index=True)
    random.shuffle(records)
    write_results(pd.DataFrame(records), b)
    assert a.read_bytes() == b.read_bytes()
    back = read_results(a)
    pd.testing.assert_frame_equal(back.sort_values(KEYS, ignore_index=True), expected, rtol=1e-9)
    write_results(back, b)
    assert a.read_bytes() == b.read_bytes()


def test_files_that_claim_one_number_and_a_file_cut_off_are_named(tmp_path):
    for name in ("a.csv", "b.csv"):
        write_results(frame_of({}, {"method": name}), tmp_path / name)
    path = tmp_path / "a.csv"
    twice = "a.csv.*b.csv.*hold the same row.*'method': 'clip'"
    refused(twice, read_results, [path, tmp_path / "b.csv"])
    write_results(frame_of({}).assign(draws=[np.ones(3)]), path)
    for draws in (path.with_suffix(".npz").read_bytes()[:-20], b""):
        path.with_suffix(".npz").write_bytes(draws)
        refused("a.csv: not a results CSV, or a.npz is damaged", read_results, path)
    path.write_bytes(path.read_bytes()[:-20])
    refused("a.csv: empty, or cut off in its last line; delete it", read_results, path)


def seeds_table():
    """Two categories whose ups and downs cancel: each varies over seeds, their mean does not."""
    aurocs = [0.8, 0.9, 0.9, 0.8, 0.85, 0.85]
    return pd.DataFrame({"category": ["a", "b"] * 3, "seed": [0, 0, 1, 1, 2, 2], "auroc": aurocs})


def test_the_mean_row_averages_over_categories_first():
    values = pd.concat([seeds_table(), seeds_table()[::2].assign(category="c", auroc=0.55)])
    table = rows(values, **NAMES).set_index("category")
    np.testing.assert_allclose(table["mean"], [85, 85, 55, 75])
    np.testing.assert_allclose(table.loc["a", "std"], np.std([80, 90, 85], ddof=1))
    np.testing.assert_allclose(table.loc["mean", "std"], 0.0, atol=1e-9)  # not the mean of the categories'
    own = rows(values, paper="winclip", artifact="T1", dataset="d", method="m", spread="of_classes")
    assert own.set_index("category").loc["mean", "std"] == pytest.approx(10 / 3)


def test_an_undefined_category_makes_the_mean_undefined_with_a_warning():
    values = seeds_table()
    values.loc[values["category"] == "b", "auroc"] = math.nan
    with pytest.warns(UserWarning, match=r"auroc of d is undefined for \['b'\]; so is its mean"):
        table = rows(values, **NAMES).set_index("category")
    assert math.isnan(table.loc["b", "mean"]) and math.isnan(table.loc["mean", "mean"])
    np.testing.assert_allclose(table.loc["a", "mean"], 85.0)


def test_rows_refuses_incomplete_or_unknown_values_and_no_rows_are_valid():
    assert validate(results.joined([])).empty  # of a page without data
    refused("5 rows of 2 categories and 3 seeds", rows, seeds_table().iloc[:-1], **NAMES)
    refused(r"unknown \['auc'\]", rows, seeds_table().rename(columns={"auroc": "auc"}), **NAMES)
    refused(r"rows\(\) takes fractions", rows, seeds_table().assign(auroc=85.0), **NAMES)


STAND_INS = {"mvtec": "mini_mvtec", "visa": "mini_visa", "sewerml": "mini_visa"}


def test_published_names_may_share_a_stand_in():
    measured = validate(frame_of({}, {"dataset": "mini_visa"}, {"dataset": "", "metric": "params_M"}))
    named = as_published(measured, STAND_INS)
    assert sorted(named["dataset"]) == ["", "mvtec", "sewerml", "visa"]
    assert list(named.columns) == results.COLUMNS
    assert as_published(measured, {"mini_mvtec": "mini_mvtec"})["dataset"].tolist().count("mini_mvtec") == 1
    beside = validate(frame_of({"dataset": "visa"}))
    refused(r"rows of \['visa'\] beside their stand-ins", as_published, beside, STAND_INS)


def test_compare_shows_what_is_missing_on_either_side():
    published = results.load_published("rwda").query("artifact == 'T1' and metric == 'auroc' and shots == 0")
    own = {"dataset": "mini_visa", "variant": "object_known", "method": "rwda"}
    measured = validate(frame_of({"mean": 90.0}, own, {"dataset": "mini_visa", "mean": math.nan}))
    stand_ins = {"mvtec": "mini_mvtec", "visa": "mini_visa"}
    table = results.compare(published, measured, stand_ins=stand_ins, keep="both")
    assert table["published"].tolist()[: len(published)] == published["mean"].tolist()
    cell = table.set_index(["dataset", "method", "variant"])
    first = cell.loc[("mvtec", "clip", "object_unknown")]
    assert (first["published"], first["measured"], first["measured_on"]) == (91.5, 90.0, "mini_mvtec")
    np.testing.assert_allclose(first["difference"], -1.5)
    assert cell.loc[("mvtec", "clip", "object_known"), "status"] == "not yet run"
    assert cell.loc[("visa", "rwda", "object_known"), "status"] == "no published number"
    assert cell.loc[("visa", "clip", "object_unknown"), "status"] == "undefined"
