"""One predicate for each claim of the RWDA paper; each implements the `test` of `claims.csv`.

The predicates read the paper's own rows (`published.csv`): methods `clip`, `rwda`, `clip_rwda`,
`winclip`; variants `object_unknown`, `object_known`, `object_known;multi_crop=0`, `normal=an;anomaly=a
broken` and the other word pairs; few-shot rows with an empty variant; `params_M`, `macs_G`, `latency_ms`
without a dataset, with everything counted, in the same way for all methods. Beyond these, they read rows that
only a run can give:

| claim | method, variant | shots, metric |
|---|---|---|
| c07 | rwda, `object_known` (same seeds as `object_unknown`) | 0, auroc |
| c11 | clip, `score=s_img`; winclip_plus, `score=max_map` | 4, auroc |
| c12 | winclip_plus_rwda, empty | 1, 2 and 4, auroc |
| c16, c17 | rwda, `object_unknown;n_pairs=K` (mvtec only) | 0, auroc |
| c17 | rwda, `n_pairs=K` (text) | 0, heldout_accuracy |
| c21 | rwda, `object_unknown;pair_in_batch=0` | 0, auroc |
| c22 | rwda, `object_unknown;random_words=0` | 0, auroc |
| c22, c23 | rwda, `state=normal` and `state=anomalous` (text) | 0, cosine_distance |
| c22 | rwda, `random_words=0;state=normal` and `...=anomalous` (text) | 0, cosine_distance |
| c23 | linear, empty (text) | 0, heldout_accuracy |
| c25, c26 | rwda, `layer=clip`, `layer=1` to `layer=3` (text) | 0, silhouette_state, silhouette_domain |

Their category is `mean`; those marked text have task `text` and no dataset, the others task `image` and
datasets `mvtec` and `visa`. `object_unknown` alone stands for the defaults: pairs kept in one batch, random
words, the default number of pairs. `heldout_accuracy` is the percentage right on prompts that were not
trained on, `cosine_distance` the mean pairwise 1 - cos within a class; the silhouettes group texts by state
(normal, anomalous) and by domain (caption, random-word prompt). WinCLIP+ may be called `winclip`, as in the
paper's Table 1, or `winclip_plus`; zero-shot WinCLIP, which always knows the object, may leave its variant
empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from zsad_core import prompts
from zsad_papers.common.claims import TOLERANCE, Numbers, Verdict, above, at_least

DATASETS = ("mvtec", "visa")
METRICS = ("auroc", "aupr", "f1max")
SHOTS = (1, 2, 4)
WORD_PAIR_VARIANTS = tuple(f"normal={normal};anomaly={anomaly}" for normal, anomaly in prompts.WORD_PAIRS)
N_PAIRS = 10_000
PAIR_COUNTS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)


def _numbers(results: pd.DataFrame, claim_id: str) -> Numbers:
    """The frame's numbers, with WinCLIP's rows under the names that the claims use."""
    results = results[results["paper"] == "rwda"]  # other papers run the same methods under other settings
    winclip = results["method"] == "winclip"
    few_shot = winclip & (results["shots"] > 0)
    unnamed = winclip & ~few_shot & (results["variant"] == "") & (results["dataset"] != "")
    method = results["method"].mask(few_shot, "winclip_plus")
    variant = results["variant"].mask(unnamed, "object_known")
    return Numbers(results.assign(method=method, variant=variant), claim_id)


def _all_above_zero(gains: Mapping[str, float]) -> bool:
    return all(above(gain, 0) for gain in gains.values())


def _labelled(numbers: Mapping[str, float], label: str) -> dict[str, float]:
    """Numbers for a verdict: named, and rid of the last bits of decimal differences."""
    return {f"{name} {label}".strip(): round(value, 6) for name, value in numbers.items()}


def rwda_c01(results: pd.DataFrame) -> Verdict:
    """CLIP + RWDA beats CLIP with the object unknown."""
    n = _numbers(results, "rwda-c01")
    gains = n.gains("clip_rwda", "clip", METRICS, DATASETS, variant="object_unknown")
    return n.verdict(_all_above_zero(gains), "a gain is asked in all six cells", _labelled(gains, "gain"))


def rwda_c02(results: pd.DataFrame) -> Verdict:
    """CLIP + RWDA beats CLIP with the object known."""
    n = _numbers(results, "rwda-c02")
    gains = n.gains("clip_rwda", "clip", METRICS, DATASETS, variant="object_known")
    return n.verdict(_all_above_zero(gains), "a gain is asked in all six cells", _labelled(gains, "gain"))


def rwda_c03(results: pd.DataFrame) -> Verdict:
    """CLIP + RWDA beats WinCLIP in at least five of six cells."""
    n = _numbers(results, "rwda-c03")
    leads = n.gains("clip_rwda", "winclip", METRICS, DATASETS, variant="object_known")
    wins = sum(above(lead, 0) for lead in leads.values())
    return n.verdict(wins >= 5, f"ahead in {wins} of 6 cells, 5 are asked", _labelled(leads, "lead"))


def rwda_c04(results: pd.DataFrame) -> Verdict:
    """The gain is larger with the object unknown."""
    n = _numbers(results, "rwda-c04")
    unknown = n.gains("clip_rwda", "clip", METRICS, DATASETS, variant="object_unknown")
    known = n.gains("clip_rwda", "clip", METRICS, DATASETS, variant="object_known")
    against = [cell for cell in unknown if not above(unknown[cell], known[cell])]
    reason = f"not larger in {', '.join(against)}" if against else "larger in all six cells"
    return n.verdict(not against, reason, _labelled(unknown, "gain unknown") | _labelled(known, "gain known"))


def rwda_c05(results: pd.DataFrame) -> Verdict:
    """One prompt pair is on a par with WinCLIP's prompt ensemble."""
    n = _numbers(results, "rwda-c05")
    leads = n.gains("clip_rwda", "winclip", ("auroc",), DATASETS, variant="object_known")
    holds = all(at_least(lead, -0.5) for lead in leads.values())
    return n.verdict(holds, "at most 0.5 behind WinCLIP is asked", _labelled(leads, "lead"))


