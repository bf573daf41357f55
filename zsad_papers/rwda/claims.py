"""The claims of the RWDA paper that rows of `claim_tests.csv` cannot test; a docstring is the test.

Some rows stand in no table and only a run gives them: `score=...`, `n_pairs=...`, `pair_in_batch=0`,
`random_words=0`, and all rows of the task `text`. `object_unknown` alone means the defaults: pairs kept
in one batch, random words, the default number of pairs. `heldout_accuracy` is the percentage right on prompts
that were not trained on, `cosine_distance` the mean pairwise 1 - cos within a class.
"""

import numpy as np

from zsad_core import prompts
from zsad_papers.common.claims import Numbers, Verdict, above, at_least

WORD_PAIR_VARIANTS = tuple(f"normal={normal};anomaly={anomaly}" for normal, anomaly in prompts.WORD_PAIRS)
SEEDS = "seeds"  # the setting with their number, over which the deviations of a run are
OPTIONS = {"n_pairs": 10_000, "pair_counts": (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)}
"""The paper's values of settings that its claims name."""


def c17(n: Numbers) -> Verdict:
    """from the default to the largest number of pairs: image auroc of rwda on mvtec falls, accuracy on
    held-out random-word prompts does not"""
    sizes = (n.options["n_pairs"], max(n.options["pair_counts"]))
    auroc = [n.of(f"rwda[object_unknown;n_pairs={k}]", "image auroc", "mvtec") for k in sizes]
    accuracy = [n.of(f"rwda[n_pairs={k}]", "text heldout_accuracy") for k in sizes]
    reason = f"from {sizes[0]} to {sizes[1]} pairs auroc must fall, accuracy on prompts must not"
    return n.verdict(above(auroc[0], auroc[1]) and at_least(accuracy[1], accuracy[0]), reason)


def _word_pairs(n: Numbers) -> tuple[np.ndarray, np.ndarray]:
    """AUROC of CLIP and of CLIP + RWDA for the 16 word pairs."""
    names = [[f"{method}[{v}]" for v in WORD_PAIR_VARIANTS] for method in ("clip", "clip_rwda")]
    return tuple(np.array([n.of(name, "image auroc", "mvtec") for name in own]) for own in names)


def c18(n: Numbers) -> Verdict:
    """image auroc on mvtec: clip_rwda > clip for 15 of the 16 word pairs, the exception being
    normal=an;anomaly=a broken"""
    against = [v for v, clip, both in zip(WORD_PAIR_VARIANTS, *_word_pairs(n)) if not above(both, clip)]
    reason = f"not improved: {', '.join(against) or 'none'}"
    return n.verdict(against == ["normal=an;anomaly=a broken"], reason, {"improved pairs": 16 - len(against)})


def c19(n: Numbers) -> Verdict:
    """over the 16 word pairs on mvtec: the gain of image auroc, clip_rwda - clip, falls as the mean of both
    rises, one-sided p < 0.05 (test of Pitman and Morgan; against clip itself a gain falls even among random
    numbers; the limit is ours)"""
    from scipy.stats import pearsonr  # here: it takes a second

    clip, both = _word_pairs(n)
    correlation, p = pearsonr(both - clip, both + clip, alternative="less")
    shown = {"correlation of gain and mean": float(correlation), "p": float(p)}
    return n.verdict(p < 0.05, "a negative correlation with p < 0.05 is needed", shown)


def c20(n: Numbers) -> Verdict:
    """standard deviation and max - min of image auroc over the 16 word pairs on mvtec: clip_rwda < clip"""
    shown = {}
    for name, values in zip(("clip", "clip_rwda"), _word_pairs(n)):
        shown |= {f"std of {name}": float(np.std(values, ddof=1)), f"range of {name}": float(np.ptp(values))}
    smaller = all(above(shown[f"{what} of clip"], shown[f"{what} of clip_rwda"]) for what in ("std", "range"))
    return n.verdict(smaller, "a smaller standard deviation and range are needed", shown)
