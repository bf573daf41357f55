"""RD4AD (Deng and Li 2022), trained on all normal images of a category: a baseline of AnomalyCLIP's Table 12.

The student learns to reproduce a frozen teacher's feature maps of normal images. An image is anomalous where
the two differ. Networks, loss and maps come from anomalib, an optional package.
"""

import tempfile
import warnings
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from zsad_core.datasets import AnomalyDataset
from zsad_core.image_features import Extractor, TileFeatures, compute_features
from zsad_core.methods import Output
from zsad_papers.baselines.backbones import Backbone

LAYERS = ("layer1", "layer2", "layer3")
EPOCHS, BATCH_SIZE, LR, BETAS, SEED = 200, 16, 0.005, (0.5, 0.99), 0
"""anomalib's values; the authors' code has them too, except for the second beta, 0.999 there."""


def train_rd4ad(normal: AnomalyDataset, backbone: Backbone, epochs: int = EPOCHS) -> nn.Module:
    """Teacher and student, trained on the normal images of one category, stretched to the backbone's size.

    backbone: the teacher, with `LAYERS`; in the paper `wide_resnet50_2` at 256 pixels.
    Raises ImportError without anomalib, ValueError for other images, layers or sizes, and
    FloatingPointError when the loss is not finite. The global random state is left as it was.
    """
    labels, categories = set(normal.labels.tolist()), normal.categories
    if labels != {0} or len(categories) != 1:
        found = f"{len(normal)} images of the categories {', '.join(categories)}, labels {sorted(labels)}"
        raise ValueError(f"{normal.name}: {found}; expected normal images (0) of one category")
    if backbone.layers != LAYERS:
        raise ValueError(f"backbone with layers {', '.join(backbone.layers)}: expected {', '.join(LAYERS)}")
    network, loss_of = _network(backbone)
    student = [*network.decoder.parameters(), *network.bottleneck.parameters()]
    optimizer, order = torch.optim.Adam(student, LR, BETAS), torch.Generator().manual_seed(SEED)
    with tempfile.TemporaryDirectory() as temporary:
        decoded = _pixels(normal, backbone, temporary)
        for epoch in tqdm(range(epochs), desc="RD4AD", leave=False):
            for rows in torch.randperm(len(normal), generator=order).split(BATCH_SIZE):
                images = np.stack([decoded[i] for i in rows.tolist()])  # (b, 3, H, W)
                pixels = torch.from_numpy(images).to(backbone.device, torch.float32)
                loss = loss_of(*network.train()(pixels))
                if not loss.isfinite():
                    raise FloatingPointError(f"loss {loss.item()} in epoch {epoch + 1}: check the images")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return network.eval().requires_grad_(False)


def rd4ad_extractor(normal: AnomalyDataset, backbone: Backbone, epochs: int = EPOCHS) -> Extractor:
    """Of images stretched to the backbone's size: `maps` (t, H, W), the sum over layers of 1 - cosine,
    upsampled and smoothed (sigma 4 pixels), and `scores` (t,), their maxima. Training starts when features
    are first computed, and not at all if `compute_features` has them cached."""
    trained = cache(lambda: train_rd4ad(normal, backbone, epochs))

    def features(pixels: Tensor) -> dict[str, Tensor]:
        height, width = backbone.image_size
        if pixels.shape[1:] != (3, height, width):
            raise ValueError(f"images {tuple(pixels.shape)}: expected (n, 3, {height}, {width})")
        found = [trained()(batch.to(backbone.device)) for batch in pixels.split(BATCH_SIZE)]
        scores = torch.cat([part.pred_score.flatten().cpu() for part in found])
        return {"scores": scores, "maps": torch.cat([part.anomaly_map[:, 0].cpu() for part in found])}

    key = {"model": backbone.backbone_id, "weights": backbone.weights_id, "normal": normal.fingerprint}
    key |= {"image_size": list(backbone.image_size), "rd4ad": 1, "epochs": epochs}
    return Extractor(key, backbone, features)


def rd4ad_detector(features: TileFeatures) -> dict[str, Output]:
    """The output "" of features of `rd4ad_extractor`."""
    return {"": Output(features.tensor("scores"), features.tensor("maps"))}


def _pixels(normal: AnomalyDataset, backbone: Backbone, folder: str) -> list[np.ndarray]:
    """Each image (3, H, W) as the teacher sees it, memory-mapped: decoded once, read in every epoch."""
    key = {"pixels": list(backbone.image_size), "transform": repr(backbone.transform)}
    extractor = Extractor(key, backbone, lambda pixels: {"pixels": pixels})
    parts = compute_features(extractor, normal, folder, whole="squash")
    return [image for part in parts for image in part.map()["pixels"]]


def _network(backbone: Backbone) -> tuple[nn.Module, nn.Module]:
    """Teacher and new student as one module, and the loss. anomalib takes seconds to import, so only here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about parts that are not used here
            from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss
            from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel
    except ImportError as error:
        raise ImportError(f"RD4AD needs anomalib ({error}): pip install '.[baselines]'") from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # torch.manual_seed would also touch the GPUs' generators
        options = (backbone.backbone_id, backbone.image_size, LAYERS, "add")
        network = ReverseDistillationModel(*options, pre_trained=False)
    teacher, given = network.encoder.feature_extractor, backbone.model.state_dict()
    teacher.load_state_dict({name: given[name] for name in teacher.state_dict()})  # no layer4, no classes
    return network.to(backbone.device), ReverseDistillationLoss()
