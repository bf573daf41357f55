"""Launch, source and edit buttons that open the source of a page.

The executed notebooks lie in `book/notebooks/`, which is not in the repository; their sources lie in
`notebooks/`. The theme knows only where the book found a page, so its links are rewritten here. The
environment variable BOOK_REPOSITORY replaces the repository's address of `_config.yml`, say for a fork.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

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


def _links(buttons: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for button in buttons:
        if button["type"] == "group":
            yield from _links(button["buttons"])
        elif "url" in button:
            yield button


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", name_repository, priority=1)
    app.connect("html-page-context", open_sources, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
