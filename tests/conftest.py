"""Shared by test files: small datasets, and every notebook executed once, by the first test that needs it."""

import json
import os
from functools import partial
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image

from data_scripts.prepare import prepared_folder
from zsad_core.datasets import load_dataset
from zsad_papers.common.settings import read_settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [path.relative_to(ROOT / "notebooks") for path in (ROOT / "notebooks").rglob("*.ipynb")]
NOTEBOOKS = sorted(p.with_suffix("").as_posix() for p in PAGES if ".ipynb_checkpoints" not in p.parts)
CATEGORIES = {  # of the datasets that tests render
    "mini_mvtec": ("bottle_top", "carpet", "hex_nut"),
    "mini_visa": ("candles", "fuse", "gear"),
}
LEDGERS = ("claims", "coverage", "reexecutions")  # they read what the other notebooks have written
SLOW = hypothesis.HealthCheck.too_slow  # on a busy machine everything is
hypothesis.settings.register_profile("few", max_examples=25, deadline=None, suppress_health_check=[SLOW])
hypothesis.settings.load_profile("few")
KERNEL = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT)}
KERNEL |= {"JUPYTER_PREFER_ENV_PATH": "1", "TQDM_DISABLE": "1"}  # a bar on stderr would hide a warning


def pytest_addoption(parser):
    parser.addoption("--renew", action="store_true", help="write the golden tables instead of comparing them")


def pytest_collection_modifyitems(items):
    """`--dist loadgroup` keeps a file's tests on one worker, but spreads the notebooks."""
    for item in items:
        if item.path.name != "test_notebooks.py":
            item.add_marker(pytest.mark.xdist_group(item.path.name))


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """once(name, make): the path that make(path) has made on one of the workers; the others wait."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def path_of(name, make):
        path = shared / "once" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.exists():
                begun = path.with_name(f"begun-{path.name}")
                make(begun)
                begun.rename(path)
        return path

    return path_of


@pytest.fixture(scope="session")
def small_data(once):
    """A data_dir with the datasets of the mini profile: few categories of the first two, few images each."""

    def make(folder):
        from data_scripts import mini, textile

        with pytest.MonkeyPatch.context() as patch:
            for name, kept in CATEGORIES.items():
                patch.setitem(mini.LOOKS, name, [look for look in mini.LOOKS[name] if look.name in kept])
            for name in (*CATEGORIES, "mini_medical_image", "mini_medical_pixel"):
                mini.write_dataset(name, folder / name, n_train=3, n_normal=4, n_anomalous=4)
        textile.main(["--out", str(folder / "textile")])

    return once("data", make)


@pytest.fixture(scope="session")
def encoder():
    from zsad_core.encoders import load_encoder  # here: tests without a model need not wait for torch

    return load_encoder("zsad-mini", device="cpu")


@pytest.fixture(scope="module")
def settings_of(small_data, tmp_path_factory):
    """settings_of(**parameters): the mini profile on few images, with a cache of the test file's own."""
    folders = {"data_dir": str(small_data), "cache_dir": str(tmp_path_factory.mktemp("cache"))}
    return lambda **parameters: read_settings({**folders, "device": "cpu", **parameters})


@pytest.fixture(scope="module")
def square(settings, encoder):
    """A category of square images with the defects hole, spot and stain; `settings` are the test file's."""
    from zsad_papers.common.experiment import Category

    dataset = load_dataset(Path(settings.data_dir) / "mini_mvtec")
    return Category(settings, encoder, dataset, "bottle_top")


@pytest.fixture(scope="module")
def large(settings):
    """The mini model at AnomalyCLIP's input size; `settings` are the test file's."""
    from zsad_papers.common.data import encoder_of

    return encoder_of(settings, "prompt_")


@pytest.fixture
def dataset_with(tmp_path):
    """dataset_with(images, name): the category screw of normal images and pairs (anomalous one, mask)."""

    def make(images, name="shop"):
        with prepared_folder(tmp_path / name) as out:
            for i, image in enumerate(images):
                picture, mask = image if isinstance(image, tuple) else (image, None)
                own = {"defect": "good"} if mask is None else {"defect": "scratch", "mask": mask}
                out.add(picture, category="screw", split="test", name=f"{i:02d}.png", **own)
        return load_dataset(tmp_path / name)

    return make


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory):
    """small_clip(seed, ...): a CLIP of 3 x 3 patches, 4 image and 4 text blocks, random weights.

    lively: biases, norms and attention differ, where new ones are 0, 1 and even and would hide mistakes.
    pixels, text, config and keywords change the architecture; image_size is asked of `load_encoder`.
    """
    path = tmp_path_factory.mktemp("configs") / "small.json"
    from zsad_core.encoders import load_encoder  # here: tests without a model need not wait for torch

    def load(seed=0, image_size=None, lively=False, pixels=24, text=None, config=None, **vision):
        tower = {"image_size": pixels, "patch_size": 8, "width": 32, "layers": 4, "head_width": 16} | vision
        texts = {"width": 32, "heads": 2, "layers": 4} | (text or {})
        content = {"embed_dim": 16, "vision_cfg": tower, "text_cfg": texts} | (config or {})
        path.write_text(json.dumps(content))
        encoder = load_encoder(path, "random", device="cpu", seed=seed, image_size=image_size)
        if lively:
            enliven(encoder.model)
        return encoder

    return load


