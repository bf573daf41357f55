"""Every notebook runs through, at its smallest setting, from an empty cache."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import NOTEBOOKS, ROOT

from zsad_core.results import read_results

ARCHITECTURE = {"model": "ViT-B-16-plus-240", "weights": "random"}


def results(folder: str | Path) -> dict[str, bytes]:
    """The result files of a run, without measured times."""
    paths = (path for path in Path(folder).glob("*.*") if path.suffix in (".csv", ".json"))
    return {path.name: path.read_bytes() for path in paths}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_runs_whole(executed, notebook):
    cells = nbformat.read(executed(notebook), as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            # the book leaves stderr out, which holds progress bars: no warning may hide there
            assert "Warning" not in output.get("text", ""), f"{notebook} warns: {output.text}"
        drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
        described = cell.metadata.get("mystnb", {}).get("image", {}).get("alt")
        assert not drawn or described, f"a figure without alt text:\n{cell.source}"
        wanted = "mystnb" in cell.metadata
        assert not wanted or drawn, f"a figure's cell that draws nothing:\n{cell.source}"


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_executed_notebook_shows_no_path_of_this_machine(executed, notebook, small_run):
    """Folders given as absolute paths stay in the parameters' cell that papermill injects."""
    cells = nbformat.read(executed(notebook), as_version=4).cells
    shown = json.dumps([cell.outputs for cell in cells if cell.cell_type == "code"])
    places = {str(ROOT), str(Path.home()), str(Path(small_run["data_dir"]).parent)} - {"/"}
    assert not [place for place in places if place in shown]


def test_result_files_can_be_read_and_name_their_origin(executed, small_run):
    executed("claims")
    written = results(small_run["results_dir"])
    tables = [name for name in written if name.endswith(".csv")]
    assert tables
    for name in tables:
        assert len(read_results(Path(small_run["results_dir"]) / name))
        origin = json.loads(written[name.replace(".csv", ".json")])
        assert origin["parameters"]["limit_images"] == small_run["limit_images"]
        assert origin["commit"] and origin["versions"]["torch"]


def test_two_runs_with_one_seed_write_the_same_bytes(executed, papermill, small_run, tmp_path):
    notebook = "rwda/33_training_and_inference"
    executed(notebook)
    again = small_run | {"cache_dir": str(tmp_path / "cache"), "results_dir": str(tmp_path / "results")}
    done = papermill(notebook, tmp_path / "again.ipynb", again)
    assert done.returncode == 0, done.stderr
    second = results(tmp_path / "results")
    first = results(small_run["results_dir"])
    assert second and second == {name: first[name] for name in second}


def test_real_architecture_with_random_weights(papermill, small_data, small_run, tmp_path):
    shutil.copytree(small_data / "mini_mvtec", tmp_path / "data" / "mini_mvtec")
    table = tmp_path / "data" / "mini_mvtec" / "meta.csv"
    meta = pd.read_csv(table)  # six views of an image take seconds, so four images have to do
    meta = meta[(meta["split"] == "test") & meta["category"].isin(["screw", "wood"])]
    meta.to_csv(table, index=False)
    few = {"seeds": 1, "limit_images": 1, "n_pairs": 4, "pool_pairs": 8, "pair_counts": [4], "batch_size": 4}
    parameters = small_run | few | ARCHITECTURE | {"datasets": {"mvtec": "mini_mvtec"}}
    parameters |= {"data_dir": str(tmp_path / "data"), "results_dir": str(tmp_path / "results")}
    done = papermill("rwda/31_prompt_guided", tmp_path / "out.ipynb", parameters)
    assert done.returncode == 0, done.stderr
    assert "ViT-B-16-plus-240" in (tmp_path / "out.ipynb").read_text()


BAD = [
    ({"n_pair": 4}, "did you mean 'n_pairs'"),
    ({"profile": "minni"}, "unknown profile 'minni'"),
    ({"seeds": "two"}, "expected a whole number"),
    ({"multi_crop": "false"}, "expected true or false"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD, ids=[next(iter(bad)) for bad, _ in BAD])
def test_bad_parameter_stops_before_anything_is_computed(papermill, tmp_path, parameters, message):
    output = tmp_path / "out.ipynb"
    done = papermill("rwda/43_state_of_the_art", output, parameters)
    assert done.returncode != 0
    assert message in re.sub(r"\x1b\[[0-9;]*m", "", done.stderr)
    code = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
    assert sum(cell.execution_count is not None for cell in code) <= 3  # parameters, injected ones, the check


def test_missing_dataset_folder_is_named(papermill, small_run, tmp_path):
    parameters = small_run | {"data_dir": str(tmp_path / "nowhere")}
    done = papermill("rwda/31_prompt_guided", tmp_path / "out.ipynb", parameters)
    assert done.returncode != 0
    assert "mini_mvtec in the place of mvtec is not prepared" in done.stderr
    assert str(tmp_path / "nowhere") in done.stderr


WITHOUT = (
    "winclip/left_open",
    "winclip/sb_backbones",
    "winclip/sc_examples_and_failures",
    "winclip/sd_class_by_class",
    "anomalyclip/d_sweeps",
    "anomalyclip/e_maps",
)


@pytest.mark.parametrize("notebook", WITHOUT)
def test_a_page_without_datasets_says_what_is_missing(papermill, small_run, tmp_path, notebook):
    """One dataset is named and not prepared, the other one is not named."""
    parameters = small_run | {"data_dir": str(tmp_path / "nowhere"), "datasets": {"mvtec": "mini_mvtec"}}
    parameters["results_dir"] = str(tmp_path / "results")
    done = papermill(notebook, tmp_path / "out.ipynb", parameters)
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells
    told = "".join(o.get("data", {}).get("text/markdown", "") for c in cells for o in c.get("outputs", []))
    assert "mini_mvtec in the place of mvtec is not prepared: `python -m data_scripts.mini --help`" in told
    assert (
        notebook == "winclip/sb_backbones" or "No dataset in the place of visa: name" in told
    )  # it needs one only
