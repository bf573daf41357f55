"""The parameters that only RWDA's notebooks have."""

from typing import Literal, Self

from pydantic import model_validator

from zsad_core.prompts import ALPHABETS
from zsad_papers.common.settings import NumbersFrom1, NumbersFrom2, Settings, Text, parameter, settings_class


@settings_class
class RwdaSettings(Settings):
    seeds: int = parameter("how many seeds; every mean and standard deviation is over these", ge=1)
    n_pairs: int = parameter("random-word prompt pairs that train one FNN (N_p)", ge=2)
    pool_pairs: int = parameter("prompt pairs embedded once; each seed draws from them", ge=2)
    pair_counts: NumbersFrom2 = parameter("training-set sizes (in pairs)")
    batch_size: int = parameter("embeddings in one training batch, two for each pair", ge=2)
    epochs: int = parameter("passes over the training pairs", ge=1)
    lr: float = parameter("learning rate of the first epoch", gt=0)
    weight_decay: float = parameter("weight decay of AdamW", ge=0)
    dropout: float = parameter("dropout rate in the FNN", ge=0, lt=1)
    alphabet: Literal[*ALPHABETS] = parameter("symbols of the random words")
    hidden: NumbersFrom1 = parameter("widths of the FNN's hidden layers")
    captions_file: Text | None = parameter("COCO captions JSON (null: this project's own sentences)")
    tsne_points: int = parameter("embeddings of each kind in a t-SNE plot", ge=10)

    @model_validator(mode="after")
    def _pool_is_large_enough(self) -> Self:
        needed = max(self.n_pairs, *self.pair_counts)
        if self.pool_pairs < needed:
            raise ValueError(
                f"pool_pairs = {self.pool_pairs} is less than {needed}, the largest of n_pairs and "
                "pair_counts: raise pool_pairs or lower the others"
            )
        return self
