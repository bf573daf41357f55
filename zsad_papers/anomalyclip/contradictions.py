"""The text and the ablation tables of the AnomalyCLIP paper against its other tables.

The constants repeat what the paper says; whether a table bears it out is computed. Levels are written as
measures, `pixel auroc`; a setting is a table, a method and a variant.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from zsad_papers.common.contradictions import (
    Check,
    as_checks,
    class_means,
    equal_numbers,
    larger,
    quoted,
    same_words,
)
from zsad_papers.common.results import load_published

BOTH = ("mvtec", "visa")
AUROC, PIXEL_AUROC = "image auroc", "pixel auroc"
DETECTION, SEGMENTATION = (AUROC, "image ap"), (PIXEL_AUROC, "pixel pro")
MEASURES = SEGMENTATION + DETECTION
MODULES = ("T1", "T2", "T3", "T4")

SAME_MODEL = {  # the first table is what the others are compared with; variants tell the rows apart
    "the full method": (
        ("T1", ""),
        *(("T4", "+T4"), ("T5", "local=1;global=1"), ("T7", ""), ("T8", ""), ("T9", "unshared")),
        *(("T10", "attention=vv"), ("T11", "focal=1;dice=1"), ("T12", ""), ("T13", "word=damaged")),
    ),
    "the full method, medical": (("T2", ""), ("T14", "word=damaged")),
    "without DPAM": (("T7", "-T1"), ("T8", "wo_dpam"), ("T10", "attention=qk")),
    "without features of several layers": (("T7", "-T4"), ("T4", "+T3")),
    "the global loss alone": (("T5", "local=0;global=1"), ("T11", "focal=0;dice=0")),
}

SAID = (  # a number in the text: where, table, variant, and dataset and measure with the number
    ("App. D, 1", "T7", "", {"mvtec pixel auroc": 91.1, "mvtec image auroc": 91.5}),
    ("App. D, 1", "T7", "-T1", {"mvtec pixel auroc": 87.9, "mvtec image auroc": 80.7}),
    ("App. D, 2", "T7", "-T2", {"mvtec pixel auroc": 84.3, "mvtec image auroc": 65.6}),
    ("App. D, 3", "T7", "-T3", {"mvtec pixel auroc": 90.6, "mvtec image auroc": 90.4}),
    ("App. D, 4", "T7", "-T4", {"mvtec pixel auroc": 90.0, "mvtec image auroc": 91.0}),
    (
        *("App. D, shared words", "T9", "shared"),
        {"mvtec pixel auroc": 90.5, "mvtec image auroc": 90.9}
        | {"visa pixel auroc": 95.0, "visa image auroc": 81.5},
    ),
    (
        *("App. D, local features", "T10", "attention=vv"),
        {"mvtec pixel auroc": 91.1, "mvtec image auroc": 91.5}
        | {"visa pixel auroc": 95.5, "visa image auroc": 82.1},
    ),
    (
        *("App. D, local features", "T10", "attention=qk+qq+kk+vv"),
        {"mvtec pixel auroc": 90.7, "mvtec image auroc": 90.8}
        | {"visa pixel auroc": 94.9, "visa image auroc": 80.7},
    ),
    ("App. D, losses", "T11", "focal=0;dice=0", {"mvtec pixel auroc": 80.3, "visa pixel auroc": 86.6}),
    ("App. D, losses", "T11", "focal=0;dice=1", {"mvtec pixel auroc": 87.2, "visa pixel auroc": 90.1}),
    ("App. D, losses", "T11", "focal=1;dice=1", {"mvtec pixel auroc": 91.1, "visa pixel auroc": 95.5}),
)
SAID_DIFFERENCES = (  # where, table, variant, minus variant, dataset and measure with the difference
    (
        *("App. D, shared words: what they lose", "T9", "unshared", "shared"),
        {"mvtec image auroc": 0.6, "visa image auroc": 0.6}
        | {"mvtec pixel auroc": 0.5, "visa pixel auroc": 0.6},
    ),
    (
        *("App. D, losses: what Focal loss gains", "T11", "focal=1;dice=0", "focal=0;dice=0"),
        {"mvtec pixel auroc": 10.3, "visa pixel auroc": 8.3},
    ),
)
SAID_COSTS = (  # where, method, variant, metric, number, digits
    ("App. D, overhead", "anomalyclip", "", "train_min_per_epoch", 13.71, 2),
    ("App. D, overhead", "coop", "", "train_min_per_epoch", 12.25, 2),
    ("App. D, overhead", "anomalyclip", "wo_dpam", "train_min_per_epoch", 12.98, 2),
    ("App. D, overhead", "clip", "", "fps", 13.23, 2),
    ("App. D, overhead", "winclip", "", "fps", 1.2, 1),
    ("App. D, overhead", "anomalyclip", "", "fps", 8.92, 2),
    ("App. D, overhead", "anomalyclip", "wo_dpam", "fps", 10.21, 2),
)
SAID_ORDERS = (  # where, what is said, table, the lower variant, the higher variant, measures
    ("4.3", "DPAM improves segmentation", "T4", "base", "+T1", SEGMENTATION),
    ("4.3", "object-agnostic prompts improve on the rest", "T4", "+T1", "+T2", MEASURES),
    ("4.3", "prompt tuning brings improvement", "T4", "+T2", "+T3", MEASURES),
    ("4.3", "several layers bring improvement", "T4", "+T3", "+T4", MEASURES),
    ("4.3", "the global loss improves detection", "T5", "local=0;global=0", "local=0;global=1", DETECTION),
    (
        "4.3",
        "the local loss improves segmentation",
        "T5",
        "local=0;global=1",
        "local=1;global=1",
        SEGMENTATION,
    ),
    ("4.3", "the local loss complements detection", "T5", "local=0;global=1", "local=1;global=1", DETECTION),
    ("App. D, shared words", "shared words are worse", "T9", "shared", "unshared", MEASURES),
    (
        *("App. D, local features", "the ensemble of Q-Q, K-K and V-V improves"),
        *("T10", "attention=vv", "attention=qq+kk+vv", MEASURES),
    ),
    (
        *("App. D, local features", "the ensemble with Q-K is better than Q-K"),
        *("T10", "attention=qk", "attention=qk+qq+kk+vv", MEASURES),
    ),
    (
        *("App. D, losses", "Dice loss improves both levels"),
        *("T11", "focal=0;dice=0", "focal=0;dice=1", (PIXEL_AUROC, AUROC)),
    ),
    *(
        ("App. D, losses", "both losses are best", "T11", other, "focal=1;dice=1", (PIXEL_AUROC,))
        for other in ("focal=0;dice=1", "focal=1;dice=0")
    ),
)
STATED_TWICE = (  # what, where and how it is stated first, where and how it is stated again
    ("number of learnable words", "Section 4.1", "12", "App. A.1", "12"),
    ("symbol of the number of learnable words", "Section 4.1", "E", "App. A.1", "M"),
    ("text layers with learnable tokens", "Section 4.1", "9", "App. A.1", "9"),
    ("largest depth of learnable tokens that does no harm", "Section 4.1", "9", "App. D", "below 9"),
    ("learnable tokens in each text layer", "Section 4.1", "4", "App. A.1", "4"),
    ("symbol of the learnable tokens in each text layer", "caption of Figure 8", "L", "App. D", "M"),
    ("the part of Figure 8 about E", "caption of Figure 8", "8a", "App. D", "8b"),
    ("epochs", "App. A.1", "15", "App. D", "15"),
    ("section that introduces the two local losses", "Section 3.3", "3.3", "App. D", "3.2"),
    ("parts of the appendix", "headings A to F", "6", "Reproducibility statement", "5"),
)


def checks() -> pd.DataFrame:
    """Every comparison of the paper's published numbers, agreeing or not."""
    frame = load_published("anomalyclip")
    # on the other datasets its authors ran WinCLIP themselves
    industrial = frame[frame["dataset"].isin(BOTH)]
    parts = [class_means(frame, quotes=("winclip",)), quoted(industrial, ("winclip",)), same_models(frame)]
    return pd.concat([*parts, statements(frame), settings_stated_twice(frame)], ignore_index=True)


