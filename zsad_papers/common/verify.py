"""Compare the result files of two runs within tolerances, as a reviewer would: this run, another machine's.

    zsad verify results/mini other/results/mini

A and B are results folders, or one result file (CSV) each. Compared are the rows of every file, and of the
JSON beside it what must be equal for the numbers to be the same experiment: model, weights with SHA-256,
fingerprints of the datasets, parameters, precision, seed. Another commit, other versions or another device
are told, and are no fault: that is what the comparison is for. The folder `times` is left out.

Exit code 0: they agree. 1: they differ. 2: nothing could be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zsad_papers.common.results import KEYS, PERCENT, read_results

POINTS = 0.1
"""Percentages may differ by so many points: processors add in another order, and a network that is trained on
other last digits ends a little elsewhere."""
RELATIVE = 0.01
"""All other numbers by this share of the larger one."""
SPREAD = 0.5
"""Or half of the standard deviation over seeds, if that is more: means of ten other seeds differ as much. A
network that takes many steps ends elsewhere when the last digits differ. With another instruction set, means
of ten networks of 20,000 pairs moved by 0.8 points at a deviation of 3.8, and all others by at most 0.1."""

SAME = ("model", "weights", "weights_sha256", "datasets", "parameters", "precision", "seed")
"""Facts in which two runs of one experiment agree."""
TOLD = ("profile", "commit", "versions", "device")
"""Facts in which they may differ."""

_SHOWN = 5  # rows that a report lists


def compare_rows(
    a: pd.DataFrame,
    b: pd.DataFrame,
    points: float = POINTS,
    relative: float = RELATIVE,
    spread: float = SPREAD,
) -> pd.DataFrame:
    """Rows of two result frames side by side, matched on `results.KEYS`, in the order of these.

    Further columns: mean_a, std_a, mean_b, std_b; difference, the larger one of means and standard
    deviations, in points for percentages and else relative; by_spread: whether they agree only because seeds
    spread; problem: "" where the two agree, else "only in A", "only in B", "undefined in one" or "differs".
    """
    table = a.merge(b, on=KEYS, how="outer", suffixes=("_a", "_b"), indicator=True).sort_values(KEYS)
    percent = table["metric"].isin(PERCENT)
    columns = {c: (table[f"{c}_a"], table[f"{c}_b"]) for c in ("mean", "std")}
    # a spread of almost nothing may double: it is compared with the size of its mean
    size = pd.concat([pair[i].abs() for pair in columns.values() for i in (0, 1)], axis=1).max(axis=1)
    scale = size.where(~percent & (size > 0), 1)
    table["difference"] = np.maximum(*((x - y).abs().fillna(0) / scale for x, y in columns.values()))
    undefined = np.logical_or(*(x.isna() != y.isna() for x, y in columns.values()))
    problem = pd.Series("", index=table.index, dtype="str")
    limit = np.where(percent, points, relative)
    wide = spread * np.fmax(*columns["std"]).fillna(0) / scale
    problem[table["difference"] > np.maximum(limit, wide)] = "differs"
    problem[undefined] = "undefined in one"
    problem[table["_merge"] == "left_only"] = "only in A"
    problem[table["_merge"] == "right_only"] = "only in B"
    table["by_spread"] = (problem == "") & (table["difference"] > limit)
    return table.drop(columns="_merge").assign(problem=problem).reset_index(drop=True)


def compare_facts(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Sentences about provenance: (what makes these two experiments, what differs without fault)."""
    a, b = ({**facts, "parameters": _of_experiment(facts.get("parameters"))} for facts in (a, b))
    same, told = (
        [fact for name in names for fact in _facts(name, a.get(name), b.get(name))] for names in (SAME, TOLD)
    )
    return same, told


def _of_experiment(parameters: Any) -> Any:
    """Without those that say where it ran and how the set of parameters is called."""
    return {k: v for k, v in (parameters or {}).items() if k not in ("device", "profile")}


def _facts(name: str, a: Any, b: Any) -> Iterable[str]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted({*a, *b}):
            yield from _facts(f"{name}: {key}", a.get(key), b.get(key))
    elif a != b:
        yield f"{name} is {a!r} in A and {b!r} in B"


