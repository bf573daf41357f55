"""The book builds without a warning, and its pages hold together: links, buttons, figures, tables.

It is built once, in a temporary copy, from the notebooks as executed at their smallest settings.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from conftest import LEDGERS, NOTEBOOKS, ROOT
from test_book_sources import MADE, TEXTS

FORK = "https://github.com/someone/fork"  # the buttons must follow BOOK_REPOSITORY
HTML = "book/_build/html"
# what book/_ext and an included page read
READ = ("zsad_core", "zsad_papers", "data_scripts", "profiles", "workflow", "pyproject.toml")
SOURCES = {f"notebooks/{name}": f"notebooks/{name}.ipynb" for name in NOTEBOOKS}  # page -> its source
SOURCES |= {path.with_suffix("").as_posix(): f"book/{path}" for path in TEXTS if path.parts[0] not in MADE}


@pytest.fixture(scope="session")
def book(once, executed, root):
    """A folder with the built book in it; whether it was built well is for the first test to say."""

    def make(folder):
        shutil.copytree(root / "book", folder / "book", ignore=shutil.ignore_patterns(*MADE))
        shutil.copy(root / "_config.yml", folder)
        for name in READ:
            (folder / name).symlink_to(root / name)
        for name in NOTEBOOKS:
            page = folder / "book" / "notebooks" / f"{name}.ipynb"
            page.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(executed(name), page)
        snakefile = (root / "workflow" / "Snakefile").read_text()
        rule = re.search(r"\{params\.program:q\} (build book .+) &>", snakefile)
        assert rule, "the rule `book` calls jupyter-book in another way now"
        command = [str(Path(sys.executable).parent / "jupyter-book"), *rule[1].split()]
        environment = {**os.environ, "PYTHONPATH": ".", "BOOK_REPOSITORY": FORK}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).splitlines()
        lines = [rule[1], str(done.returncode), *dict.fromkeys(said)]  # Sphinx repeats itself
        (folder / "outcome.txt").write_text("\n".join(lines))

    for name in LEDGERS:  # and with it every other notebook, before anybody waits for the book
        executed(name)
    return once("book", make)


@pytest.fixture(scope="session")
def pages(book):
    """Every page that was built, by its path without .html."""
    names = [path.relative_to(book / HTML) for path in sorted((book / HTML).rglob("*.html"))]
    texts = {name: (book / HTML / name).read_text() for name in names if name.parts[0] != "_static"}
    return {name.with_suffix("").as_posix(): BeautifulSoup(x, "html.parser") for name, x in texts.items()}


def test_book_builds_without_a_warning(book):
    command, code, *said = (book / "outcome.txt").read_text().splitlines()
    assert {"-W", "-n", "--keep-going"} <= set(command.split()), "warnings must be errors"
    assert code == "0", "\n".join(said[-40:])


def test_every_link_leads_somewhere(book, pages):
    files = {page: book / HTML / f"{page}.html" for page in pages}
    places = {files[page]: {tag["id"] for tag in soup.select("[id]")} for page, soup in pages.items()}
    broken, followed = [], 0
    for page, soup in pages.items():
        links = [tag[key] for key in ("href", "src") for tag in soup.select(f"[{key}]")]
        links += [tag["content"].partition("url=")[2] for tag in soup.select('meta[http-equiv="Refresh"]')]
        for link in links:
            url = urlsplit(urljoin(files[page].as_uri(), link))
            if url.scheme != "file":  # elsewhere: not fetched
                if url.scheme not in ("https", "mailto", "javascript"):
                    broken.append(f"{page}: {link} is not https")
                continue
            followed += 1
            target, place = Path(unquote(url.path)), unquote(url.fragment)
            if not target.is_relative_to(book / HTML) or not target.is_file():
                broken.append(f"{page}: {link} was not built")
            elif place and target in places and place not in places[target]:
                broken.append(f"{page}: {link} names no place on that page")
    assert followed > 10 * len(pages), "the links were not found"
    assert not broken, "\n".join(broken)


def test_figures_are_drawn_numbered_captioned_and_described(pages):
    wanted = {}
    for name in NOTEBOOKS:
        for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells:
            if "figure" in (metadata := cell.metadata.get("mystnb", {})):
                wanted[f"notebooks/{name}", metadata.figure.name] = metadata.image.alt
    # in the body of each page that somebody wrote: not of the index and the search
    found = [(page, tag) for page in SOURCES for tag in pages[page].select("article.bd-article figure")]
    shown = {(page, tag.get("id")): tag for page, tag in found}
    assert set(shown) == set(wanted)
    lacking = {place for place, figure in shown.items() if " is among this run" in figure.get_text()}
    drawn = {place: figure for place, figure in shown.items() if place not in lacking}
    empty = [place for place, figure in drawn.items() if len(figure.select("img")) != 1]
    assert len(drawn) > len(lacking) and not empty, f"no picture above the caption: {empty}"
    assert {place: figure.img["alt"] for place, figure in drawn.items()} == {p: wanted[p] for p in drawn}
    captions = [tag.figcaption.get_text(" ", strip=True) for tag in shown.values()]
    numbers = [int(found[1]) for text in captions if (found := re.match(r"Fig\. (\d+) +\w", text))]
    assert sorted(numbers) == list(range(1, len(wanted) + 1)), captions
