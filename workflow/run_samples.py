"""Small samples of a run: made, timed, and extrapolated by counts.

A stage's time is taken for a sum of terms (categories, images, steps of training ...), each a count times a
price. The prices are fitted to a few small samples, none below 0, and the whole run's counts multiply them.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from zsad_core.datasets import AnomalyDataset
from zsad_papers.common.settings import Settings

FIRST, SECOND = "mvtec", "visa"
"""The roles that WinCLIP tests on, and that prompts for each other are learned on."""

FAILURES = (ValueError, OSError, RuntimeError, ArithmeticError, ImportError, LookupError)
Terms = Mapping[str, float]
"""How many there are of what a stage's time and disk depend on."""


@dataclass(frozen=True)
class Sample:
    """What a stage took on a small part. processor: seconds of this process's own threads, which other
    processes on the machine disturb less. bytes: by which the cache grew."""

    terms: Terms
    seconds: float
    processor: float
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """A stage of the whole run. units of `unit` are its main count. job: stages of one job come one after
    the other."""

    stage: str
    job: str
    unit: str
    units: float
    seconds: float
    processor: float
    bytes: float

    @property
    def seconds_per_unit(self) -> float:
        return self.seconds / self.units if self.units else 0.0


def sample_dataset(
    dataset: AnomalyDataset, folder: Path, category: str, n_test: int, n_train: int
) -> tuple[int, int]:
    """A prepared folder of at most n_test images of each label, evenly spaced, and n_train training images of
    one category; images are linked, not copied. Gives the numbers of test and of training images."""
    part = dataset.select(category=category).limit(n_test)
    train = (part.meta["split"] == "train").to_numpy()
    part = part.where(~train | (train.cumsum() <= n_train))
    folder.mkdir(parents=True)
    part.meta.to_csv(folder / "meta.csv", index=False, lineterminator="\n")
    for top in {Path(path).parts[0] for path in (*part.meta["image"], *part.meta["mask"]) if path}:
        (folder / top).symlink_to((dataset.root / top).resolve())
    return len(part) - int((part.meta["split"] == "train").sum()), int((part.meta["split"] == "train").sum())


def typical_category(dataset: AnomalyDataset) -> str:
    """The category whose images are of middle size, by the first of each."""
    first = dataset.meta.drop_duplicates("category")
    pixels = {row.category: np.prod(dataset.size(row.Index)) for row in first.itertuples()}
    return sorted(pixels, key=lambda category: (pixels[category], category))[len(pixels) // 2]


def timed(run: Callable[[], object], terms: Terms, cache: Path) -> Sample:
    """Run a stage once, with what it leaves in the cache."""
    before = bytes_in(cache)
    wall, processor = time.perf_counter(), time.process_time()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - wall, time.process_time() - processor
    return Sample(dict(terms), *seconds, bytes_in(cache) - before)


def bytes_in(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def threads(number: int):
    """As many threads as a job of the workflow has."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def extrapolate(stage: str, job: str, unit: str, samples: Sequence[Sample], whole: Terms) -> Estimate:
    """Time and disk of the whole run's counts, from samples of the same terms.

    >>> small = Sample({"category": 1, "image": 2}, 5, 5, 20)
    >>> large = Sample({"category": 1, "image": 6}, 9, 9, 60)
    >>> found = extrapolate("views", "views", "image", [small, large], {"category": 15, "image": 1725})
    >>> found.seconds, found.bytes  # 3 seconds a category, 1 an image; 10 bytes an image
    (1770.0, 17250.0)
    """
    names = list(whole)
    table = np.array([[sample.terms.get(name, 0) for name in names] for sample in samples], float)
    counts = np.array([whole[name] for name in names], float)
    # columns of like size, rows of like weight
    scale = np.maximum(table.max(0), 1e-12)

    def of(values: Sequence[float]) -> float:
        prices, _ = nnls(table / scale, np.array(values, float))
        return round(float(prices / scale @ counts), 6)

    return Estimate(
        stage,
        job,
        unit,
        whole[unit],
        of([sample.seconds for sample in samples]),
        of([sample.processor for sample in samples]),
        of([sample.bytes for sample in samples]),
    )


@dataclass
class Run:
    """What is estimated, where samples lie, and what has been found so far.

    samples: by stage, with its job and its main unit; whole: the whole run's counts of its terms; failed: why
    a stage has none. told: is called with what was sampled.
    """

    settings: Settings
    folder: Path
    told: Callable[[str], object] = lambda what: None
    samples: dict[tuple[str, str, str], list[Sample]] = field(default_factory=dict)
    whole: dict[str, Terms] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def time(
        self, key: tuple[str, str, str], run: Callable[[], object], terms: Terms, whole: Terms, size: str
    ) -> None:
        """One sample of a stage; key: its name, job and main unit. After a failure it is not tried again."""
        stage = key[0]
        if stage in self.failed:
            return
        self.whole[stage] = whole
        try:
            sample = timed(run, terms, Path(self.at(size).cache_dir))
            self.samples.setdefault(key, []).append(sample)
            self.told(f"{stage}: {sample.seconds:.1f} s")
        except (*FAILURES, subprocess.SubprocessError) as error:
            self.failed[stage] = f"{type(error).__name__}: {error}"
            self.samples.pop(key, None)

    def at(self, size: str, **changes) -> Settings:
        """Settings of a sample; its datasets have the names of their roles."""
        folder = self.folder / size
        (folder / "cache").mkdir(parents=True, exist_ok=True)
        there = {path.name for path in (folder / "data").glob("*")}
        datasets = {role: role if role in there else None for role in self.settings.datasets}
        datasets |= changes.pop("datasets", {})
        options = {"data_dir": str(folder / "data"), "cache_dir": str(folder / "cache"), "limit_images": None}
        return replace(self.settings, datasets=datasets, **options, **changes)

    def estimates(self) -> list[Estimate]:
        return [extrapolate(*key, found, self.whole[key[0]]) for key, found in self.samples.items()]


def split(dataset: AnomalyDataset) -> tuple[int, int]:
    """Numbers of test and of training images."""
    train = int((dataset.meta["split"] == "train").sum())
    return len(dataset) - train, train