def compare_runs(
    a: Path, b: Path, points: float = POINTS, relative: float = RELATIVE, spread: float = SPREAD
) -> tuple[dict[str, pd.DataFrame], list[str], list[str]]:
    """(rows by file as in `compare_rows`, faults, remarks) of two results folders or files.

    Faults: files that only one of the two has, and what `compare_facts` calls two experiments.
    Raises FileNotFoundError where there is nothing to compare, ValueError for a damaged file.
    """
    files = [_result_files(path) for path in (a, b)]
    if a.is_file() and b.is_file():  # two files may be called differently
        files[1] = {next(iter(files[0])): b}
    rows, faults, remarks = {}, [], []
    for name in sorted({*files[0], *files[1]}):
        if name not in files[0] or name not in files[1]:
            faults.append(f"{name} is only in {'A' if name in files[0] else 'B'}")
            continue
        left, right = files[0][name], files[1][name]
        rows[name] = compare_rows(read_results(left), read_results(right), points, relative, spread)
        wrong, told = compare_facts(_read_facts(left), _read_facts(right))
        faults += [f"{name}: {fact}" for fact in wrong]
        remarks += told
    return rows, faults, list(dict.fromkeys(remarks))


def _result_files(path: Path) -> dict[str, Path]:
    if path.is_file():
        return {path.name: path}
    found = {file.name: file for file in sorted(path.glob("*.csv"))}
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
        facts = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is cut off or damaged ({error}): run its notebook again") from error
    if not isinstance(facts, dict):
        raise ValueError(f"{file} holds a {type(facts).__name__}: expected the provenance of {path.name}")
    return facts


def report(rows: Mapping[str, pd.DataFrame], faults: list[str], remarks: list[str]) -> str:
    """What a reviewer reads: a line a file, then what is wrong, then what differs without fault."""
    lines = [f"{'file':<34}{'rows':>7}{'agree':>7}{'by spread':>11}  largest difference"]
    for name, table in rows.items():
        both = table[~table["problem"].str.startswith("only")]
        counts = f"{len(table):>7}{int((table['problem'] == '').sum()):>7}{int(table['by_spread'].sum()):>11}"
        lines.append(f"{name:<34}{counts}  {_largest(both)}")
    for name, table in rows.items():
        bad = table[table["problem"] != ""]
        for row in bad.head(_SHOWN).to_dict("records"):
            lines.append(
                f"{name}: {_key(row)}: {row['problem']} (A {row['mean_a']:.6g} ± {row['std_a']:.3g}, "
                f"B {row['mean_b']:.6g} ± {row['std_b']:.3g})"
            )
        if len(bad) > _SHOWN:
            lines.append(f"{name}: {len(bad) - _SHOWN} more rows")
    lines += [f"not the same experiment: {fault}" if ": " in fault else fault for fault in faults]
    lines += [f"differs without fault: {remark}" for remark in remarks]
    return "\n".join(lines)


def _largest(table: pd.DataFrame) -> str:
    percent = table["metric"].isin(PERCENT)
    parts = []
    for own, unit in ((table[percent], "{:.2g} points"), (table[~percent], "{:.2g} relative")):
        if len(own):
            parts.append(unit.format(own["difference"].max()))
    return ", ".join(parts) or "-"


def _key(row: Mapping[str, Any]) -> str:
    return " ".join(str(row[key]) for key in KEYS if row[key] not in ("", 0))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="zsad verify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("a", type=Path, help="results folder or result file")
    add("b", type=Path, help="the other one")
    add("--points", type=float, default=POINTS, help="tolerance for percentages, in points (%(default)s)")
    add("--relative", type=float, default=RELATIVE, help="tolerance for all else, a share (%(default)s)")
    add("--spread", type=float, default=SPREAD, help="or this share of the standard deviation over seeds, if "
        "that is more (%(default)s)")  # fmt: skip
    add("--exact", action="store_true", help="no tolerance: each number as it is in the file")
    arguments = parser.parse_args(argv)
    tolerance = (arguments.points, arguments.relative, arguments.spread)
    if not all(number >= 0 for number in tolerance):
        parser.error("tolerances are numbers from 0 on")
    tolerance = (0.0, 0.0, 0.0) if arguments.exact else tolerance
    try:
        rows, faults, remarks = compare_runs(arguments.a, arguments.b, *tolerance)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(rows, faults, remarks))
    n = sum(len(table) for table in rows.values())
    differing = sum(int((table["problem"] != "").sum()) for table in rows.values())
    if not n:
        print("nothing in common", file=sys.stderr)
        return 2
    agree = not differing and not faults
    words = (
        f"within {tolerance[0]:g} points, others within {tolerance[1]:.1%}, or {tolerance[2]:.2g} of a spread"
    )
    within = "exactly" if arguments.exact else words
    print(f"{'AGREE' if agree else 'DIFFER'} ({within}): {n - differing} of {n} rows, {len(faults)} faults")
    return 0 if agree else 1
