"""Buttons that open the source of a page, and links in the text that open a file of the code.

The executed notebooks lie in `book/notebooks/`, which is not in the repository; their sources lie in
`notebooks/`. The theme knows only where the book found a page, so its links are rewritten here. The
environment variable BOOK_REPOSITORY replaces the repository's address of `_config.yml`, say for a fork. A
link to a file that is no page, such as `../zsad_core/fnn.py`, leads to it in the repository, not to a copy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.application import Sphinx
from sphinx.config import Config

EXECUTED, SOURCE = "book/notebooks/", "notebooks/"


def name_repository(app: Sphinx, config: Config) -> None:
    """Before the theme reads its options."""
    repository = os.environ.get("BOOK_REPOSITORY", "").rstrip("/")
    if repository:
        config.html_theme_options["repository_url"] = repository


def open_sources(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """After the theme has made its buttons."""
    for button in _links(context.get("header_buttons", [])):
        button["url"] = button["url"].replace(f"/{EXECUTED}", f"/{SOURCE}")


def open_code(app: Sphinx, doctree: nodes.document) -> None:
    """Before Sphinx copies what a page offers for download."""
    options = app.config.html_theme_options
    start = f"{options['repository_url']}/blob/{options['repository_branch']}"
    folder = Path(app.env.doc2path(app.env.docname)).parent
    for node in list(doctree.findall(download_reference)):
        path = Path(os.path.normpath(folder / node["reftarget"])).relative_to(Path(app.srcdir).parent)
        link = nodes.reference("", "", *node.children, refuri=f"{start}/{path.as_posix()}")
        node.replace_self(link)


def _links(buttons: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for button in buttons:
        if button["type"] == "group":
            yield from _links(button["buttons"])
        elif "url" in button:
            yield button


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", name_repository, priority=1)
    app.connect("doctree-read", open_code, priority=100)
    app.connect("html-page-context", open_sources, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
