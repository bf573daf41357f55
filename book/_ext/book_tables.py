"""Tables that are made when the book is built, so that none can go stale.

`{parameters-table}` shows every notebook parameter with its value in each profile, `{stage-times}` what the
workflow has measured of its jobs, `{run-times}` what papermill stamped on the executed notebooks,
`{published-datasets}` how large the papers' datasets are, `{sources-table}` what the dataset scripts say of
their sources, `{jobs-table}` what the workflow's jobs ask for.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data_scripts.source import all_sources  # noqa: E402
from zsad_papers.common.settings import parameters, read_profile  # noqa: E402


class ParametersTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        paths = {name: ROOT / "profiles" / f"{name}.yaml" for name in ("mini", "paper")}
        for path in paths.values():
            self.env.note_dependency(str(path))
        profiles = {name: {"profile": name} | read_profile(name) for name in paths}
        rows = [
            (
                f"`{name}`",
                kind,
                meaning,
                *(_value(values.get(name)) for values in profiles.values()),
            )
            for name, (kind, meaning) in parameters().items()
        ]
        return _table(self, ("parameter", "type", "meaning", *profiles), rows)


class StageTimes(SphinxDirective):
    """The argument: CPU minutes of an earlier run, as `datasets=1, pages=8`."""

    final_argument_whitespace = True
    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        before = dict(pair.strip().split("=") for pair in " ".join(self.arguments).split(",") if pair)
        stages = stage_times(Path(self.env.srcdir) / "notebooks" / "times" / "jobs")
        rows = []
        for stage in dict.fromkeys([*before, *stages]):
            cpu, wall, memory = stages.get(stage, (0, 0, 0))
            measured = (f"{cpu / 60:.1f}", f"{wall / 60:.1f}", f"{memory:.0f}")
            rows.append((stage, before.get(stage, ""), *(measured if stage in stages else ("", "", ""))))
        header = ("stage", "CPU minutes before", "CPU minutes", "minutes of its jobs", "largest job, MB")
        return _table(self, header, rows)


def stage_times(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Of each stage: CPU seconds and seconds of its jobs, and the memory of the largest in MB."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as file:
            *_, job = csv.DictReader(file, delimiter="\t")  # the last try
        own = path.with_name(f"{path.name}.cpu")
        times = re.findall(r"(\d+)m([\d.]+)s", own.read_text(encoding="utf-8")) if own.is_file() else []
        cpu = sum(60 * int(minutes) + float(seconds) for minutes, seconds in times)
        known = {name: 0.0 if job[name] == "NA" else float(job[name]) for name in ("cpu_time", "max_rss")}
        stage = _stage(path.relative_to(folder).as_posix()[: -len(".tsv")])
        found.setdefault(stage, []).append((cpu or known["cpu_time"], float(job["s"]), known["max_rss"]))
    columns = {stage: list(zip(*jobs, strict=True)) for stage, jobs in found.items()}
    return {stage: (sum(cpu), sum(wall), max(memory)) for stage, (cpu, wall, memory) in columns.items()}


def _stage(job: str) -> str:
    """A job's: `kind-dataset-category` and `views-dataset` are features, `paper-dataset` an experiment."""
    first, *others = job.split("-")
    if first == "dataset":
        return "datasets"
    if job == "texts" or first == "views" or len(others) > 1:
        return "features and sentences"
    return f"experiments of {first}" if others else "pages"