def rwda_c06(results: pd.DataFrame) -> Verdict:
    """Without multiple crops, CLIP + RWDA beats WinCLIP."""
    n = _numbers(results, "rwda-c06")
    leads = n.gains("clip_rwda", "winclip", METRICS, ("mvtec",), variant="object_known;multi_crop=0")
    wins = sum(above(lead, 0) for lead in leads.values())
    holds = wins >= 2 and all(at_least(lead, 0) for lead in leads.values())
    return n.verdict(
        holds, f"ahead in {wins} of 3 metrics; 2, and none behind, asked", _labelled(leads, "lead")
    )


def rwda_c07(results: pd.DataFrame) -> Verdict:
    """The FNN alone scores the same with and without object names: same mean, same spread over seeds."""
    n = _numbers(results, "rwda-c07")
    known, unknown = (
        [n("auroc", "rwda", d, variant=v, std=std) for d in DATASETS for std in (False, True)]
        for v in ("object_known", "object_unknown")
    )
    same = np.allclose(known, unknown, rtol=0, atol=TOLERANCE, equal_nan=True)  # no spread with a single seed
    return n.verdict(same, "no difference is asked")


def _few_shot_leads(n: Numbers, method: str, baseline: str, metrics: tuple[str, ...]) -> dict[str, float]:
    """method minus baseline by 'dataset metric k-shot'."""
    by_shots = {k: n.gains(method, baseline, metrics, DATASETS, shots=k) for k in SHOTS}
    return {f"{cell} {k}-shot": lead for k, leads in by_shots.items() for cell, lead in leads.items()}


def rwda_c08(results: pd.DataFrame) -> Verdict:
    """Few-shot CLIP + RWDA stays within one point of WinCLIP+."""
    n = _numbers(results, "rwda-c08")
    leads = _few_shot_leads(n, "clip_rwda", "winclip_plus", METRICS)
    holds = all(at_least(lead, -1.0) for lead in leads.values())
    return n.verdict(holds, "at most 1.0 behind WinCLIP+ is asked", _labelled(leads, "lead"))


