"""The experiments of three papers, one package a paper; `all_papers` finds them."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any


@cache
def all_papers() -> dict[str, Any]:
    """{key: `common.paper.Paper`} of every subpackage with a `PAPER`, in the book's order."""
    names = (module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)
    found = (getattr(importlib.import_module(f"{__name__}.{name}"), "PAPER", None) for name in names)
    papers = sorted((paper for paper in found if paper is not None), key=lambda paper: paper.order)
    return {paper.key: paper for paper in papers}


def start_page(paper: Any, parameters: Mapping[str, Any], datasets: Sequence[str] | None = None) -> Any:
    """What a notebook begins with, a `common.page.Page`. parameters: its `globals()`. datasets: the published
    ones that it is about; None: all of the paper."""
    from zsad_papers.common.page import start  # here: the workflow need not wait for torch

    return start(parameters, paper.datasets if datasets is None else datasets, paper)
