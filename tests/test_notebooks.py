"""Every notebook runs through once at its smallest setting, and shows and writes the golden tables.

`make golden` renews the tables of `tests/golden/smallest`, where a change moves them on purpose.
"""

import json
import re
import shutil
from pathlib import Path

import golden
import nbformat
import pandas as pd
import pytest
from conftest import NOTEBOOKS, ROOT, run_page
from helpers import refused
from papermill.exceptions import PapermillExecutionError

from zsad_papers.common import verify
from zsad_papers.common.results import read_results


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_page(executed, notebook, small_run, request):
    """It ran whole and without a warning, names no folder of this machine, and its tables are as before."""
    cells = nbformat.read(executed(notebook), as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        # the book leaves stderr out, which holds progress bars: no warning may hide there
        assert not [output for output in cell.outputs if "Warning" in output.get("text", "")]
        drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
        wanted = cell.metadata.get("mystnb", {})
        assert not drawn or wanted.get("image", {}).get("alt"), f"a figure without alt text:\n{cell.source}"
        lacks = any("among this run's data" in str(output.get("data", {})) for output in cell.outputs)
        assert not wanted or drawn or lacks, f"a figure's cell that draws nothing:\n{cell.source}"
    text = shown(executed(notebook)) + json.dumps([cell.outputs for cell in code])
    places = {str(ROOT), str(Path.home()), str(Path(small_run["data_dir"]).parent)} - {"/"}
    assert not [place for place in places if place in text]
    found = golden.shown(executed(notebook))
    path = golden.FOLDER / "pages" / f"{notebook.replace('/', '-')}.csv"
    if request.config.getoption("--renew"):
        path.parent.mkdir(parents=True, exist_ok=True)
        golden.KIND.write_text(golden.processor())
        found.to_csv(path, index=False)
    wrong = golden.differences(pd.read_csv(path, keep_default_na=False), found)
    assert not wrong, f"{notebook}: `make golden` if this is on purpose\n" + "\n".join(wrong[:20])


def test_result_tables_are_the_golden_ones_and_name_their_origin(executed, small_run, request):
    executed("claims")  # and with it all others
    files = {path.name: path for path in Path(small_run["results_dir"]).glob("*.csv")}
    tables = {name: read_results(path) for name, path in files.items()}
    for name, table in tables.items():
        origin = json.loads(files[name].with_suffix(".json").read_text())
        assert len(table) and origin["parameters"]["limit_images"] == small_run["limit_images"]
        assert origin["commit"] and origin["versions"]["torch"]
    if request.config.getoption("--renew"):
        golden.FOLDER.mkdir(parents=True, exist_ok=True)
        for path in golden.FOLDER.glob("*.csv"):
            path.unlink()
        for name in tables:
            shutil.copy(files[name], golden.FOLDER)
    kept = {path.name: read_results(path) for path in golden.FOLDER.glob("*.csv")}
    assert kept.keys() == tables.keys()
    rows = {name: verify.compare_rows(kept[name], table) for name, table in tables.items()}
    allowed = [""] if golden.same_processor() else ["", "differs"]
    wrong = {name: table[~table["problem"].isin(allowed)] for name, table in rows.items()}
    assert not [f"{name}\n{table.head(9)}" for name, table in wrong.items() if len(table)]


def test_a_bad_parameter_stops_before_anything_is_computed(tmp_path):
    page, out, error = "rwda/43_state_of_the_art", tmp_path / "out.ipynb", PapermillExecutionError
    refused("did you mean 'n_pairs'", run_page, page, out, {"n_pair": 4}, error=error)
    cells = nbformat.read(out, as_version=4).cells
    assert sum(cell.get("execution_count") is not None for cell in cells) <= 3  # the parameters and the check


def shown(path):
    """The Markdown that an executed notebook shows; it must be whole, and its glued texts must be words."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source.strip())
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    prefix = "application/papermill.record/text/plain"
    glued = [output["data"][prefix] for output in outputs if prefix in output.get("data", {})]
    assert not [text for text in glued if re.search(r"\bnan\b|\binf\b|^''$", text)]
    return "\n".join(output.get("data", {}).get("text/markdown", "") for output in outputs)


NEED_NONE = {"contradictions", "coverage", "speed", "rwda/45_feature_embeddings"}
ONE = "rwda/31_prompt_guided"
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in NOTEBOOKS if name not in {ONE, *NEED_NONE}]


@pytest.mark.parametrize("notebook", [ONE, *SLOW])
def test_a_page_without_datasets_says_how_to_get_them(small_run, tmp_path, notebook):
    folders = {"data_dir": str(tmp_path / "nowhere"), "results_dir": str(tmp_path / "results")}
    run_page(notebook, tmp_path / "out.ipynb", small_run | folders | {"allow_missing": True})
    line = r"The dataset (\w+)\S* \(stand-in for \w+\) is not prepared: `zsad prepare \1 "
    assert re.search(line, shown(tmp_path / "out.ipynb"))
