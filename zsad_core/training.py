"""Training on cached features: epochs, checkpoints, and checks of the encoder and the images."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from zsad_core.auxiliary import image_hashes
from zsad_core.cache import content_key, write_atomically
from zsad_core.datasets import AnomalyDataset
from zsad_core.devices import fast_products, one_thread
from zsad_core.encoders import ClipEncoder


@dataclass(frozen=True)
class Learned:
    """Tensors that were learned for one encoder: how, and from which images.
    parameters: by name, beginning with one of `PREFIXES`. recipe: how they were learned, as plain JSON, with
    `epochs`, `batch_size` and `seed`. trained_on: (n,) int64, `auxiliary.image_hashes` of the images. losses:
    the mean loss of each epoch. key, state: of a checkpoint, its identity and the optimizer's state."""

    KIND: ClassVar[str] = "tensors"
    PREFIXES: ClassVar[tuple[str, ...]] = ()

    parameters: dict[str, Tensor]
    recipe: dict[str, Any]
    model_id: str
    weights_id: str
    trained_on: Tensor
    losses: tuple[float, ...] = ()
    key: str = ""
    state: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """A name made of the parameters and how they were learned."""
        own = {name: hashlib.sha256(value.numpy()).hexdigest() for name, value in self.parameters.items()}
        return content_key(recipe=self.recipe, parameters=own)

    def check(self, encoder: ClipEncoder) -> None:
        """ValueError if these were learned with another encoder."""
        own, given = (f"{x.model_id}, weights {x.weights_id}" for x in (self, encoder))
        if own != given:
            advice = f"load that encoder, or learn {self.KIND} for this one"
            raise ValueError(f"these {self.KIND} were learned with {own}, not with {given}; {advice}")

    def refuse_training_images(self, dataset: AnomalyDataset) -> None:
        """ValueError if the dataset holds an image, compared by bytes, that these were learned from."""
        seen = np.isin(image_hashes(dataset), self.trained_on.numpy())
        if seen.any():
            found = f"{seen.sum()} of {len(seen)} images of {dataset.name} trained these {self.KIND}"
            found += f", the first is {dataset.meta['image'][seen].iloc[0]}"
            advice = "test on other data, or pass allow_training_images=True"
            raise ValueError(f"{found}: their scores are not zero-shot; {advice}")

    def save(self, path: str | Path) -> None:
        """Write a safetensors file in one step."""
        about = {"model": self.model_id, "weights": self.weights_id, "recipe": self.recipe}
        about |= {"losses": self.losses, **({"key": self.key} if self.key else {})}
        tensors = {**self.parameters, "trained_on": self.trained_on, **self.state}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        content = save(tensors, {"about": json.dumps(about, sort_keys=True)})
        write_atomically(path, lambda temporary: temporary.write_bytes(content))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file of `save`. Raises FileNotFoundError; ValueError if it is cut off or another file."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"no file {path} with learned {cls.KIND}")
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path} is no whole safetensors file ({error}); learn again") from error
        own = {name: value for name, value in tensors.items() if name.startswith(cls.PREFIXES)}
        known = isinstance(about, dict) and {"recipe", "model", "weights", "losses"} <= about.keys()
        if not own or not known or "trained_on" not in tensors:
            raise ValueError(f"{path} holds no learned {cls.KIND} of this book")
        if not all(value.isfinite().all() for value in own.values()):
            raise ValueError(f"{path} holds {cls.KIND} that are not finite; learn again")
        made = own, about["recipe"], about["model"], about["weights"], tensors["trained_on"]
        state = {name: value for name, value in tensors.items() if name.startswith("optimizer/")}
        return cls(*made, tuple(about["losses"]), about.get("key", ""), state)

    def trained(
        self,
        encoder: ClipEncoder,
        optimizer: type[torch.optim.Optimizer],
        options: Mapping[str, Any],
        loss_of: Callable[[dict[str, Tensor], Tensor], Tensor],
        images: AnomalyDataset,
        *,
        seeds: Sequence[int] | None = None,
        rates: Sequence[float] | None = None,
        change: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        checkpoint: str | Path | None = None,
    ) -> Self:
        """Train for the recipe's epochs.
        options: of the optimizer. loss_of: mean loss of some of the n images, from the parameters and the
            images' places (s, b); (v,) losses where v trainings run side by side on parameters (v, ...).
        seeds: s seeds of orders of the images; None: the recipe's.
        rates: the learning rate of each epoch. change: replaces the places (n,) of an epoch; it gets the
            generator of the order.
        checkpoint: a file, written after every epoch. The order depends only on the seed and the number of
            the epoch, so a resumed training gives the same result as an unbroken one.
        Raises ValueError for a checkpoint of another training, FloatingPointError for a loss or parameter
        that is not finite; the checkpoint of the last epoch stays."""
        ids = {"model": self.model_id, "weights": self.weights_id, "precision": encoder.precision}
        key, n = content_key(recipe=self.recipe, images=images.fingerprint, **ids), len(images)
        resumed = checkpoint is not None and Path(checkpoint).is_file()
        start = type(self).load(checkpoint) if resumed else replace(self, key=key)
        if start.key != key:
            other = "another training (model, recipe, images or masks differ)"
            raise ValueError(f"{checkpoint} belongs to {other}; delete it, or choose another file")
        copies = {name: start.parameters[name].to(encoder.device, copy=True) for name in self.parameters}
        parameters = {name: value.requires_grad_() for name, value in copies.items()}
        stepper, seeds = optimizer([*parameters.values()], **options), seeds or [self.recipe["seed"]]
        for name, value in start.state.items():
            parameter, entry = name.removeprefix("optimizer/").rsplit("/", 1)
            stepper.state[parameters[parameter]][entry] = value.to(encoder.device) if value.ndim else value
        losses = list(start.losses)
        epochs = range(len(losses), self.recipe["epochs"])
        for epoch in tqdm(epochs, desc=self.KIND, leave=False):
            if rates:
                stepper.param_groups[0]["lr"] = rates[epoch]
            places, total = [], 0.0
            for seed in seeds:
                order = torch.Generator().manual_seed(seed + 1_000_003 * (epoch + 1))
                own = torch.randperm(n, generator=order)
                places.append(change(own, order) if change else own)
            batches = torch.stack(places).split(self.recipe["batch_size"], dim=1)  # (s, b) each
            with one_thread(), fast_products(encoder.device):
                for step, rows in enumerate(batches, start=1):
                    loss = loss_of(parameters, rows)
                    stepper.zero_grad()
                    loss.sum().backward()
                    stepper.step()
                    if not all(value.isfinite().all() for value in (loss, *parameters.values())):
                        loss = loss.sum().item()
                        kept = f"; {checkpoint} holds the epochs before" if checkpoint and losses else ""
                        raise FloatingPointError(
                            f"the loss ({loss}) or the {self.KIND} are not finite in epoch {epoch + 1}"
                            f", step {step}: lower lr={options['lr']}, or check features and masks{kept}"
                        )
                    total = total + loss.detach().double() * rows.shape[1]
            losses.append((total / n).tolist())
            if checkpoint:
                state = {
                    f"optimizer/{name}/{entry}": torch.as_tensor(number)
                    for name, value in parameters.items()
                    for entry, number in stepper.state[value].items()
                }
                replace(start, parameters=parameters, losses=losses, state=state).save(checkpoint)
        learned = {name: value.detach().cpu() for name, value in parameters.items()}
        return replace(self, parameters=learned, losses=tuple(losses))
