"""Every notebook runs through, at its smallest setting, from an empty cache."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from conftest import NOTEBOOKS, ROOT

from zsad_papers.common.results import read_results

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


@pytest.mark.slow
def test_two_runs_with_one_seed_write_the_same_bytes(executed, papermill, small_run, tmp_path):
    notebook = "rwda/33_training_and_inference"
    executed(notebook)
    again = small_run | {"cache_dir": str(tmp_path / "cache"), "results_dir": str(tmp_path / "results")}
    done = papermill(notebook, tmp_path / "again.ipynb", again)
    assert done.returncode == 0, done.stderr
    second = results(tmp_path / "results")
    first = results(small_run["results_dir"])
    assert second and second == {name: first[name] for name in second}


@pytest.mark.slow
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
    ({"seeds": "two"}, "should be a valid integer"),
]


@pytest.mark.parametrize(("parameters", "message"), BAD, ids=[next(iter(bad)) for bad, _ in BAD])
def test_bad_parameter_stops_before_anything_is_computed(papermill, tmp_path, parameters, message):
    output = tmp_path / "out.ipynb"
    done = papermill("rwda/43_state_of_the_art", output, parameters)
    assert done.returncode != 0
    assert message in re.sub(r"\x1b\[[0-9;]*m", "", done.stderr)
    code = [cell for cell in nbformat.read(output, as_version=4).cells if cell.cell_type == "code"]
    assert sum(cell.execution_count is not None for cell in code) <= 3  # parameters, injected ones, the check


def shown(path: Path) -> str:
    """The Markdown that an executed notebook shows; it must be whole, and its glued texts must be words."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    prefix = "application/papermill.record/text/plain"
    glued = [output["data"][prefix] for output in outputs if prefix in output.get("data", {})]
    assert not [text for text in glued if re.search(r"\bnan\b|\binf\b|^''$", text)]
    return "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)


NEED_NONE = ("contradictions", "coverage", "speed", "rwda/45_feature_embeddings")


ONE_A_PAPER = ("rwda/31_prompt_guided", "winclip/52_segmentation", "anomalyclip/42_medical")
WITHOUT_DATA = [
    pytest.param(name, marks=[] if name in ONE_A_PAPER else pytest.mark.slow)
    for name in NOTEBOOKS
    if name not in NEED_NONE
]


@pytest.mark.parametrize("notebook", WITHOUT_DATA)
def test_a_page_without_datasets_says_how_to_get_them(papermill, small_run, tmp_path, notebook):
    folders = {"data_dir": str(tmp_path / "nowhere"), "results_dir": str(tmp_path / "results")}
    done = papermill(notebook, tmp_path / "out.ipynb", small_run | folders | {"allow_missing": True})
    assert done.returncode == 0, done.stderr
    line = r"The dataset (\w+)\S* \(stand-in for \w+\) is not prepared: `zsad prepare \1 "
    assert re.search(line, shown(tmp_path / "out.ipynb"))


PARTIAL = [  # the dataset that is there, a page, and its sentence on the missing one
    ("mini_visa", "rwda/31_prompt_guided", "mini_visa (stand-in for visa)"),
    ("mini_visa", "winclip/54_ablations", "mini_mvtec (stand-in for mvtec) is not prepared"),
    ("mini_visa", "anomalyclip/d_sweeps", "Nothing is learned for visa"),
    ("mini_mvtec", "rwda/33_training_and_inference", "mini_visa (stand-in for visa) is not prepared"),
    ("mini_mvtec", "anomalyclip/43_ablations", "Nothing is learned for mvtec"),
    ("mini_medical_pixel", "anomalyclip/42_medical", "Nothing is learned for isic"),
]


@pytest.mark.parametrize(
    ("there", "notebook", "output"),
    [pytest.param(*case, marks=[pytest.mark.slow] if i else []) for i, case in enumerate(PARTIAL)],
    ids=[f"{notebook}-{there}" for there, notebook, _ in PARTIAL],
)
def test_a_page_with_one_of_its_datasets(papermill, small_data, small_run, tmp_path, there, notebook, output):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / there).symlink_to(small_data / there)
    folders = {"data_dir": str(tmp_path / "data"), "results_dir": str(tmp_path / "results")}
    done = papermill(notebook, tmp_path / "out.ipynb", small_run | folders)
    assert done.returncode == 0, done.stderr
    assert output in shown(tmp_path / "out.ipynb")
    (written,) = (tmp_path / "results").glob("*.csv")
    assert {name.split("/")[0] for name in read_results(written)["dataset"] if name} == {there}


@pytest.mark.slow
def test_a_dataset_that_lost_an_image_is_an_error(papermill, small_data, small_run, tmp_path):
    shutil.copytree(small_data / "mini_mvtec", tmp_path / "mini_mvtec")
    meta = pd.read_csv(tmp_path / "mini_mvtec" / "meta.csv")
    gone = tmp_path / "mini_mvtec" / meta.loc[meta["split"] == "test", "image"].iloc[0]
    gone.unlink()
    done = papermill("rwda/31_prompt_guided", tmp_path / "out.ipynb", small_run | {"data_dir": str(tmp_path)})
    assert done.returncode != 0 and gone.name in done.stderr


OURS = {"model": "zsad-mini", "weights": "shipped", "prompt_model": "zsad-mini", "prompt_weights": "shipped"}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["rwda/31_prompt_guided", "anomalyclip/f_class_by_class"])
def test_the_paper_profile_is_accepted_whole(papermill, small_data, small_run, tmp_path, notebook):
    """As `-f profiles/paper.yaml`, made small by a second file. MVTec AD's place is taken, the others not."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mvtec").symlink_to(small_data / "mini_mvtec")
    few = {name: value for name, value in small_run.items() if name != "profile"}
    few |= OURS | {"data_dir": str(tmp_path / "data"), "results_dir": str(tmp_path / "results")}
    few |= {"backbone": "clip", "prompt_image_size": 96, "limit_images": 1}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(few))
    files = ("-f", "profiles/paper.yaml", "-f", str(tmp_path / "few.yaml"))
    done = papermill(notebook, tmp_path / "out.ipynb", {}, *files)
    assert done.returncode == 0, done.stderr
    output = shown(tmp_path / "out.ipynb")
    assert "profile **paper** with" in output
    missing = "The dataset visa is not prepared: `zsad prepare visa --help`"
    assert notebook.startswith("rwda") or missing in output