def rwda_c09(results: pd.DataFrame) -> Verdict:
    """The lead over WinCLIP+ shrinks with more references and ends below zero."""
    n = _numbers(results, "rwda-c09")
    one, four = (n.gains("clip_rwda", "winclip_plus", ("auroc",), DATASETS, shots=k) for k in (1, 4))
    holds = all(above(one[cell], four[cell]) and above(0, four[cell]) for cell in one)
    reason = "a smaller lead at 4 shots than at 1, and below 0, is asked"
    return n.verdict(holds, reason, _labelled(one, "lead 1-shot") | _labelled(four, "lead 4-shot"))


def rwda_c10(results: pd.DataFrame) -> Verdict:
    """References from one to four help CLIP + RWDA less than WinCLIP+."""
    n = _numbers(results, "rwda-c10")
    ours, theirs = (
        {d: n("auroc", method, d, shots=4) - n("auroc", method, d, shots=1) for d in DATASETS}
        for method in ("clip_rwda", "winclip_plus")
    )
    holds = all(above(theirs[d], ours[d]) for d in DATASETS)
    shown = _labelled(ours, "rise of clip_rwda") | _labelled(theirs, "rise of winclip_plus")
    return n.verdict(holds, "a smaller rise of clip_rwda from 1 to 4 shots is asked", shown)


def rwda_c11(results: pd.DataFrame) -> Verdict:
    """Whole-image similarity alone is behind WinCLIP+'s reference map."""
    n = _numbers(results, "rwda-c11")
    reference_map = [n("auroc", "winclip_plus", d, variant="score=max_map", shots=4) for d in DATASETS]
    similarity = [n("auroc", "clip", d, variant="score=s_img", shots=4) for d in DATASETS]
    return n.verdict(all(map(above, reference_map, similarity)), "reference scores alone, at 4 shots")


def rwda_c12(results: pd.DataFrame) -> Verdict:
    """Adding the FNN score lifts WinCLIP+."""
    n = _numbers(results, "rwda-c12")
    gains = _few_shot_leads(n, "winclip_plus_rwda", "winclip_plus", ("auroc",))
    return n.verdict(_all_above_zero(gains), "a gain is asked everywhere", _labelled(gains, "gain"))


def rwda_c13(results: pd.DataFrame) -> Verdict:
    """The FNN adds about 0.3 million parameters, 0.39 percent."""
    n = _numbers(results, "rwda-c13")
    clip = n("params_M", "clip")
    added = n("params_M", "rwda") - clip
    share = 100 * added / clip
    holds = (
        at_least(added, 0.29) and at_least(0.31, added) and at_least(share, 0.37) and at_least(0.40, share)
    )
    shown = _labelled({"added": added, "clip": clip}, "params_M") | _labelled({"added": share}, "percent")
    return n.verdict(holds, "0.29 to 0.31 million and 0.37 to 0.40 percent are asked", shown)


def rwda_c14(results: pd.DataFrame) -> Verdict:
    """WinCLIP takes about 2.3 times as long."""
    n = _numbers(results, "rwda-c14")
    ratio = n("latency_ms", "winclip") / n("latency_ms", "rwda")
    holds = at_least(ratio, 1.8) and at_least(2.8, ratio)
    return n.verdict(holds, "a ratio of 1.8 to 2.8 is asked", n.used | {"ratio": round(ratio, 6)})


def rwda_c15(results: pd.DataFrame) -> Verdict:
    """WinCLIP costs more at inference than CLIP + RWDA."""
    n = _numbers(results, "rwda-c15")
    winclip, ours = ([n(m, method) for m in ("macs_G", "latency_ms")] for method in ("winclip", "clip_rwda"))
    return n.verdict(all(map(above, winclip, ours)), "more multiply-accumulates and more time are asked")


def rwda_c16(
    results: pd.DataFrame, n_pairs: int = N_PAIRS, pair_counts: Sequence[int] = PAIR_COUNTS
) -> Verdict:
    """The default number of prompt pairs is the best of those tried.

    n_pairs, pair_counts : the default number and all that were tried: the paper's, or a smaller run's.
    """
    n = _numbers(results, "rwda-c16")
    default = n("auroc", "rwda", "mvtec", variant=f"object_unknown;n_pairs={n_pairs}")
    by_count = {k: n("auroc", "rwda", "mvtec", variant=f"object_unknown;n_pairs={k}") for k in pair_counts}
    better = [str(k) for k, auroc in by_count.items() if above(auroc, default)]
    return n.verdict(not better, f"better than {n_pairs} pairs: {', '.join(better) or 'none'}")