class RunTimes(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        rows, folder = [], Path(self.env.srcdir)
        for document in sorted(self.env.found_docs):
            path = Path(self.env.doc2path(document))
            if path.suffix != ".ipynb":
                continue
            self.env.note_dependency(str(path))
            notebook = json.loads(path.read_text(encoding="utf-8"))
            seconds = notebook["metadata"].get("papermill", {}).get("duration")
            if seconds is None:
                continue
            cells = (cell["metadata"].get("papermill", {}).get("duration") for cell in notebook["cells"])
            page = os.path.relpath(path, folder / Path(self.env.docname).parent)
            slowest = max((duration for duration in cells if duration), default=0.0)
            rows.append((f"[]({Path(page).as_posix()})", f"{seconds:.0f}", f"{slowest:.0f}"))
        return _table(self, ("page", "seconds", "of which the slowest cell"), rows)


class PublishedDatasets(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        path = ROOT / "data_scripts" / "datasets.csv"
        self.env.note_dependency(str(path))
        word = {"1": "yes", "0": "no"}
        with path.open(encoding="utf-8", newline="") as file:
            rows = [
                (
                    *(row[name] for name in ("dataset", "domain", "modality")),
                    *(row[name] for name in ("n_categories", "n_normal", "n_anomalous")),
                    *(word[row[name]] for name in ("has_pixel_masks", "has_image_labels")),
                )
                for row in csv.DictReader(file)
            ]
        header = ("dataset", "domain", "modality", "categories", "normal", "anomalous", "masks", "labels")
        return _table(self, header, rows)


class SourcesTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        rows = []
        for source in all_sources():
            self.env.note_dependency(str(ROOT / "data_scripts" / f"{source.name}.py"))
            fetch = "yes" if any(archive.url for archive in source.archives) else ""
            is_address = source.home.startswith("https://")
            link = f"[{source.title}]({source.home})" if is_address else f"{source.title}: {source.home}"
            rows.append((f"`{source.name}`", link, source.terms, _marked(source.how), fetch))
        return _table(self, ("script", "dataset", "terms", "how to get it", "`--fetch`"), rows)


class JobsTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        path = ROOT / "workflow" / "Snakefile"
        self.env.note_dependency(str(path))
        rows = jobs(path.read_text(encoding="utf-8"))
        return _table(self, ("rule", "a job of it", "threads", "memory, MB", "minutes"), rows)


def jobs(snakefile: str) -> list[tuple[str, ...]]:
    """Name, message, threads, mem_mb and runtime of each rule with a command; empty: not said in the rule."""
    rows = []
    for name, body in re.findall(r"^rule (\w+):\n((?:[ \t].*\n|\n)+)", snakefile, re.M):
        message = re.search(r'message:\s+"(.*)"', body)
        if message:
            found = [re.search(rf"\b{key}[:=] *(\d+)", body) for key in ("threads", "mem_mb", "runtime")]
            threads, *others = [match[1] if match else "" for match in found]
            means = re.sub(r"\{wildcards\.(\w+)\}", r"*\1*", message[1])
            rows.append((f"`{name}`", means, threads or "1", *others))
    return rows


def _table(
    directive: SphinxDirective, header: Sequence[str], rows: Sequence[Sequence[str]]
) -> list[nodes.Node]:
    """A Markdown table, parsed where the directive stands, so that its cells may hold links."""
    lines = [header, ["---"] * len(header), *rows]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    container = nodes.container()
    source = StringList(text, source=directive.env.docname)
    directive.state.nested_parse(source, directive.content_offset, container)
    return container.children


def _marked(text: str) -> str:
    """Addresses as links; files, checksums and options as code, else two dashes would become a long one."""
    address = r"(https?://[^\s,;)]*[^\s,;).])"
    code = r"--[a-z][a-z-]*|\b[0-9a-f]{64}\b|\b[\w-]+\.(?:zip|tar|tar\.xz|csv|md)\b"
    return re.sub(f"{address}|{code}", lambda found: f"<{found[0]}>" if found[1] else f"`{found[0]}`", text)


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{dataset}: {name}" for dataset, name in value.items())
    return json.dumps(value).strip('"')


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("parameters-table", ParametersTable)
    app.add_directive("stage-times", StageTimes)
    app.add_directive("run-times", RunTimes)
    app.add_directive("published-datasets", PublishedDatasets)
    app.add_directive("sources-table", SourcesTable)
    app.add_directive("jobs-table", JobsTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
