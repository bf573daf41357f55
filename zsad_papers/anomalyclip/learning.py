"""What is learned from auxiliary images, kept in `cache_dir/prompts`: prompts and VAND's layers (App. A)."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from zsad_core.cache import content_key
from zsad_core.datasets import AnomalyDataset
from zsad_core.encoders import ClipEncoder
from zsad_core.image_features import compute_together
from zsad_core.methods import extractor_of
from zsad_core.prompt_config import PromptConfig, prompt_config_of
from zsad_core.prompt_learning import LearnedPrompts, train_side_by_side
from zsad_papers.baselines.vand import Adapters, train_adapters
from zsad_papers.common.data import dataset_of
from zsad_papers.common.settings import Settings

MEDICAL = "cvc_colondb"  # auxiliary set (App. B): anomalous images with masks, and normal training images
AT_ONCE = 16  # trainings side by side; of more the activations leave a core's cache
FIRST_SEED = PromptConfig().seed


def auxiliary_dataset(dataset: str) -> str:
    """The dataset that prompts for this one are learned on: VisA for MVTec AD, MVTec AD for all others."""
    return "visa" if dataset == "mvtec" else "mvtec"


def learned_prompts(
    settings: Settings, encoder: ClipEncoder, auxiliary: str, preset: str = "released", **options
) -> LearnedPrompts | None:
    """Prompts learned on a dataset's stand-in, read if they are kept; None without the dataset."""
    return next(iter(learned_variants(settings, encoder, auxiliary, [{"preset": preset, **options}])), None)


def learned_variants(
    settings: Settings, encoder: ClipEncoder, auxiliary: str, variants: Sequence[dict]
) -> list[LearnedPrompts]:
    """Prompts learned with each of these options, side by side; none without the dataset."""
    images = _auxiliary_images(settings, auxiliary)
    if images is None:
        return []
    configs = [prompt_config_of(encoder, **options) for options in variants]
    configs = [replace(own, epochs=shared_epochs(settings, own.epochs)) for own in configs]
    paths = {config: _kept(settings, encoder, images, {"recipe": config.key()}) for config in configs}
    lacking = [config for config, path in paths.items() if not path.is_file()]
    compute_together([extractor_of(encoder, config) for config in lacking], images, settings.cache_dir)
    for group in side_by_side(lacking):
        name = content_key(group=[paths[config].name for config in group])
        options = {"checkpoint": paths[group[0]].with_name(f"{name}.unfinished.safetensors")}
        found = train_side_by_side(encoder, images, group, cache_dir=settings.cache_dir, **options)
        for config, prompts in zip(group, found, strict=True):
            prompts.save(paths[config])
        options["checkpoint"].unlink(missing_ok=True)
    return [LearnedPrompts.load(paths[config]) for config in configs]


def learned_adapters(
    settings: Settings, encoder: ClipEncoder, auxiliary: str, seed: int = FIRST_SEED
) -> Adapters | None:
    """VAND's layers, as in `learned_prompts`. As in its authors' code: on MVTec AD 3 epochs with mosaics, on
    others 15 epochs without."""
    images = _auxiliary_images(settings, auxiliary)
    if images is None:
        return None
    epochs = shared_epochs(settings, 3 if auxiliary == "mvtec" else 15)
    recipe = {"epochs": epochs, "mosaic": 0.2 if auxiliary == "mvtec" else 0.0, "seed": seed}
    version = 4 if recipe["mosaic"] else 3  # until 3 the mosaics were drawn anew by each seed
    path = _kept(settings, encoder, images, {"vand": version, **recipe})
    if not path.is_file():
        unfinished = path.with_suffix(".unfinished.safetensors")
        options = {"cache_dir": settings.cache_dir, "checkpoint": unfinished, **recipe}
        train_adapters(encoder, images, **options).save(path)
        unfinished.unlink(missing_ok=True)
    return Adapters.load(path)


def shared_epochs(settings: Settings, epochs: int) -> int:
    """The settings' share of a method's own epochs: at least one, none of none."""
    return min(epochs, max(1, round(settings.epochs_share * epochs)))


def _auxiliary_images(settings: Settings, dataset: str) -> AnomalyDataset | None:
    """Of `MEDICAL` all images, of other sets the test split; None without the dataset."""
    images = dataset_of(settings, dataset)
    return images if images is None or dataset == MEDICAL else images.select(split="test")


def _kept(settings: Settings, encoder: ClipEncoder, images: AnomalyDataset, key: dict) -> Path:
    """The file in `cache_dir/prompts` of what is learned, under all that it depends on."""
    key |= {"model": encoder.model_id, "weights": encoder.weights_id, "precision": encoder.precision}
    name = f"{images.root.name}-{content_key(**key, images=images.fingerprint)}.safetensors"
    return Path(settings.cache_dir) / "prompts" / name


def side_by_side(configs: Sequence[PromptConfig]) -> list[list[PromptConfig]]:
    """The configurations in groups that can be learned together: of one shape, in as many steps."""
    groups: dict[tuple, list[PromptConfig]] = {}
    for config in configs:
        shape = replace(config.design, states=("", ""), ending="")
        steps = (config.optimizer, config.lr, config.betas, config.weight_decay)
        groups.setdefault((shape, *steps, config.epochs, config.batch_size), []).append(config)
    each = [sorted(group, key=lambda config: config.seed) for group in groups.values()]
    return [group[i : i + AT_ONCE] for group in each for i in range(0, len(group), AT_ONCE)]
