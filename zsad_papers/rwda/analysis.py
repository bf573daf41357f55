"""What the paper leaves open: one choice moved at a time, over seeds, in pairs with the default."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from zsad_core.encoders import ClipEncoder
from zsad_core.fnn import FNN
from zsad_core.image_features import image_embeddings, random_word_embeddings
from zsad_core.prompts import ALPHABETS
from zsad_papers.common.data import dataset_of
from zsad_papers.common.results import read_table
from zsad_papers.common.tables import mean_std
from zsad_papers.rwda import experiments
from zsad_papers.rwda.experiments import NO_IMAGES, fnn_scores, prompt_scores, sum_scores
from zsad_papers.rwda.settings import RwdaSettings

FEW = 5  # seeds: this page trains nine sets of networks
DEFAULT = "default"
SYSTEMS = {("rwda", 0): "RWDA", ("clip_rwda", 0): "CLIP + RWDA", ("clip_rwda", 1): "CLIP + RWDA, 1-shot"}


def networks(settings: RwdaSettings, encoder: ClipEncoder) -> dict[str, dict[int, FNN]]:
    """The networks of a few seeds for each choice about their training. Of sentences with other symbols or
    another article there are only those of one network: all seeds learn from the same."""
    training = {
        "dropout=0.1": {"dropout": 0.1},
        "dropout=0.3": {"dropout": 0.3},
        "hidden=384-128-32": {"hidden": [384, 128, 32]},
        "decay=0.5": {"decay": 0.5},
        "decay=1": {"decay": 1.0},
        f"batch_size={2 * settings.batch_size}": {"batch_size": 2 * settings.batch_size},
        "normalize=1": {"normalize": True},
    }
    sentences = {
        "alphabet=letters_digits62": {"alphabet": ALPHABETS["letters_digits62"]},
        "literal=an": {"alphabet": ALPHABETS[settings.alphabet], "normal": "an", "literal": True},
    }
    few = replace(settings, seeds=min(FEW, settings.seeds))
    found = {DEFAULT: experiments.default_runs(few, encoder)}
    found |= {name: experiments.default_runs(few, encoder, **own) for name, own in training.items()}
    for name, own in sentences.items():
        texts = random_word_embeddings(encoder, few.cache_dir, few.n_pairs, seed=few.seed, **own)
        found[name] = experiments.default_runs(few, encoder, texts)
    return found


def choice_records(settings: RwdaSettings, encoder: ClipEncoder) -> pd.DataFrame:
    """The rows of `experiments.measure` for each choice and system, on the stand-in of MVTec-AD: RWDA and
    CLIP + RWDA with objects unknown, the latter also with one reference and objects known."""
    names, seen = ["variant", "method", "shots"], dataset_of(settings, "mvtec")
    if seen is None:
        return experiments.measure(NO_IMAGES, {}).assign(task="image", **dict.fromkeys(names))
    images = image_embeddings(encoder, seen, settings.cache_dir)
    test, train = images.select(split="test"), images.select(split="train")

    guided = partial(prompt_scores, test, encoder=encoder)
    trained, usual, found = networks(settings, encoder), guided(settings), {}
    fnns = trained[DEFAULT]
    alone = {seed: fnn_scores(test, fnn) for seed, fnn in fnns.items()}
    zoomed = image_embeddings(encoder, seen.select(split="test"), settings.cache_dir, zoom=1.5)
    cases = {variant: (own, usual, test) for variant, own in trained.items()}
    cases["zoom=1.5"] = (fnns, prompt_scores(zoomed, settings, encoder), zoomed)
    for variant, (own, prompted, of) in cases.items():
        learned = {seed: fnn_scores(of, fnn) for seed, fnn in own.items()}
        found[variant, "rwda", 0] = (of, learned)
        found[variant, "clip_rwda", 0] = (of, sum_scores(prompted, learned))
    found["literal=a", "clip_rwda", 0] = (test, sum_scores(guided(settings, literal=True), alone))
    for t in (0.01, 0.07):
        warm = guided(replace(settings, temperature=t))
        found[f"temperature={t}", "clip_rwda", 0] = (test, sum_scores(warm, alone))
    for variant, same_view in ((DEFAULT, False), ("same_view=1", True)):
        near = {s: experiments.similarity_scores(test, train, 1, s, same_view=same_view) for s in fnns}
        found[variant, "clip_rwda", 1] = (test, sum_scores(guided(settings, known=True), alone, near))
    frames = {key: experiments.measure(*own) for key, own in found.items()}
    return pd.concat(frames, names=names).reset_index(names).assign(task="image")


def effects(records: pd.DataFrame) -> pd.DataFrame:
    """Of each choice and system: mean and deviation over seeds of the mean image AUROC (%), the mean
    difference from the default, seed by seed, and half its 95 % interval (Student's t)."""
    from scipy.stats import t  # here: it takes a second, and few pages need it

    by = ["variant", "method", "shots"]
    each = 100 * records.groupby([*by, "seed"])["auroc"].mean().unstack("seed")
    table = []
    for variant, method, shots in records[by].drop_duplicates().itertuples(index=False):
        own = each.loc[variant, method, shots]
        change = own - each.loc[DEFAULT, method, shots]
        half = t.ppf(0.975, len(own) - 1) * change.std() / np.sqrt(len(own)) if len(own) > 1 else np.nan
        row = {"variant": variant, "system": SYSTEMS[method, shots], "mean": own.mean(), "std": own.std()}
        table.append(row | {"change": change.mean(), "half": half})
    return pd.DataFrame(table, columns=["variant", "system", "mean", "std", "change", "half"])


def choice_table(found: pd.DataFrame) -> pd.DataFrame:
    """A line an option, in the order of `open_choices.csv`; a column for each system, and what the published
    numbers say of the choice. found: of `effects`."""
    texts = [
        mean_std(mean, std) + ("" if variant == DEFAULT else f" ({change:+.1f} ± {half:.1f})")
        for variant, _, mean, std, change, half in found.itertuples(index=False)
    ]
    wide = found.assign(text=texts).pivot_table("text", "variant", "system", aggfunc="first", sort=False)
    wide = wide.reindex(columns=list(SYSTEMS.values())).fillna("-").reset_index()
    wide[["choice", "option"]] = wide.pop("variant").str.extract("([^=]*)=?(.*)")
    table = read_table("rwda", "open_choices.csv").merge(wide, on="choice")
    table["the published numbers say"] = table.pop("published").mask(table["choice"].duplicated(), "")
    here = table.pop("here").radd(", here ").where(table["choice"] != DEFAULT, "")
    return table.assign(choice=table["choice"] + here).set_index(["choice", "option"])


def moved(found: pd.DataFrame, system: str) -> str:
    """The options whose interval leaves out no change, with it, from 0.05 points. found: of `effects`."""
    own = found[(found["system"] == system) & (found["change"].abs() > found["half"].clip(lower=0.05))]
    texts = (f"{variant} ({change:+.1f})" for variant, change in zip(own["variant"], own["change"]))
    return ", ".join(texts) or ("none" if len(found) else "not measured")
