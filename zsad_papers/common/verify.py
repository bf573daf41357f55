"""Compare the result files of two runs within tolerances, for example of two machines.

    zsad verify results/mini other/results/mini

A and B are results folders, or one result file (CSV) each. Compared are the rows of every file, and of the
JSON beside it what defines the experiment: model, weights with SHA-256, fingerprints of the datasets,
parameters, precision, seed. Another commit, version or device is reported but is no fault. The folder
`times` is left out.

Exit code 0: they agree. 1: they differ. 2: nothing could be compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from zsad_papers.common.results import KEYS, PERCENT, read_results

POINTS = 0.1
"""Percentages may differ by so many points: processors add in another order."""
RELATIVE = 0.01
"""All other numbers may differ by this share of the larger one."""
SPREAD = 0.5
"""Or half of the standard deviation over seeds, if that is more. With another instruction set, means of ten
networks of 20,000 pairs moved by 0.8 points at a deviation of 3.8, and all others by at most 0.1."""

SAME = ("model", "weights", "weights_sha256", "datasets", "parameters", "precision", "seed")
MAY_DIFFER = ("profile", "commit", "versions", "device")

SHOWN = 5  # rows of a file that are listed
TOLERANCE = click.FloatRange(min=0)


def compare_rows(
    a: pd.DataFrame, b: pd.DataFrame, points: float, relative: float, spread: float
) -> pd.DataFrame:
    """Rows of two result frames side by side, matched on `results.KEYS`, in the order of these.

    Further columns: mean_a, std_a, mean_b, std_b; difference, the larger one of means and standard
    deviations, in points for percentages and else relative; by_spread: whether they agree only because seeds
    spread; problem: "" where the two agree, else "only in A", "only in B", "undefined in one" or "differs".
    """
    table = a.merge(b, on=KEYS, how="outer", suffixes=("_a", "_b"), indicator="side")
    table = table.sort_values(KEYS, ignore_index=True)
    left, right = (table[[f"mean_{side}", f"std_{side}"]].to_numpy() for side in "ab")  # (rows, 2)
    percent = table["metric"].isin(PERCENT)
    # a spread of almost nothing may double: it is compared with the size of its mean
    size = np.fmax.reduce(np.abs(np.hstack([left, right])), axis=1)
    scale = np.where(percent | ~(size > 0), 1, size)
    limit = np.where(percent, points, relative) * scale
    wide = np.fmax(limit, spread * np.fmax(left[:, 1], right[:, 1]))
    narrow, near = (
        np.isclose(left, right, rtol=0, atol=tolerance[:, None], equal_nan=True).all(axis=1)
        for tolerance in (limit, wide)
    )
    undefined = (np.isnan(left) != np.isnan(right)).any(axis=1)
    problems = {
        "only in A": table["side"] == "left_only",
        "only in B": table["side"] == "right_only",
        "undefined in one": undefined,
        "differs": ~near,
    }
    table["difference"] = np.fmax.reduce(np.abs(left - right), axis=1, initial=0) / scale
    table["by_spread"] = near & ~narrow
    return table.drop(columns="side").assign(problem=np.select(list(problems.values()), list(problems), ""))


def compare_facts(a: Mapping[str, Any], b: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """A sentence for each of these facts in which two provenances differ; the device and the profile's name
    are not compared."""
    a, b = ({key: value for name in names for key, value in _flat(name, side.get(name))} for side in (a, b))
    keys = {**a, **b}.keys() - {"parameters: device", "parameters: profile"}
    return [f"{k} is {a.get(k)!r} in A and {b.get(k)!r} in B" for k in sorted(keys) if a.get(k) != b.get(k)]


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    parts = value.items() if isinstance(value, Mapping) else ()
    return [(f"{name}: {key}", part) for key, part in parts] or [(name, value)]


def compare_runs(
    a: Path, b: Path, **tolerances: float
) -> tuple[dict[str, pd.DataFrame], list[str], list[str]]:
    """(rows by file as in `compare_rows`, faults, remarks) of two results folders or files.

    Faults: files that only one of the two has, and facts that make two experiments.
    Raises FileNotFoundError where there is nothing to compare, ValueError for a damaged file.
    """
    files = [_result_files(path) for path in (a, b)]
    if a.is_file() and b.is_file():  # two files may be called differently
        files[1] = {a.name: b}
    rows, faults, remarks = {}, [], []
    for name in sorted({*files[0], *files[1]}):
        if name not in files[0] or name not in files[1]:
            faults.append(f"{name} is only in {'A' if name in files[0] else 'B'}")
            continue
        pair = [own[name] for own in files]
        rows[name] = compare_rows(*map(read_results, pair), **tolerances)
        facts = [_read_facts(path) for path in pair]
        faults += [f"not the same experiment: {name}: {fact}" for fact in compare_facts(*facts, SAME)]
        remarks += [f"differs without fault: {fact}" for fact in compare_facts(*facts, MAY_DIFFER)]
    return rows, faults, list(dict.fromkeys(remarks))


def _result_files(path: Path) -> dict[str, Path]:
    found = {file.name: file for file in ([path] if path.is_file() else sorted(path.glob("*.csv")))}
    if not found:
        raise FileNotFoundError(
            f"{path} {'holds no result file (*.csv)' if path.is_dir() else 'does not exist'}: expected a "
            "results folder, as results/mini, or one of its CSV files"
        )
    return found


def _read_facts(path: Path) -> dict[str, Any]:
    """The provenance beside a result file."""
    file = path.with_suffix(".json")
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: a result file without its provenance cannot be compared")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is cut off or damaged ({error}): run its notebook again") from error


def print_rows(rows: Mapping[str, pd.DataFrame]) -> None:
    """A line a file, and below it the first rows that do not agree."""
    print(f"{'file':<34}{'rows':>7}{'agree':>7}{'by spread':>11}  largest difference")
    for name, table in rows.items():
        largest = table.groupby(np.where(table["metric"].isin(PERCENT), "points", "relative"))["difference"]
        counts = f"{len(table):>7}{(table['problem'] == '').sum():>7}{table['by_spread'].sum():>11}"
        print(f"{name:<34}{counts}  {', '.join(f'{d:.2g} {unit}' for unit, d in largest.max().items())}")
        for row in table[table["problem"] != ""].head(SHOWN).to_dict("records"):
            key = " ".join(str(row[key]) for key in KEYS if row[key] not in ("", 0))
            sides = (f"{side.upper()} {row[f'mean_{side}']:.6g} ± {row[f'std_{side}']:.3g}" for side in "ab")
            print(f"  {key}: {row['problem']} ({', '.join(sides)})")


@click.command(help=__doc__.replace("\n\n    ", "\n\n\b\n    "))
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--points", default=POINTS, type=TOLERANCE, help="For percentages, in points.")
@click.option("--relative", default=RELATIVE, type=TOLERANCE, help="For all else, a share.")
@click.option("--spread", default=SPREAD, type=TOLERANCE, help="Or this share of the standard deviation.")
@click.option("--exact", is_flag=True, help="No tolerance: each number as it is in the file.")
def main(a: Path, b: Path, exact: bool, **tolerances: float) -> None:
    if exact:
        tolerances = dict.fromkeys(tolerances, 0.0)
    try:
        rows, faults, remarks = compare_runs(a, b, **tolerances)
    except (OSError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    print_rows(rows)
    print(*faults, *remarks, sep="\n")
    problems = pd.concat([table["problem"] for table in rows.values()] or [pd.Series(dtype=str)])
    if problems.empty:
        raise click.UsageError("nothing in common")
    agree = (problems == "").all() and not faults
    within = "within {points:g} points, others within {relative:.1%}, or {spread:.2g} of a spread"
    within = "exactly" if exact else within.format(**tolerances)
    counts = f"{(problems == '').sum()} of {len(problems)} rows, {len(faults)} faults"
    print(f"{'AGREE' if agree else 'DIFFER'} ({within}): {counts}")
    sys.exit(0 if agree else 1)
