"""A finished run as one archive, the book from such an archive, and the tables to verify other runs with.

    python -m workflow.bundle pack --profile mini           results/mini.zip, from results/mini
    python -m workflow.bundle pages results/mini.zip        pages/index.html; nothing is computed
    python -m workflow.bundle reference --profile mini      reference/mini, from results/mini

`pages` needs no data, no weights and no torch.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from html import escape
from pathlib import Path

import click
import yaml
from pydantic import BaseModel

from data_scripts.unpack import unpack
from profiles import profile_path
from zsad_core.cache import sha256_of, write_atomically
from zsad_papers.common.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
FORMAT = 1
MANIFEST = "manifest.json"
LARGEST = 2_000_000_000  # bytes of a run
PROFILE = click.option("--profile", default="mini", show_default=True, help="A name, or a YAML file.")


class Manifest(BaseModel):
    format: int
    run: str = ""
    files: dict[str, str] = {}  # name: SHA-256


main = click.Group(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))


@main.command()
@PROFILE
def pack(profile: str) -> None:
    """Pack the finished run of a profile. The same run gives the same bytes."""
    results, path = _results(profile), profile_path(profile, ROOT)
    files = finished(results) | {"profile.yaml": path.read_bytes()}
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    run = f"profile {path.stem}, commit {', '.join(commits(results))}"

    def write(temporary: Path) -> None:
        manifest = Manifest(format=FORMAT, run=run, files=sums).model_dump_json(indent=1)
        with zipfile.ZipFile(temporary, "w") as bundle:
            for name, data in {MANIFEST: manifest, **files}.items():
                bundle.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)  # without a date

    archive = results.with_name(f"{results.name}.zip")
    write_atomically(archive, write)
    print(f"The run is in {archive} ({archive.stat().st_size / 1e6:.0f} MB)")


def finished(results: Path) -> dict[str, bytes]:
    """The files of a run: executed notebooks, tables, their provenance, times. ValueError if one is missing
    or stopped with an error: then a newer notebook lies in `unfinished/`."""
    tables = sorted(results.glob("*.csv")) or [results / "*.csv"]
    times = [path for path in results.glob("times/**/*") if path.is_file()]
    facts = [path.with_suffix(".json") for path in tables]
    paths = [*map(results.joinpath, pages_of_book()), *tables, *facts, *times]
    lacking = [path for path in paths if not path.is_file()] + [*results.glob("unfinished/**/*.ipynb")]
    if lacking:
        names = ", ".join(path.relative_to(results).as_posix() for path in lacking[:3])
        more = f" and {len(lacking) - 3} more" if lacking[3:] else ""
        raise ValueError(f"the run in {results} is not finished ({names}{more}): `make book` goes on with it")
    return {path.relative_to(results).as_posix(): path.read_bytes() for path in sorted(paths)}


def pages_of_book() -> list[str]:
    """The executed notebooks that the book shows, as `notebooks/rwda/43_state_of_the_art.ipynb`."""
    contents = (ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")
    return [f"{page}.ipynb" for page in re.findall(r"file: (notebooks/\S+)", contents)]


def commits(results: Path) -> list[str]:
    return sorted({json.loads(path.read_bytes())["commit"] for path in results.glob("*.json")})


@main.command()
@click.argument("archive", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def pages(archive: Path) -> None:
    """Build the book from a bundle, in pages/, which is replaced when the new one is whole."""
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".pages-") as folder:
        site = Path(folder)
        run = unpack_run(archive, site / "run")
        for path in ROOT.iterdir():
            if path.suffix in (".toml", ".md") or (path / "__init__.py").is_file():  # what the book reads
                (site / path.name).symlink_to(path)
        shutil.copytree(ROOT / "book", site / "book", ignore=shutil.ignore_patterns("_build", "notebooks"))
        (site / "run" / "notebooks").rename(site / "book" / "notebooks")
        if (site / "run" / "times").is_dir():
            (site / "run" / "times").rename(site / "book" / "notebooks" / "times")
        config = yaml.safe_load((ROOT / "_config.yml").read_bytes())
        config["html"]["announcement"] = escape(f"A run made elsewhere: {run}, from {archive.name}.")
        (site / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "book"]
        command += ["--config", "_config.yml", "--path-output", "book", "--quiet"]
        variables = os.environ | {"PYTHONPATH": "."}
        if subprocess.run(command, cwd=site, env=variables, stdout=subprocess.DEVNULL).returncode:
            raise ValueError("the book was not built, for the reason above; nothing was replaced")
        _replace(site / "book" / "_build" / "html", ROOT / "pages")
    print("The pages are at pages/index.html")


def unpack_run(archive: Path, folder: Path) -> str:
    """Unpack a bundle into a new folder; what its run was. ValueError says what is wrong, and what to do."""
    unpack(archive, folder, max_bytes=LARGEST)
    again = "fetch it again, or have it made again with `make bundle`"
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{archive} is no bundle of a run, or its manifest is damaged: {again}") from error
    paths = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    found = {path.relative_to(folder).as_posix(): sha256_of(path) for path in paths}
    if manifest.format != FORMAT:
        wrong = f"has format {manifest.format}, this checkout reads {FORMAT}: take the version that made it"
    elif other := sorted(dict(found.items() ^ manifest.files.items())):
        wrong = f"is damaged, {other[0]} is not as its manifest says: {again}"
    elif lacking := [page for page in pages_of_book() if page not in found]:
        wrong = f"lacks {lacking[0]}, a page of this book: check out its commit ({manifest.run}), or {again}"
    else:
        return manifest.run
    raise ValueError(f"{archive} {wrong}")


@main.command()
@PROFILE
@click.option("--changes", is_flag=True, help="Also from code that was not committed.")
def reference(profile: str, changes: bool) -> None:
    """Renew the tables that `zsad verify` compares runs with."""
    results, out = _results(profile), ROOT / "reference" / Path(profile).stem
    tables = {name: data for name, data in finished(results).items() if "/" not in name}
    unclear = [commit for commit in commits(results) if not re.fullmatch("[0-9a-f]+", commit)]
    if unclear and not changes:
        advice = "commit and `make book`, or give CHANGES=1"
        raise ValueError(f"the run is of commit {unclear[0]}, which nobody else has: {advice}")
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".reference-") as folder:
        (new := Path(folder, "new")).mkdir()
        for name, data in tables.items():
            (new / name).write_bytes(data)
        _replace(new, out)
    print(f"The reference is in {out}: commit it, and say why its numbers moved")


def _replace(new: Path, out: Path) -> None:
    """Moves a folder to `out`. What was there goes with the temporary folder that the new one lay in."""
    out.parent.mkdir(exist_ok=True)
    if out.exists():
        out.replace(new.with_name("old"))
    new.replace(out)


def _results(profile: str) -> Path:
    return ROOT / read_settings({"profile": profile}).results_dir


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