def rwda_c17(
    results: pd.DataFrame, n_pairs: int = N_PAIRS, pair_counts: Sequence[int] = PAIR_COUNTS
) -> Verdict:
    """With the most pairs, image AUROC falls while accuracy on held-out prompts does not."""
    n = _numbers(results, "rwda-c17")
    sizes = (n_pairs, max(pair_counts))
    auroc = [n("auroc", "rwda", "mvtec", variant=f"object_unknown;n_pairs={k}") for k in sizes]
    accuracy = [n("heldout_accuracy", "rwda", task="text", variant=f"n_pairs={k}") for k in sizes]
    holds = above(auroc[0], auroc[1]) and at_least(accuracy[1], accuracy[0])
    return n.verdict(
        holds, f"from {sizes[0]} to {sizes[1]} pairs auroc must fall, accuracy on prompts must not"
    )


def _word_pairs(n: Numbers) -> tuple[list[float], list[float]]:
    """AUROC of CLIP and of CLIP + RWDA for the 16 word pairs."""
    clip, both = (
        [n("auroc", method, "mvtec", variant=v) for v in WORD_PAIR_VARIANTS]
        for method in ("clip", "clip_rwda")
    )
    return clip, both


def rwda_c18(results: pd.DataFrame) -> Verdict:
    """The FNN improves CLIP for every word pair but "an" with "a broken"."""
    n = _numbers(results, "rwda-c18")
    clip, both = _word_pairs(n)
    against = [v for v, c, b in zip(WORD_PAIR_VARIANTS, clip, both) if not above(b, c)]
    reason = f"not improved: {', '.join(against) or 'none'}"
    return n.verdict(against == ["normal=an;anomaly=a broken"], reason, {"improved pairs": 16 - len(against)})


def rwda_c19(results: pd.DataFrame) -> Verdict:
    """The FNN helps most where CLIP is worst."""
    n = _numbers(results, "rwda-c19")
    clip, both = (np.array(values) for values in _word_pairs(n))  # (16,)
    gains = both - clip
    correlation = float(pd.Series(clip).rank().corr(pd.Series(gains).rank()))  # Spearman: Pearson of ranks
    by_clip = gains[np.argsort(clip, kind="stable")]
    worst, best = float(by_clip[:8].mean()), float(by_clip[8:].mean())
    shown = {"Spearman correlation": correlation, "mean gain of 8 worst": worst, "mean gain of 8 best": best}
    reason = "a negative correlation, and a larger mean gain of the 8 worst, are asked"
    return n.verdict(correlation < 0 and above(worst, best), reason, _labelled(shown, ""))


def rwda_c20(results: pd.DataFrame) -> Verdict:
    """The wording matters less once the FNN score is added."""
    n = _numbers(results, "rwda-c20")
    spread = {
        name: (float(np.std(values, ddof=1)), float(np.ptp(values)))
        for name, values in zip(("clip", "clip_rwda"), _word_pairs(n))
    }
    holds = all(map(above, spread["clip"], spread["clip_rwda"]))
    shown = {
        f"{what} of {name}": values[i]
        for name, values in spread.items()
        for i, what in enumerate(("std", "range"))
    }
    return n.verdict(holds, "a smaller standard deviation and range are asked", _labelled(shown, ""))


def rwda_c21(results: pd.DataFrame) -> Verdict:
    """Keeping pairs in one batch helps slightly."""
    n = _numbers(results, "rwda-c21")
    gains = _gain_over(n, "object_unknown;pair_in_batch=0")
    holds = all(above(gain, 0) and at_least(1.0, gain) for gain in gains.values())
    return n.verdict(holds, "a gain above 0 and up to 1.0 is asked", _labelled(gains, "gain"))


