"""Claims of the papers, each with a predicate that runs on published and on measured numbers alike.

The claims are rows of `published/claims.csv`: what a paper says, and a `test` that decides it from numbers.
For each paper there is a module (`claims/rwda.py`) with one function for each claim, named after its id:
`rwda_c01`. A predicate reads a valid tidy frame (`zsad_core.results`) in which datasets carry their published
names (`results.as_roles`), and returns a `Verdict`.

>>> from zsad_core.results import load_published
>>> verdicts = evaluate("rwda", load_published("rwda"))
>>> verdicts.set_index("id").loc["rwda-c01", "verdict"]
'holds'
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import pandas as pd

from zsad_core.claims.verdicts import FAILS, HOLDS, UNDECIDED, Verdict
from zsad_core.results import validate

__all__ = [
    "FAILS",
    "HOLDS",
    "UNDECIDED",
    "Claim",
    "Verdict",
    "evaluate",
    "ledger",
    "load_claims",
    "predicates",
]


@dataclass(frozen=True)
class Claim:
    """What a paper says, in which section, and the test that decides it."""

    id: str
    paper: str
    section: str
    claim: str
    test: str


def load_claims(paper: str | None = None) -> list[Claim]:
    """The claims of a paper, or of all, in the order of `published/claims.csv`.

    >>> len(load_claims("rwda"))
    28
    """
    with (files("zsad_core") / "published" / "claims.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if paper is not None and paper not in set(table["paper"]):
        raise ValueError(f"paper is {paper!r}; expected one of {sorted(set(table['paper']))}")
    return [Claim(**row) for row in table.to_dict("records") if paper in (None, row["paper"])]


def predicates(paper: str) -> dict[str, Callable[..., Verdict]]:
    """The predicates of a paper by claim id: the functions of its module that are named `<paper>_cNN`."""
    if find_spec(f"{__name__}.{paper}") is None:
        raise ValueError(f"no predicates for {paper!r}: expected a module zsad_core/claims/{paper}.py")
    module = import_module(f"{__name__}.{paper}")
    names = sorted(name for name in vars(module) if name.startswith(f"{paper}_c"))
    return {name.replace("_", "-"): getattr(module, name) for name in names}


def evaluate(paper: str, frame: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """Verdicts of all predicates of a paper on a tidy frame with published dataset names.

    frame : results under published dataset names; rows of other papers do no harm.
    options : passed to the predicates that take them (`n_pairs`, `pair_counts` for RWDA); one that no
        predicate takes is an error.

    Returns
    -------
    One row for each claim: id, section, claim, test, verdict, numbers, reason.
    """
    tests = predicates(paper)
    takes = {claim: list(inspect.signature(test).parameters)[1:] for claim, test in tests.items()}
    unknown = set(options) - set().union(*takes.values())
    if unknown:
        raise ValueError(
            f"no predicate takes {sorted(unknown)}; expected some of {set().union(*takes.values())}"
        )
    frame = validate(frame)
    records = []
    for claim in load_claims(paper):
        verdict = tests[claim.id](
            frame, **{name: options[name] for name in takes[claim.id] if name in options}
        )
        records.append(
            {
                "id": claim.id,
                "section": claim.section,
                "claim": claim.claim,
                "test": claim.test,
                "verdict": verdict.verdict,
                "numbers": verdict.numbers_text,
                "reason": verdict.reason,
            }
        )
    return pd.DataFrame(records)


def ledger(published: pd.DataFrame, run: pd.DataFrame) -> pd.DataFrame:
    """Two results of `evaluate` side by side: columns `published`, `run` and their numbers and reasons.

    `agreement` is 'same verdict', 'other verdict', or 'open' where one side cannot decide.
    """
    shared = ["id", "section", "claim", "test"]
    if list(published["id"]) != list(run["id"]):
        raise ValueError("the two evaluations hold different claims; expected the same paper on both sides")
    sides = [
        side.set_index(shared)[["verdict", "numbers", "reason"]].rename(
            columns={"verdict": name, "numbers": f"{name}_numbers", "reason": f"{name}_reason"}
        )
        for name, side in (("published", published), ("run", run))
    ]
    table = pd.concat(sides, axis=1).reset_index()
    is_open = (table[["published", "run"]] == UNDECIDED).any(axis=1)
    same = table["published"] == table["run"]
    table["agreement"] = same.map({True: "same verdict", False: "other verdict"}).mask(is_open, "open")
    return table