def same_models(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of different tables that describe one model: they must print the same numbers.

    Base of Table 4 is described nowhere; it is compared with the row that lacks all four modules by its
    description, plain CLIP of Table 1.
    """
    means = frame[(frame["category"] == "mean") & frame["task"].isin(["image", "pixel"])]
    keys = ["dataset", "task", "metric", "shots", "method"]
    checks = []

    def compare(what: str, one: pd.DataFrame, other: pd.DataFrame, on: list[str], explanation: str) -> None:
        for row in one.merge(other, on=on, suffixes=("", "_other")).to_dict("records"):
            rows = filter(None, [row.get("method", "anomalyclip"), row["variant_other"]])
            name = f"{row['dataset']} {row['task']} {row['metric']}, {' '.join(rows)}"
            where = f"{row['artifact_other']} against {row['artifact']}, {what}: {name}"
            check = equal_numbers(where, row["mean_other"], row["mean"], 0, "same model")
            checks.append(check | {"explanation": explanation})

    tables = dict(list(means.groupby(["artifact", "variant"])))
    for what, (first, *others) in SAME_MODEL.items():
        for other in others:
            compare(what, tables[first], tables[other], keys, "")
    clip = tables["T1", ""].query("method == 'clip' and metric == 'auroc'").drop(columns="method")
    base = tables["T4", "base"].drop(columns="method")
    unclear = "the text does not say what Base is; no module at all would be plain CLIP"
    compare("no module", clip, base, keys[:-1], unclear)
    return as_checks(frame, checks)


def statements(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers and comparisons in the text, and the words of Tables 13 and 14, against the tables."""
    means = frame[frame["category"] == "mean"]
    index = ["artifact", "dataset", "task", "metric", "method", "variant"]
    numbers = means[means["shots"] == 0].set_index(index)["mean"]

    def value(artifact: str, cell: str, variant: str = "", method: str = "anomalyclip") -> float:
        return float(numbers[(artifact, *cell.split(), method, variant)])

    checks = []
    for section, artifact, variant, cells in SAID:
        for cell, said in cells.items():
            where = f"{section} against {artifact}: {cell}{f' of {variant}' if variant else ''}"
            checks.append(equal_numbers(where, said, value(artifact, cell, variant), 0, "text"))
    for what, artifact, one, other, cells in SAID_DIFFERENCES:
        for cell, said in cells.items():
            difference = value(artifact, cell, one) - value(artifact, cell, other)
            checks.append(equal_numbers(f"{what}, against {artifact}: {cell}", said, difference, 0, "text"))
    for section, method, variant, metric, said, digits in SAID_COSTS:
        dataset = "mvtec" if metric == "train_min_per_epoch" else ""
        cost = float(numbers["T8", dataset, "", metric, method, variant])
        where = f"{section} against T8: {metric} of {method} {variant}".rstrip()
        checks.append(equal_numbers(where, said, cost, 0, "text", digits))
    for section, what, artifact, lower, higher, measures in SAID_ORDERS:
        for cell in (f"{d} {measure}" for d in BOTH for measure in measures):
            sides = value(artifact, cell, lower), value(artifact, cell, higher)
            checks.append(
                larger(f"{section} against {artifact}: {what}, {cell}", *sides, f"{lower}, {higher}")
            )
    for d in BOTH:
        for measure in (AUROC, PIXEL_AUROC):
            steps = [value("T4", f"{d} {measure}", v) for v in ("base", *(f"+{m}" for m in MODULES))]
            gains = dict(zip(MODULES, (after - before for before, after in zip(steps, steps[1:]))))
            prompts, (other, gain) = gains.pop("T2"), max(gains.items(), key=lambda item: item[1])
            where = f"4.3 against T4: no module gains as much as T2, {d} {measure}"
            checks.append(larger(where, gain, prompts, f"gains of {other} and of T2"))
        image, pixel = (
            value("T7", f"{d} {m}") - value("T7", f"{d} {m}", "-T1") for m in (AUROC, PIXEL_AUROC)
        )
        where = f"App. D, 1 against T7: without DPAM more is lost at image level, {d}"
        checks.append(larger(where, pixel, image, "losses of auroc, pixel and image level"))
    checks += _medical(means) + _counts(means) + _missing_words(means)
    training = means[(means["metric"] == "train_min_per_epoch") & (means["variant"] == "")]
    quickest = training.loc[training["mean"].idxmin(), "method"]
    checks.append(same_words("App. D, overhead against T8: shortest training per epoch", "coop", quickest))
    return as_checks(frame, checks)


def _medical(means: pd.DataFrame) -> list[Check]:
    """Section 4.2 on Tables 2 and 3: best in each, better after medical tuning but for skin and chest."""
    keys, checks = ["dataset", "task", "metric"], []
    tables = {
        table: means[means["artifact"] == table].pivot(index=keys, columns="method", values="mean")
        for table in ("T2", "T3")
    }
    for (table, numbers), of in zip(tables.items(), ("all methods", "both methods")):
        others = numbers.drop(columns="anomalyclip")
        for cell in numbers.index:
            where = f"4.2 against {table}: AnomalyCLIP is the best of {of}, {' '.join(cell)}"
            best = others.loc[cell].idxmax()
            checks.append(larger(where, others.loc[cell, best], numbers.loc[cell, "anomalyclip"], best))
    tuned = tables["T3"].xs("auroc", level="metric")
    gains = tuned - tables["T2"].xs("auroc", level="metric").loc[tuned.index, tuned.columns]
    vand, ours = gains["vand"], gains["anomalyclip"]

    def named(chosen: pd.Series) -> str:
        return ", ".join(sorted(chosen.index[chosen].get_level_values("dataset"))) or "none"

    for task, what in (("image", "detection"), ("pixel", "segmentation")):
        cells = vand.xs(task, level="task", drop_level=False)
        where = f"4.2 against T2 and T3: datasets where medical tuning improves VAND's {what}"
        checks.append(same_words(where, named(cells.notna()), named(cells > 1e-9)))
    where = "4.2 against T2 and T3: datasets where medical tuning costs AnomalyCLIP auroc"
    checks.append(same_words(where, "covid19, isic", named(ours < -1e-9)))
    where = "App. B against T2 and T3: dataset that is tuned on, and not tested"
    untested = set(tables["T2"].index.get_level_values(0)) - set(tables["T3"].index.get_level_values(0))
    checks.append(same_words(where, "cvc_colondb", ", ".join(sorted(untested))))
    return checks


def _counts(means: pd.DataFrame) -> list[Check]:
    """How many datasets, methods and images there are."""

    def n_datasets(artifact: str) -> int:
        return means.loc[means["artifact"] == artifact, "dataset"].nunique()

    images = means[means["artifact"] == "T6"].set_index(["dataset", "metric"])["mean"]
    compared = means[(means["artifact"] == "T1") & (means["method"] != "anomalyclip")]["method"].nunique()
    counts: Sequence[tuple[str, int, float]] = (
        ("4.1 against T6: datasets", 17, n_datasets("T6")),
        ("4.2 against T1: industrial datasets", 7, n_datasets("T1")),
        ("4.2 against T2: medical datasets", 10, n_datasets("T2")),
        ("4.2 against T1: competing methods", 5, compared),
        ("App. D against T12: datasets with training images", 6, n_datasets("T12")),
        (
            *("App. D, overhead against T6: images of MVTec AD to train on", 1725),
            images["mvtec", "n_normal"] + images["mvtec", "n_anomalous"],
        ),
        ("App. B against T6: anomalous images of ColonDB", 380, images["cvc_colondb", "n_anomalous"]),
    )
    return [equal_numbers(where, said, found, 0, "text", digits=0) for where, said, found in counts]


def _missing_words(means: pd.DataFrame) -> list[Check]:
    """Tables 13 and 14: words without a number, with the range of the others."""
    checks = []
    rows = means[means["artifact"].isin(["T13", "T14"])]
    table = rows.pivot(index=["artifact", "dataset", "task", "metric"], columns="variant", values="mean")
    for cell, numbers in table.iterrows():
        missing = ", ".join(numbers.index[numbers.isna()])
        if missing:
            check = same_words(f"{' '.join(cell)}: {missing}", "no row", "", "missing rows")
            spread = f"{numbers.min():.1f} to {numbers.max():.1f}"
            explanation = "no value in the text at hand; computed is the range of the other words"
            checks.append(check | {"computed": spread, "explanation": explanation})
    return checks


def settings_stated_twice(frame: pd.DataFrame) -> pd.DataFrame:
    """Settings and references that the text states in two places."""
    checks = [
        same_words(f"{again} against {first}: {what}", restated, stated, "stated twice")
        for what, first, stated, again, restated in STATED_TWICE
    ]
    return as_checks(frame, checks)