def enliven(model):
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # biases, norms, LayerScale
            around = 0 if name.endswith(("bias", "embedding")) else 1
            parameter.copy_(around + 0.3 * torch.randn(parameter.shape, generator=generator))
        elif name.endswith("in_proj_weight"):
            parameter.mul_(3)


@pytest.fixture(scope="session")
def tiny_clip(small_clip):
    """A CLIP of 3 x 3 patches with 2 blocks and random weights."""
    return small_clip(layers=2)


@pytest.fixture(scope="session")
def small_resnet(small_clip):
    """A CLIP with a ResNet of 2 x 2 cells and random weights."""
    return small_clip(pixels=64, layers=[1, 1, 1, 1], patch_size=None, width=8)


@pytest.fixture
def toy_set(tmp_path):
    """toy_set(normal, anomalous, masks=...): noise, darker in an anomaly, in two categories, with one
    training image each. masks: how many of the anomalous ones have theirs, None for all."""

    def make(normal=2, anomalous=2, masks=None, seed=0, name="toys"):
        rng = np.random.default_rng(seed)
        with prepared_folder(tmp_path / name) as out:
            for category in ("metal_nut", "wood"):
                kinds = [("train", "good")] + [("test", "good")] * normal + [("test", "hole")] * anomalous
                for number, (split, defect) in enumerate(kinds):
                    pixels, mask = rng.integers(0, 256, (36, 36, 3), np.uint8), None
                    if defect == "hole":
                        row, column = rng.integers(0, 20, 2)
                        pixels[row : row + 12, column : column + 16] //= 4
                        if masks is None or number - normal <= masks:
                            mask = np.zeros((36, 36), np.uint8)
                            mask[row : row + 12, column : column + 16] = 1
                    options = {"category": category, "split": split, "defect": defect, "mask": mask}
                    out.add(Image.fromarray(pixels), name=f"{number:02d}.png", **options)
        return load_dataset(tmp_path / name)

    return make


@pytest.fixture(scope="session")
def small_run(small_data, once):
    """The smallest parameters, with folders that all notebooks of this test run share."""
    parameters = yaml.safe_load((ROOT / "tests" / "smallest.yaml").read_text())["every notebook"]
    made = {f"{name}_dir": once(name, lambda path: path.mkdir(parents=True)) for name in ("cache", "results")}
    return parameters | {name: str(path) for name, path in {"data_dir": small_data, **made}.items()}


def run_page(notebook, path, parameters):
    """Executes a notebook with these parameters into the file, which stays if it fails."""
    import papermill

    source = ROOT / "notebooks" / f"{notebook}.ipynb"
    options = {"kernel_name": "python3", "progress_bar": False, "start_timeout": 300, "cwd": ROOT}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KERNEL.items():
            patch.setenv(name, value)
        try:
            papermill.execute_notebook(source, path, parameters, **options)
        except RuntimeError:  # two kernels that start at once may choose one port, and one of them dies
            papermill.execute_notebook(source, path, parameters, **options)


@pytest.fixture(scope="session")
def executed(once, small_run):
    """executed(notebook): the path of that notebook, executed once at its smallest setting."""

    def make(notebook, path):
        try:
            run_page(notebook, path, small_run)
        except Exception as error:  # kept, so that the next test that asks fails at once, for this reason
            path.write_text(f"{notebook} failed:\n{str(error)[-4000:]}")

    def path_of(notebook):
        if notebook in LEDGERS:
            # two workers that want a ledger begin at opposite ends, else one would wait for the other's locks
            backwards = os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0"
            for name in sorted(set(NOTEBOOKS) - set(LEDGERS), reverse=backwards):
                path_of(name)
        path = once(f"notebooks/{notebook}.ipynb", partial(make, notebook))
        assert path.read_bytes().startswith(b"{"), path.read_text()
        return path

    return path_of