def _gain_over(n: Numbers, ablation: str) -> dict[str, float]:
    """AUROC of the FNN with the defaults minus that of an ablation, by dataset."""
    return {
        d: n("auroc", "rwda", d, variant="object_unknown") - n("auroc", "rwda", d, variant=ablation)
        for d in DATASETS
    }


def rwda_c22(results: pd.DataFrame) -> Verdict:
    """Random words make the embeddings more varied and the detector better."""
    n = _numbers(results, "rwda-c22")
    wider = {
        state: n("cosine_distance", "rwda", task="text", variant=f"state={state}")
        - n("cosine_distance", "rwda", task="text", variant=f"random_words=0;state={state}")
        for state in ("normal", "anomalous")
    }
    gains = _gain_over(n, "object_unknown;random_words=0")
    shown = _labelled(wider, "distance gained") | _labelled(gains, "auroc gained")
    return n.verdict(_all_above_zero(wider | gains), "larger distances and higher auroc are asked", shown)


def rwda_c23(results: pd.DataFrame) -> Verdict:
    """Normal and anomalous prompts are separate but spread out."""
    n = _numbers(results, "rwda-c23")
    accuracy = n("heldout_accuracy", "linear", task="text")
    variants = ("state=normal", "state=anomalous")
    distance = float(np.mean([n("cosine_distance", "rwda", task="text", variant=v) for v in variants]))
    holds = at_least(accuracy, 95.0) and above(distance, 0.05)
    return n.verdict(holds, "an accuracy of 95 % and a mean distance above 0.05 are asked")


def rwda_c24(results: pd.DataFrame) -> Verdict:
    """An FNN trained on text works on images."""
    n = _numbers(results, "rwda-c24")
    values = [n("auroc", "rwda", d, variant="object_unknown") for d in (*DATASETS, "sewerml")]
    return n.verdict(all(above(v, 60.0) for v in values), "above 60 is asked, chance is 50")


def _silhouettes(n: Numbers, layer: str) -> tuple[float, float]:
    """Silhouette by state and by domain, at the CLIP embedding or after a hidden layer."""
    metrics = ("silhouette_state", "silhouette_domain")
    state, domain = (n(metric, "rwda", task="text", variant=f"layer={layer}") for metric in metrics)
    return state, domain


def rwda_c25(results: pd.DataFrame) -> Verdict:
    """At the CLIP embedding, texts group by domain more than by state."""
    n = _numbers(results, "rwda-c25")
    state, domain = _silhouettes(n, "clip")
    return n.verdict(above(domain, state), "a higher silhouette by domain than by state is asked")


def rwda_c26(results: pd.DataFrame) -> Verdict:
    """Deeper layers group by state more and by domain less."""
    n = _numbers(results, "rwda-c26")
    s = {}
    for layer in ("clip", "1", "2", "3"):
        state, domain = _silhouettes(n, layer)
        s[f"layer {layer}"] = state - domain
    values = list(s.values())
    holds = all(map(above, values[1:], values)) and above(values[-1], 0)
    return n.verdict(
        holds, "rising from layer to layer, and above 0 at the last, is asked", _labelled(s, "state - domain")
    )


def rwda_c27(results: pd.DataFrame) -> Verdict:
    """On sewer images the FNN alone is the best of three."""
    n = _numbers(results, "rwda-c27")
    over = {
        other: n.gains("rwda", other, METRICS, ("sewerml",), variant="object_unknown")
        for other in ("clip_rwda", "clip")
    }
    shown = _labelled(over["clip_rwda"], "lead over clip_rwda") | _labelled(over["clip"], "lead over clip")
    return n.verdict(all(map(_all_above_zero, over.values())), "a lead is asked in all three metrics", shown)


def rwda_c28(results: pd.DataFrame) -> Verdict:
    """Adding CLIP's score lowers the FNN score on sewer images only."""
    n = _numbers(results, "rwda-c28")
    gains = n.gains("clip_rwda", "rwda", ("auroc",), (*DATASETS, "sewerml"), variant="object_unknown")
    holds = above(0, gains["sewerml auroc"]) and all(above(gains[f"{d} auroc"], 0) for d in DATASETS)
    return n.verdict(
        holds, "below 0 on sewerml and above 0 on mvtec and visa are asked", _labelled(gains, "gain")
    )
