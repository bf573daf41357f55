"""Every wrong parameter is refused before anything is computed, with a message that says how to write it."""

import json
import re
from pathlib import Path

import pytest
import yaml
from helpers import refused, written
from papermill.inspection import inspect_notebook

from profiles import profile_path
from zsad_papers.common import settings as common
from zsad_papers.common.settings import parameters, parameters_cell, read_profile, read_settings

ROOT = Path(__file__).resolve().parents[1]


def test_none_takes_the_profile_s_value_and_a_given_value_wins():
    given = {"profile": "mini", "n_pairs": None, "seeds": 3, "shots": [1], "settings_cell": print}
    settings = read_settings(given)
    assert settings.n_pairs == read_profile("mini")["n_pairs"]
    assert (settings.seeds, settings.shots) == (3, (1,))
    assert settings.weights is None  # 'shipped'
    assert settings.datasets["sewerml"] == "textile"


@pytest.mark.parametrize("profile", ["mini", "paper"])
def test_profile_injected_by_papermill_f_equals_the_profile_by_name(profile):
    """`papermill -f profiles/paper.yaml` puts every name into the namespace, None where the file has null."""
    injected = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text())
    assert read_settings(injected) == read_settings({"profile": profile})


def test_mini_full_differs_from_mini_in_what_is_cut_down_for_time_alone():
    files = (ROOT / "profiles" / f"{name}.yaml" for name in ("mini-full", "mini"))
    full, mini = (yaml.safe_load(file.read_text()) for file in files)
    different = {name for name in mini if full[name] != mini[name]}
    cut = {"profile", "results_dir", "n_pairs", "pool_pairs", "pair_counts", "epochs_share"}
    assert full.keys() == mini.keys() and different == cut


BAD = yaml.safe_load(Path(__file__).with_name("bad_parameters.yaml").read_text())


@pytest.mark.parametrize("bad", BAD, ids=[str(bad["given"]) for bad in BAD])
def test_bad_value_is_refused_with_what_was_expected(bad):
    refused(re.escape(bad["error"]), read_settings, bad["given"])


def test_a_profile_that_is_missing_or_bad_is_refused(tmp_path):
    missing = {"minni": "one of mini, mini-full, paper", "a/b.yaml": "path of a YAML file that exists"}
    for profile, message in missing.items():
        refused(message, read_settings, {"profile": profile}, error=FileNotFoundError)
    mini = read_profile("mini")
    for values, message in (
        (mini | {"n_pair": 1}, "unknown parameter 'n_pair' in the profile own.yaml"),
        (mini | {"n_pairs": None}, "n_pairs = None (NoneType)"),
        ({"n_pairs": 4}, "lacks data_dir"),
        (["a", "b"], "lines 'name: value', got list"),
    ):
        path = written(tmp_path / "own.yaml", yaml.safe_dump(values))
        refused(re.escape(message), read_settings, {"profile": str(path)})
    refused("not valid YAML", read_settings, {"profile": str(written(path, "n_pairs: [1\n"))})


def test_names_of_ipython_and_a_second_run_by_hand_are_no_parameters():
    interactive = {"In": [""], "Out": {}, "_": 3, "_i1": "x", "exit": "exit", "get_ipython": print}
    settings = read_settings(interactive)
    assert read_settings({**interactive, "settings": settings, "row_count": 7}) == settings
    refused("row_count", read_settings, {**interactive, "row_count": 7})


def test_folders_are_found_from_a_notebook_s_folder(monkeypatch):
    monkeypatch.chdir(ROOT / "tests")  # Jupyter starts a kernel in the notebook's own folder
    assert common.repository_root() == ROOT
    settings = read_settings({"captions_file": "data/coco.json", "cache_dir": "/elsewhere"})
    assert (settings.data_dir, settings.captions_file) == ("../data", "../data/coco.json")
    assert settings.cache_dir == "/elsewhere"
    own = read_settings({"images_dir": "photos", "labels_from": "folders"})
    assert (own.images_dir, own.labels_from) == ("../photos", "folders")  # a word, not a path
    assert profile_path("mini", ROOT).samefile(ROOT / "profiles" / "mini.yaml")


def test_parameters_cell_is_what_papermill_shows_with_the_profile_s_values(tmp_path):
    import nbformat

    cell = nbformat.v4.new_code_cell(parameters_cell(), metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata.kernelspec = {"name": "python3", "language": "python", "display_name": "Python 3"}
    nbformat.write(notebook, tmp_path / "all.ipynb")
    shown = inspect_notebook(str(tmp_path / "all.ipynb"))
    found = {name: (entry["inferred_type_name"], entry["help"]) for name, entry in shown.items()}
    usual = {name: f"; mini: {json.dumps(value)}" for name, value in read_profile("mini").items()}
    usual |= {"profile": "", "datasets": "; mini: see profiles/mini.yaml"}
    assert found == {name: (kind, meaning + usual[name]) for name, (kind, meaning) in parameters().items()}
    lines = parameters_cell(["data_dir"]).splitlines()
    assert list(parameters())[:2] == [line.split(":")[0] for line in lines]
