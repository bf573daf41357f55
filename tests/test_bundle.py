"""A bundle carries a whole run, and nothing that is not a run gets out of one."""

import json
import stat
import subprocess
import zipfile
from contextlib import nullcontext

import pytest
import yaml
from click.testing import CliRunner
from helpers import refused, written

from workflow import bundle
from zsad_papers.common.settings import read_profile


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a finished run of the profile `own`, whose book has two pages."""
    profile = read_profile("mini") | {"results_dir": f"{tmp_path}/results/own"}
    files = {
        "book/_toc.yml": "- file: intro\n- file: notebooks/a\n- file: notebooks/rwda/b\n",
        "profiles/own.yaml": yaml.safe_dump(profile),
        "results/own/notebooks/a.ipynb": "{}",
        "results/own/notebooks/rwda/b.ipynb": "{}",
        "results/own/rwda_43.csv": "paper\n",
        "results/own/rwda_43.json": json.dumps({"commit": "0123abc"}),
        "results/own/times/rwda_43.json": "{}",
    }
    for name, text in files.items():
        written(tmp_path / name, text)
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    monkeypatch.setattr(bundle, "LARGEST", 10_000)
    return tmp_path


def call(checkout, *arguments):
    profile = [] if arguments[0] == "pages" else ["--profile", str(checkout / "profiles" / "own.yaml")]
    CliRunner().invoke(bundle.main, [*arguments, *profile], catch_exceptions=False)


def test_a_run_comes_out_of_its_bundle_as_it_went_in(checkout):
    archive, run = checkout / "results" / "own.zip", checkout / "results" / "own"
    call(checkout, "pack")
    packed = archive.read_bytes()
    assert bundle.unpack_run(archive, checkout / "out") == "profile own, commit 0123abc"
    for path in run.rglob("*.*"):
        assert (checkout / "out" / path.relative_to(run)).read_bytes() == path.read_bytes()
    call(checkout, "pack")
    assert archive.read_bytes() == packed and len(list(archive.parent.iterdir())) == 2


@pytest.mark.parametrize("fault", ["notebooks/a.ipynb", "rwda_43.json", "unfinished/rwda/b.ipynb"])
def test_an_unfinished_run_is_refused(checkout, fault):
    path = checkout / "results" / "own" / fault
    path.unlink() if path.exists() else (path.parent.mkdir(parents=True), path.touch())
    for command in ("pack", "reference"):
        refused(f"not finished .{fault}.: `make book` goes on", call, checkout, command)
    assert not (checkout / "reference").exists() and not (checkout / "results" / "own.zip").exists()


def test_the_reference_holds_tables_of_a_commit(checkout):
    call(checkout, "reference")
    call(checkout, "reference")
    names = {path.name for path in (checkout / "reference").rglob("*.*")}
    assert names == {"rwda_43.csv", "rwda_43.json"}
    (checkout / "results" / "own" / "rwda_43.json").write_text('{"commit": "4567+changes"}')
    refused("of commit 4567.changes, which nobody else has", call, checkout, "reference")
    call(checkout, "reference", "--changes")
    assert "4567" in (checkout / "reference" / "own" / "rwda_43.json").read_text()


LINK = zipfile.ZipInfo("x")
LINK.external_attr = (stat.S_IFLNK | 0o777) << 16


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rwda_43.csv", b"other", "rwda_43.csv is not as its manifest says"),
        ("more.csv", b"", "more.csv is not as its manifest says"),
        ("rwda_43.json", None, "rwda_43.json is not as its manifest says"),
        ("../x", b"", "leads out of the archive"),
        ("C:x", b"", "is no plain relative path"),
        (LINK, b"/etc", "is a link"),
        ("x", bytes(20_000), "made to fill the disk"),
        (bundle.MANIFEST, b'{"format": 2}', "has format 2, this checkout reads 1"),
        (bundle.MANIFEST, b"[]", "its manifest is damaged: fetch it again"),
        (bundle.MANIFEST, None, "is no bundle of a run"),
    ],
)
def test_a_bundle_that_was_tampered_with_is_refused(checkout, name, content, message):
    call(checkout, "pack")
    archive = checkout / "results" / "own.zip"
    with zipfile.ZipFile(archive) as old:
        files = {own: old.read(own) for own in old.namelist()} | {name: content}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as new:
        for own, kept in files.items():
            if kept is not None:
                new.writestr(own, kept)
    refused(message, call, checkout, "pages", str(archive))
    assert {path.name for path in checkout.iterdir()} == {"book", "profiles", "results"}


def test_half_a_bundle_and_one_without_a_page_are_refused(checkout):
    call(checkout, "pack")
    archive = checkout / "results" / "own.zip"
    (half := checkout / "half.zip").write_bytes(archive.read_bytes()[:400])
    refused("is cut off or damaged", bundle.unpack_run, half, checkout / "out")
    with (checkout / "book" / "_toc.yml").open("a") as contents:
        contents.write("- file: notebooks/new\n")
    refused("lacks notebooks/new.ipynb.*commit 0123abc", bundle.unpack_run, archive, checkout / "other")


@pytest.mark.parametrize("code", [0, 1])
def test_pages_name_their_run_and_replace_older_ones_only_when_whole(checkout, monkeypatch, code):
    def jupyter_book(command, cwd, **_):
        names = ",".join(path.name for path in (cwd / "book" / "notebooks").iterdir())
        shown = (cwd / "_config.yml").read_text() + names
        written(cwd / "book" / "_build" / "html" / "index.html", shown)
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(bundle.subprocess, "run", jupyter_book)
    (checkout / "_config.yml").write_text("html: {}\n")
    written(checkout / "pages" / "index.html", "old")
    call(checkout, "pack")
    with pytest.raises(ValueError, match="nothing was replaced") if code else nullcontext():
        call(checkout, "pages", str(checkout / "results" / "own.zip"))
    text = (checkout / "pages" / "index.html").read_text()
    wanted = ("profile own, commit 0123abc, from own.zip", "a.ipynb", "times")
    assert text == "old" if code else all(part in text.replace("\n   ", "") for part in wanted)
    assert {p.name for p in checkout.iterdir()} == {"_config.yml", "book", "pages", "profiles", "results"}
