import json
import re

import pandas as pd
import pytest
from helpers import refused

from zsad_core import encoders
from zsad_papers import all_papers, rwda
from zsad_papers.common import data, settings
from zsad_papers.common.results import joined, rows


@pytest.fixture
def parameters(small_data, tmp_path):
    places = {"mvtec": "mini_mvtec", "visa": "nowhere", "isic": "mini_medical_pixel/skin"}
    folders = {"data_dir": str(small_data), "results_dir": str(tmp_path), "cache_dir": str(tmp_path / "c")}
    return {"datasets": places, "weights": "random", "prompt_weights": "random", "device": "cpu"} | folders


def test_a_page_knows_what_is_there_and_says_what_is_missing(parameters):
    page = rwda.start(parameters, ["mvtec", "visa"])
    assert page.names == {"mvtec": "mini_mvtec"}
    said = page._repr_markdown_()
    assert "mini_mvtec (stand-in for mvtec)" in said and "seeds 0 to 9" in said
    assert "The dataset nowhere (stand-in for visa) is not prepared" in said
    assert page.encoder.model_id == "zsad-mini" and type(page.settings) is all_papers()["rwda"].settings


def test_facts_about_the_encoder_are_kept_without_loading_it_again(parameters, monkeypatch):
    first = rwda.start(parameters, ["mvtec"]).encoder
    facts = [getattr(first, name) for name in data.FACTS]
    monkeypatch.setattr(encoders, "load_encoder", None)
    again = rwda.start(parameters, ["mvtec"]).encoder
    assert [getattr(again, name) for name in data.FACTS] == facts and again.grid == (8, 8)
    refused("NoneType", lambda: again.embed_text(["a bolt"]), error=TypeError)
    with pytest.raises(TypeError, match="NoneType"):  # another seed of random weights
        rwda.start(parameters | {"seed": 1}, ["mvtec"]).encoder.grid  # noqa: B018


def test_rows_are_compared_judged_and_written_under_the_names_of_the_paper(parameters, tmp_path):
    page = rwda.start(parameters, ["mvtec", "visa"])
    names = {"paper": "rwda", "artifact": "T1", "dataset": "mini_mvtec", "variant": "object_unknown"}
    measured = rows(pd.DataFrame({"auroc": [0.9]}), method="clip", **names)
    beside = page.compare(measured, "T1")
    assert set(beside["artifact"]) == {"T1"}
    assert beside[beside["status"] == "measured"]["measured_on"].tolist() == ["mini_mvtec"]
    assert page.verdicts(measured).index.str.startswith("rwda-").all()
    page.write("one", measured)
    facts = json.loads((tmp_path / "one.json").read_text())
    assert list(facts["datasets"]) == ["mini_mvtec"] and "prompt_model" not in facts["parameters"]


def test_a_page_without_data_stops_and_never_replaces_results_on_data_that_are_gone(parameters, tmp_path):
    names = {"paper": "rwda", "artifact": "T1", "method": "clip", "variant": "object_unknown"}
    page = rwda.start(parameters, ["mvtec", "visa"])
    page.write("one", rows(pd.DataFrame({"auroc": [0.9]}), dataset="mini_mvtec", **names))
    written = (tmp_path / "one.csv").read_bytes()
    gone = parameters | {"data_dir": str(tmp_path / "gone")}
    message = "no dataset of this page is prepared .*: mini_mvtec, nowhere"
    refused(message, rwda.start, gone, ["mvtec", "visa"], error=FileNotFoundError)
    page = rwda.start(gone | {"allow_missing": True}, ["mvtec", "visa"])
    message = "has results on mini_mvtec, which this run would lose"
    refused(message, page.write, "one", joined([]), error=FileNotFoundError)
    assert (tmp_path / "one.csv").read_bytes() == written


def test_the_labs_solutions_run_in_their_order(root, small_run, monkeypatch, capsys):
    text = (root / "book" / "rwda" / "lab.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    solutions = text.count("{solution-start}")
    assert solutions and len(blocks) == solutions + 2  # the set-up and the helper come first
    whole = settings.read_settings
    monkeypatch.setattr(settings, "read_settings", lambda given: whole({**small_run, **given}))
    namespace = {"__name__": "lab"}
    for block in blocks:
        exec(compile(block, "lab.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert namespace["guided"].shape == (len(namespace["images"].labels),)
    for line in ("scatter", "accuracy on unseen sentences", "swapped", "64 pairs"):
        assert line in printed, f"the lab no longer prints {line!r}"
