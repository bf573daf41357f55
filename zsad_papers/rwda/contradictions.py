"""Where the papers' numbers disagree with themselves, found by comparing the published numbers.

Each check returns rows of `contradiction_checks.COLUMNS`, whether its two sides agree or not;
`contradictions` keeps those that do not. The text of AnomalyCLIP is in `contradictions_anomalyclip`.

| kind | printed | computed |
|---|---|---|
| class mean | a mean in a table | the mean of the class-wise rows |
| missing rows | nothing | the value that the printed mean leaves for the missing class |
| quoted | a number quoted from another paper | that paper's number |
| other version | a number in the second version | the first version's |
| one version only | a table, or a claim | nothing: the other version lacks it |
| renumbered | a table's number | its number in the first version |
| text | a statement in the text | what the tables say |
| same model | a number in a table | the number of the same model in another table |
| stated twice | a setting in one place of the text | the same setting in another |
| counting | a cost in a table | the same cost with everything counted |

Printed numbers are rounded, so two of them contradict each other only if no unrounded values can give both: a
mean over class values with one decimal is uncertain by 0.05, a printed mean by 0.05, together 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from zsad_papers.anomalyclip.contradictions import same_models, settings_stated_twice
from zsad_papers.anomalyclip.contradictions import statements as anomalyclip_statements
from zsad_papers.common.claims import load_claims
from zsad_papers.common.contradictions import (
    HALF_UNIT,
    SETTING,
    Check,
    as_checks,
    equal_numbers,
    larger,
    same_words,
    setting_name,
)
from zsad_papers.common.costs import complexity_table
from zsad_papers.common.results import load_published
from zsad_papers.rwda.claims import WORD_PAIR_VARIANTS

FIRST_TO_SECOND = {"T1": "T1", "T2": "T2", "T3": "T4", "T4": "T5"}
"""Tables of RWDA's first version by their names in the second, which inserts a new Table 3."""
COUNTED = {
    "profiler": "counted like a profiler that skips attention, layer norms, embeddings and projection",
    "all": "everything counted, attention and projection too",
}
UNROUNDED = "rounding explains a difference of at most 0.1"
QUOTED = "; class values and mean are both quoted from the WinCLIP paper"


def contradictions(paper: str) -> pd.DataFrame:
    """All disagreements in the published numbers of 'rwda', 'winclip' or 'anomalyclip'.

    Returns
    -------
    One row each: paper, where, printed, computed (both as text), difference (computed minus printed; NaN
    between words), kind, explanation.
    """
    checks = all_checks(paper)
    return checks[~checks["agrees"]].drop(columns="agrees").reset_index(drop=True)


def all_checks(paper: str) -> pd.DataFrame:
    """Every comparison that was made, with a column `agrees`: how much was checked, not only what failed."""
    frame = load_published(paper)
    checks = [class_means(frame)]
    if paper == "rwda":
        first = load_published("rwda", "published_first_version.csv")
        baselines = ("winclip", "spade", "padim", "patchcore")
        checks += [quoted(frame, baselines), versions(frame, first), statements(frame), counting(frame)]
    elif paper == "anomalyclip":
        # on the other datasets its authors ran WinCLIP themselves
        industrial = frame[frame["dataset"].isin(["mvtec", "visa"])]
        checks += [quoted(industrial, ("winclip",)), same_models(frame)]
        checks += [anomalyclip_statements(frame), settings_stated_twice(frame)]
    return pd.concat(checks, ignore_index=True)


