"""The numbers against each other, against the first version, the WinCLIP paper and the text."""

from itertools import product

import pandas as pd

from zsad_papers.common import contradictions as common
from zsad_papers.common.results import load_published, read_table
from zsad_papers.rwda.claims import WORD_PAIR_VARIANTS
from zsad_papers.rwda.costs import complexity_table

FIRST_TO_SECOND = {"T1": "T1", "T2": "T2", "T3": "T4", "T4": "T5"}  # the second version's Table 3 is new
COUNTED = {
    "profiler": "counted like a profiler that skips attention, layer norms, embeddings and projection",
    "all": "everything counted, attention and projection too",
}


def checks() -> pd.DataFrame:
    """Every comparison of the paper's published numbers, agreeing or not."""
    frame = load_published("rwda")
    first = load_published("rwda", "published_first_version.csv")
    parts = [common.class_means(frame, quotes=("winclip",))]
    parts += [common.quoted(frame, ("winclip", "spade", "padim", "patchcore")), versions(frame, first)]
    return pd.concat([*parts, statements(frame), counting(frame)], ignore_index=True)


def versions(second: pd.DataFrame, first: pd.DataFrame) -> pd.DataFrame:
    """RWDA's second version against its first: shared tables cell by cell, and what only one of them has."""
    moved = first.assign(artifact=first["artifact"].map(FIRST_TO_SECOND))
    pairs = second.merge(moved, on=["artifact", "category", *common.SETTING], suffixes=("", "_first"))
    checks = []
    for row in pairs.to_dict("records"):
        where = f"{row['artifact']}: {common.setting_name(tuple(row[key] for key in common.SETTING))}"
        checks.append(common.equal_numbers(where, row["mean"], row["mean_first"], 0, "other version"))
        if not (pd.isna(row["std"]) and pd.isna(row["std_first"])):
            sides = (row["std"], row["std_first"], 0, "other version")
            checks.append(common.equal_numbers(f"{where}, std", *sides))
    explanation = "the same table; the second version inserts the one of complexities before it"
    renumbered = [(new, new, old, "renumbered", explanation) for old, new in FIRST_TO_SECOND.items()]
    checks += [common.same_words(*sides) for sides in renumbered if sides[1] != sides[2]]
    for artifact in sorted(set(second["artifact"]) - set(FIRST_TO_SECOND.values())):
        in_first = artifact.startswith("A")
        sides = ("absent", artifact) if in_first else (artifact, "absent")
        explanation = f"only the {'first' if in_first else 'second'} version has this table"
        checks.append(common.same_words(artifact, *sides, "one version only", explanation))
    claims = read_table("rwda", "claims.csv")
    for claim in claims[claims["section"].str.contains("first version")].itertuples():
        where = f"Section {claim.section}, {claim.id}"
        explanation = f"only the first version says: {claim.claim}"
        checks.append(common.same_words(where, "absent", "claimed", "one version only", explanation))
    return common.as_checks(second, checks)


def statements(frame: pd.DataFrame) -> pd.DataFrame:
    """Sentences of RWDA's text against its tables."""
    t1, t3, t4 = (common.numbers_of(frame, artifact) for artifact in ("T1", "T3", "T4"))
    clip, rwda = (t3.of(method, "image params_M") for method in ("clip", "rwda"))
    added = 100 * (rwda - clip) / clip
    slower = t3.of("winclip", "image latency_ms") / t3.of("rwda", "image latency_ms")
    where = "Section 4.3 against T3"
    checks = [
        common.equal_numbers(f"{where}: percent more parameters", 0.39, added, 0.005, "text", digits=2),
        common.equal_numbers(f"{where}: WinCLIP's latency over RWDA's", 2.3, slower, 0.05, "text"),
        *common.statements(frame),
    ]
    methods = ("clip", "clip_rwda")
    pairs = {v: [t4.of(f"{m}[{v}]", "image auroc", "mvtec") for m in methods] for v in WORD_PAIR_VARIANTS}
    losing = ", ".join(v for v, (clip, both) in pairs.items() if both <= clip)
    where = "Section 4.4 against T4: word pairs without a gain"
    checks.append(common.same_words(where, "normal=an;anomaly=a broken", losing))
    default = [t1.of(f"{m}[object_unknown]", "image auroc", "mvtec") for m in methods]
    same = ", ".join(v for v, pair in pairs.items() if pair == default)
    explanation = (
        "T4 has no row 'a'; the row with the default's numbers is 'an', the article that 'object' takes"
    )
    where = "Section 4.2 against T1 and T4: the default words"
    checks.append(common.same_words(where, "normal=a;anomaly=a damaged", same, explanation=explanation))
    return common.as_checks(frame, checks)


def counting(frame: pd.DataFrame) -> pd.DataFrame:
    """Table 3's parameters and multiply-accumulates against arithmetic, as a profiler counts and in full."""
    printed = frame[frame["artifact"] == "T3"].set_index(["method", "metric"])["mean"]
    checks = []
    for row, counted in product(complexity_table().to_dict("records"), COUNTED):
        method, metric = row["method"], row["metric"]
        views = ", windows of one view" if method == "winclip" else ", six views"
        half_unit, digits, seen = (0.005, 2, "") if metric == "params_M" else (0.05, 1, views)
        sides = (printed[method, metric], row[counted], half_unit, "counting", digits)
        check = common.equal_numbers(f"T3: {metric} of {method}", *sides)
        checks.append(check | {"explanation": COUNTED[counted] + seen})
    return common.as_checks(frame, checks)
