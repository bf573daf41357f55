"""The features computed by category are all that the experiments need."""

import sys

import pytest
import yaml
from conftest import ROOT
from helpers import refused, written

from zsad_core import image_features
from zsad_papers import precompute, run
from zsad_papers.anomalyclip import experiments as anomalyclip_experiments
from zsad_papers.common import data
from zsad_papers.winclip import tables as winclip_tables

PLACES = {"mvtec": "mini_mvtec/hex_nut", "visa": "mini_visa/fuse"}  # the second are not square


@pytest.fixture(scope="module")
def settings(settings_of):
    few = {"shots": [1], "ablation_shots": [2], "reference_seeds": 1, "epochs_share": 0.01}
    return settings_of(datasets=PLACES, **few)


def test_studies_find_all_features(settings, encoder, monkeypatch):
    for kind in precompute.KINDS:
        lines = {precompute.compute(settings, kind, *place.split("/")) for place in PLACES.values()}
        assert {line.split(":")[0] for line in lines} == {"mini_mvtec", "mini_visa"}
    monkeypatch.setattr(image_features, "load_batch", lambda *_, **__: pytest.fail("an image was read again"))
    records = {dataset: winclip_tables.all_records(settings, encoder, dataset) for dataset in PLACES}
    assert {"winclip", "winclip_plus", "patchcore", "trans_mm"} <= set(records["visa"]["method"])
    assert len(winclip_tables.open_choice_rows(settings, encoder, "visa", PLACES["visa"]))
    assert len(winclip_tables.patchcore_rows(settings, encoder, records["mvtec"], PLACES["mvtec"]))
    large = data.encoder_of(settings, "prompt_")
    variants = ["baselines", "", "attention=qq+kk+vv", "N=3", "coop", "vand"]
    found = anomalyclip_experiments.run_experiment(settings, large, "mvtec", variants)
    assert {"clip", "clip_ac", "coop", "anomalyclip", "vand"} == set(found["method"])


@pytest.mark.parametrize("paper", ["winclip", "anomalyclip"])
def test_experiments_without_their_dataset_are_refused(tmp_path, monkeypatch, capsys, paper):
    mini = yaml.safe_load((ROOT / "profiles" / "mini.yaml").read_text()) | {"data_dir": str(tmp_path)}
    own = written(tmp_path / "own.yaml", yaml.safe_dump(mini))
    command = ["run", "--profile", str(own), "--paper", paper, "--dataset", "mvtec"]
    monkeypatch.setattr(sys, "argv", command)
    refused("2", run.main, error=SystemExit)
    assert "mini_mvtec (stand-in for mvtec) is not prepared" in capsys.readouterr().err