def class_means(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over class-wise rows against the printed means, for every artifact with rows for all classes.

    A table that shows a few classes only is an excerpt and is left out. Where a table has all classes for
    some settings and lacks one for others, the row tells which value the printed mean leaves for the missing
    class.
    """
    classes = frame[frame["category"] != "mean"]
    all_classes = classes.groupby("dataset")["category"].agg(set)
    printed: dict[tuple, dict[float, str]] = {}  # setting -> mean -> the artifacts that print it
    for row in frame[frame["category"] == "mean"].itertuples(index=False):
        means = printed.setdefault(tuple(getattr(row, key) for key in SETTING), {})
        means[row.mean] = f"{means[row.mean]}, {row.artifact}" if row.mean in means else row.artifact
    checks = []
    for (artifact, dataset), table in classes.groupby(["artifact", "dataset"], sort=False):
        if set(table["category"]) != all_classes[dataset]:
            continue
        for setting, rows in table.groupby(SETTING, sort=False):
            missing = sorted(all_classes[dataset] - set(rows["category"]))
            own = frame["paper"].iloc[0] == "winclip" or setting[SETTING.index("method")] != "winclip"
            for mean, artifacts in printed.get(setting, {}).items():
                where = f"{artifact} against {artifacts}: {setting_name(setting)}"
                if missing:
                    checks.append(_missing(where, missing, mean, rows["mean"]))
                else:
                    check = equal_numbers(where, mean, rows["mean"].mean(), 2 * HALF_UNIT, "class mean")
                    checks.append(check | {"explanation": UNROUNDED + ("" if own else QUOTED)})
    return as_checks(frame, checks)


def _missing(where: str, missing: list[str], mean: float, values: pd.Series) -> Check:
    """What a printed mean leaves for classes without a row, as far as rounding lets one tell."""
    n = len(values) + len(missing)
    left = (n * mean - values.sum()) / len(missing)
    margin = (n + len(values)) * HALF_UNIT / len(missing)
    sides = {"printed": "no row", "computed": f"{max(left - margin, 0):.1f} to {min(left + margin, 100):.1f}"}
    explanation = (
        f"no value for {', '.join(missing)} in the text at hand; the printed mean, {mean}, leaves this"
    )
    return {"where": where, "kind": "missing rows", "explanation": explanation} | sides


def quoted(frame: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Rows that a paper quotes from the WinCLIP paper against that paper's own, where it has them."""
    keys = [*SETTING, "category"]
    rows = frame[frame["method"].isin(methods)]
    few_shot = (rows["method"] == "winclip") & (rows["shots"] > 0)
    renamed = rows.assign(
        method=rows["method"].mask(few_shot, "winclip_plus"),
        variant=rows["variant"].replace({"object_known": "", "object_known;multi_crop=0": "prompt_ens"}),
        metric=rows["metric"].replace({"ap": "aupr"}),
    )
    own = load_published("winclip").drop_duplicates(
        keys
    )  # it prints some numbers in several tables, all equal
    checks = []
    for row in renamed.merge(own, on=keys, suffixes=("", "_own")).to_dict("records"):
        name = f"{row['category']}, {setting_name(tuple(row[key] for key in SETTING))}"
        where = f"{row['artifact']} against WinCLIP's {row['artifact_own']}: {name}"
        checks.append(equal_numbers(where, row["mean"], row["mean_own"], 0, "quoted"))
    return as_checks(frame, checks)


def versions(second: pd.DataFrame, first: pd.DataFrame) -> pd.DataFrame:
    """RWDA's second version against its first: shared tables cell by cell, and what only one of them has."""
    moved = first.assign(artifact=first["artifact"].map(FIRST_TO_SECOND))
    pairs = second.merge(moved, on=["artifact", "category", *SETTING], suffixes=("", "_first"))
    checks = []
    for row in pairs.to_dict("records"):
        where = f"{row['artifact']}: {setting_name(tuple(row[key] for key in SETTING))}"
        checks.append(equal_numbers(where, row["mean"], row["mean_first"], 0, "other version"))
        if not (pd.isna(row["std"]) and pd.isna(row["std_first"])):
            checks.append(equal_numbers(f"{where}, std", row["std"], row["std_first"], 0, "other version"))
    for old, new in FIRST_TO_SECOND.items():
        if old != new:
            explanation = "the same table; the second version inserts the one of complexities before it"
            checks.append(same_words(new, new, old, "renumbered", explanation))
    for artifact in sorted(set(second["artifact"]) - set(FIRST_TO_SECOND.values())):
        in_first = artifact.startswith("A")
        sides = ("absent", artifact) if in_first else (artifact, "absent")
        explanation = f"only the {'first' if in_first else 'second'} version has this table"
        checks.append(same_words(artifact, *sides, "one version only", explanation))
    for claim in load_claims("rwda"):
        if "first version" in claim.section:
            where = f"Section {claim.section}, {claim.id}"
            explanation = f"only the first version says: {claim.claim}"
            checks.append(same_words(where, "absent", "claimed", "one version only", explanation))
    return as_checks(second, checks)


def statements(frame: pd.DataFrame) -> pd.DataFrame:
    """Sentences of RWDA's text against its tables."""
    means = frame[frame["category"] == "mean"].set_index(["artifact", *SETTING])["mean"]

    def value(
        artifact: str, method: str, variant: str = "", metric: str = "auroc", dataset: str = "mvtec"
    ) -> float:
        return float(means[artifact, dataset, "image", 0, method, variant, metric])

    clip, rwda = (value("T3", method, metric="params_M", dataset="") for method in ("clip", "rwda"))
    added = 100 * (rwda - clip) / clip
    slower = value("T3", "winclip", "", "latency_ms", "") / value("T3", "rwda", "", "latency_ms", "")
    checks = [
        equal_numbers(
            "Section 4.3 against T3: percent more parameters", 0.39, added, 0.005, "text", digits=2
        ),
        equal_numbers("Section 4.3 against T3: WinCLIP's latency over RWDA's", 2.3, slower, 0.05, "text"),
    ]
    for dataset in ("mvtec", "visa"):
        for metric in ("auroc", "aupr", "f1max"):
            known, unknown = (
                value("T1", "clip_rwda", v, metric, dataset) - value("T1", "clip", v, metric, dataset)
                for v in ("object_known", "object_unknown")
            )
            where = f"Section 4.3 against T1: larger gain with the object unknown, {dataset} {metric}"
            checks.append(larger(where, known, unknown, "gain over CLIP, object known and unknown"))
    for metric in ("auroc", "aupr", "f1max"):
        theirs, ours = (value("T2", m, "object_known;multi_crop=0", metric) for m in ("winclip", "clip_rwda"))
        where = f"Section 4.3 against T2: better than WinCLIP without multiple crops, {metric}"
        checks.append(larger(where, theirs, ours, "WinCLIP, and CLIP + RWDA"))
    clip_rwda, clip = ({v: value("T4", m, v) for v in WORD_PAIR_VARIANTS} for m in ("clip_rwda", "clip"))
    losing = ", ".join(v for v in WORD_PAIR_VARIANTS if clip_rwda[v] <= clip[v])
    checks.append(
        same_words("Section 4.4 against T4: word pairs without a gain", "normal=an;anomaly=a broken", losing)
    )
    default = value("T1", "clip", "object_unknown"), value("T1", "clip_rwda", "object_unknown")
    same = ", ".join(v for v in WORD_PAIR_VARIANTS if (clip[v], clip_rwda[v]) == default)
    explanation = (
        "T4 has no row 'a'; the row with the default's numbers is 'an', the article that 'object' takes"
    )
    where = "Section 4.2 against T1 and T4: the default words"
    checks.append(same_words(where, "normal=a;anomaly=a damaged", same, explanation=explanation))
    return as_checks(frame, checks)


def counting(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 3's parameters and multiply-accumulates against arithmetic, as a profiler counts and in full."""
    printed = frame[frame["artifact"] == "T3"].set_index(["method", "metric"])["mean"]
    checks = []
    for row in complexity_table().to_dict("records"):
        method, metric = row["method"], row["metric"]
        seen = (
            "" if metric == "params_M" else ", windows of one view" if method == "winclip" else ", six views"
        )
        for counted in ("profiler", "all"):
            sides = (printed[method, metric], row[counted])
            half_unit, digits = (0.005, 2) if metric == "params_M" else (0.05, 1)
            check = equal_numbers(f"T3: {metric} of {method}", *sides, half_unit, "counting", digits)
            checks.append(check | {"explanation": COUNTED[counted] + seen})
    return as_checks(frame, checks)
