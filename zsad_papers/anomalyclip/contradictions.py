"""AnomalyCLIP's numbers against each other: means of categories, its text, one model in several tables."""

import pandas as pd

from zsad_papers.common import contradictions as common
from zsad_papers.common.contradictions import Check, equal_numbers, larger, same_words
from zsad_papers.common.results import load_published


def checks() -> pd.DataFrame:
    """Every comparison of the paper's published numbers, agreeing or not."""
    frame = load_published("anomalyclip")
    industrial = frame[frame["dataset"].isin(["mvtec", "visa"])]  # on others its authors ran WinCLIP
    parts = [common.class_means(frame, quotes=("winclip",)), common.quoted(industrial, ("winclip",))]
    return pd.concat([*parts, text(frame)], ignore_index=True)


def text(frame: pd.DataFrame) -> pd.DataFrame:
    """The numbers of one model in several tables; the text against the tables and against itself; and the
    words of Tables 13 and 14. The paper does not describe Base of Table 4; it is compared with plain CLIP."""
    means = frame[frame["category"] == "mean"]
    clip = means.query("artifact == 'T1' and method == 'clip' and metric == 'auroc'").drop(columns="method")
    base = means.query("artifact == 'T4' and variant == 'base'")
    unclear = "the text does not say what Base is; no module at all would be plain CLIP"
    plain = common.compared("no module", clip, base, common.MODEL[:-1])
    checks = common.same_models(frame) + [check | {"explanation": unclear} for check in plain]
    checks += common.statements(frame) + common.stated_twice("anomalyclip")
    checks += _medical(means) + _counts(means) + _missing_words(means)
    training = means[(means["metric"] == "train_min_per_epoch") & (means["variant"] == "")]
    quickest = training.loc[training["mean"].idxmin(), "method"]
    checks.append(same_words("App. D, overhead against T8: shortest training per epoch", "coop", quickest))
    return common.as_checks(frame, checks)


def _medical(means: pd.DataFrame) -> list[Check]:
    """Section 4.2 on Tables 2 and 3: best in each; better after medical tuning, except for skin and chest."""
    index, checks, tables = ["dataset", "task", "metric"], [], {}
    for table, of in (("T2", "all methods"), ("T3", "both methods")):
        rows = means[means["artifact"] == table]
        tables[table] = numbers = rows.pivot(index=index, columns="method", values="mean")
        others = numbers.drop(columns="anomalyclip")
        for cell in numbers.index:
            where = f"4.2 against {table}: AnomalyCLIP is the best of {of}, {' '.join(cell)}"
            best = others.loc[cell].idxmax()
            checks.append(larger(where, others.loc[cell, best], numbers.loc[cell, "anomalyclip"], best))
    tuned = tables["T3"].xs("auroc", level="metric")
    gains = tuned - tables["T2"].xs("auroc", level="metric").loc[tuned.index, tuned.columns]

    def named(chosen: pd.Series) -> str:
        return ", ".join(sorted(chosen.index[chosen].get_level_values("dataset"))) or "none"

    said = []
    for task, what in (("image", "detection"), ("pixel", "segmentation")):
        cells = gains["vand"].xs(task, level="task", drop_level=False)
        said.append((f"improves VAND's {what}", named(cells.notna()), named(cells > 1e-9)))
    said.append(("costs AnomalyCLIP auroc", "covid19, isic", named(gains["anomalyclip"] < -1e-9)))
    where = "4.2 against T2 and T3: datasets where medical tuning"
    checks += [same_words(f"{where} {what}", *sides) for what, *sides in said]
    where = "App. B against T2 and T3: dataset that is tuned on, and not tested"
    untested = set(tables["T2"].index.get_level_values(0)) - set(tables["T3"].index.get_level_values(0))
    return [*checks, same_words(where, "cvc_colondb", ", ".join(sorted(untested)))]


def _counts(means: pd.DataFrame) -> list[Check]:
    """How many datasets, methods and images there are."""

    def n_datasets(artifact: str) -> int:
        return means.loc[means["artifact"] == artifact, "dataset"].nunique()

    images = means[means["artifact"] == "T6"].set_index(["dataset", "metric"])["mean"]
    compared = means[(means["artifact"] == "T1") & (means["method"] != "anomalyclip")]["method"].nunique()
    of_mvtec = images["mvtec", "n_normal"] + images["mvtec", "n_anomalous"]
    counts = (
        ("4.1 against T6: datasets", 17, n_datasets("T6")),
        ("4.2 against T1: industrial datasets", 7, n_datasets("T1")),
        ("4.2 against T2: medical datasets", 10, n_datasets("T2")),
        ("4.2 against T1: competing methods", 5, compared),
        ("App. D against T12: datasets with training images", 6, n_datasets("T12")),
        ("App. D, overhead against T6: images of MVTec AD to train on", 1725, of_mvtec),
        ("App. B against T6: anomalous images of ColonDB", 380, images["cvc_colondb", "n_anomalous"]),
    )
    return [equal_numbers(where, said, found, 0, "text", digits=0) for where, said, found in counts]


def _missing_words(means: pd.DataFrame) -> list[Check]:
    """Tables 13 and 14: words without a number, with the range of the others."""
    checks = []
    rows = means[means["artifact"].isin(["T13", "T14"])]
    table = rows.pivot(index=["artifact", "dataset", "task", "metric"], columns="variant", values="mean")
    explanation = "no value in the text at hand; computed is the range of the other words"
    for cell, numbers in table[table.isna().any(axis=1)].iterrows():
        where = f"{' '.join(cell)}: {', '.join(numbers.index[numbers.isna()])}"
        spread = f"{numbers.min():.1f} to {numbers.max():.1f}"
        checks.append(same_words(where, "no row", spread, "missing rows", explanation))
    return checks
