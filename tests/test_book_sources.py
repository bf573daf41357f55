"""The book's sources keep the house rules. A build with warnings as errors sees none of this."""

import re
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import NOTEBOOKS, ROOT

from zsad_papers import all_papers
from zsad_papers.common.coverage import ONLY, OWN, STAND_IN, coverage
from zsad_papers.common.results import load_published, read_results
from zsad_papers.common.settings import parameters_cell, read_settings

MADE = {"_build", "notebooks"}  # folders in book/ that `make book` fills
TEXTS = sorted(path.relative_to(ROOT / "book") for path in (ROOT / "book").rglob("*.md"))
PAGES = [path.with_suffix("").as_posix() for path in TEXTS if path.parts[0] not in MADE]
PAGES += [f"notebooks/{name}" for name in NOTEBOOKS]
LONGEST_CELL, LONGEST_LINE = 15, 100  # lines, characters
LARGEST_FILE = 24_000 * 1024  # bytes, as in .pre-commit-config.yaml
PRESENTATION = {"hide-input", "hide-output", "hide-cell", "remove-input", "remove-output", "remove-cell"}
# Put together from parts, so that this file does not trip over itself.
MACHINE_PATHS = ["/" + "work/", "/" + "root/", "/" + "tmp/w"]


def cells_of(name, kind="code"):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)
    return [cell for cell in notebook.cells if cell.cell_type == kind]


def tags_of(cell):
    return cell.metadata.get("tags", [])


def artifacts():
    return pd.read_csv(ROOT / "book" / "artifacts.csv", keep_default_na=False)


def test_table_of_contents_lists_every_page_once_and_nothing_else():
    toc = (ROOT / "book" / "_toc.yml").read_text()
    listed = re.findall(r"^[ -]*(?:root|file): *(\S+)$", toc, re.M)
    assert sorted(listed) == sorted(PAGES)


@pytest.mark.filterwarnings(
    "error::nbformat.warnings.DuplicateCellId", "error::nbformat.warnings.MissingIDFieldWarning"
)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_valid_and_committed_without_outputs(name):
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert "papermill" not in notebook.metadata, "an executed copy: strip it (nbstripout)"
    for cell in cells_of(name):
        assert not cell.outputs, f"a stored output below\n{cell.source}"
        assert cell.execution_count is None, f"an execution count beside\n{cell.source}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameters_come_first_and_are_checked_at_once_and_other_cells_are_short(name):
    cells = cells_of(name)
    # papermill would write its values below the tagged cell; none at all, and the notebook's own lines win
    assert [i for i, cell in enumerate(cells) if "parameters" in tags_of(cell)] == [0]
    names = re.findall(r"^(\w+):", cells[0].source, re.M)
    # one name means the same in every notebook: type, default and comment are those of the settings
    assert names[0] == "profile" and cells[0].source == parameters_cell(names)
    start = r"^page = (\w+\.)?start\(globals\(\)"
    assert re.search(start, cells[1].source, re.M), "the check must stand right below the parameters"
    assert not [cell.source for cell in cells[1:] if len(cell.source.splitlines()) > LONGEST_CELL]
    assert not [line for cell in cells for line in cell.source.splitlines() if len(line) > LONGEST_LINE]


def test_artifacts_are_all_tables_and_figures_of_the_papers():
    table = artifacts()
    listed = table[table["paper"].isin(["rwda", "winclip", "anomalyclip"])]
    assert listed["kind"].value_counts().to_dict() == {"table": 59, "figure": 53}
    assert set(table["paper"]) == set(all_papers())
    assert set(table["status"]) <= {"done", "planned"}
    assert not table[table.duplicated(["paper", "artifact"])].to_dict("records")
    assert (table["kind"].eq("figure") == table["artifact"].str.startswith("F")).all()
    # every published number belongs to one of them
    for paper, own in table.groupby("paper"):
        assert not set(load_published(paper)["artifact"]) - set(own["artifact"]), paper


def test_every_artifact_that_is_done_has_its_cell_and_every_tagged_cell_its_artifact():
    table = artifacts()
    done = table[table["status"] == "done"]
    assert not table.loc[table["status"] == "planned", "notebook"].any(), "planned, yet a notebook is named"
    named = {f"artifact:{a.paper}:{a.artifact}": a.notebook for a in done.itertuples()}
    tagged = []
    for name in NOTEBOOKS:
        for cell in cells_of(name):
            others = set(tags_of(cell)) - PRESENTATION - {"parameters"}
            found = [tag for tag in others if tag.startswith("artifact:")]
            assert others == set(found), f"{name}: unknown tags, perhaps misspelt: {others - set(found)}"
            tagged += [(tag, f"notebooks/{name}.ipynb") for tag in found]
            for paper, figure in re.findall(r"artifact:(\w+):F(\w+)", " ".join(found)):
                assert cell.metadata.mystnb.figure.name == f"fig-{paper}-{figure}", f"{name}: {found}"
    assert sorted(tagged) == sorted(named.items())
    assert set(table.loc[table["paper"] == "rwda", "status"]) == {"done"}, "the RWDA part is whole"


def test_no_file_is_too_large_or_names_a_folder_of_a_machine():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    files = [path for name in listed.split("\0") if (path := ROOT / name).is_file()]
    assert Path(__file__) in files
    large = {str(path): path.stat().st_size for path in files if path.stat().st_size > LARGEST_FILE}
    assert not large
    named = {text: [path for path in files if text.encode() in path.read_bytes()] for text in MACHINE_PATHS}
    assert not any(named.values()), named


def test_coverage_counts_measured_neighbours_and_hollow_artifacts_have_a_reason():
    settings, printed = read_settings({"profile": "mini"}), load_published("anomalyclip")
    one = artifacts().query("paper == 'anomalyclip' and artifact == 'T4'")
    half = printed.query("dataset == 'mvtec'").assign(dataset="mini_mvtec")
    for datasets, rows, expected in (
        ({"mvtec": "mvtec", "visa": "visa"}, printed, (OWN, 40, 40)),
        ({"mvtec": "mini_mvtec"}, half, (STAND_IN, 40, 20)),
        ({"mvtec": "mini_mvtec"}, printed.iloc[:0], (ONLY, 40, 0)),
    ):
        assert tuple(coverage(one, rows, datasets)[["state", "cells", "measured"]].iloc[0]) == expected
    run = read_results((ROOT / "reference" / "mini").glob("*.csv"))
    found = coverage(artifacts(), run, settings.datasets)
    found = found[found["measured"] < found["cells"] / 2]
    hollow = pd.read_csv(ROOT / "book" / "hollow.csv", keep_default_na=False)
    found, told, listed = ({*zip(x["paper"], x["artifact"])} for x in (found, hollow, artifacts()))
    assert found <= told <= listed
