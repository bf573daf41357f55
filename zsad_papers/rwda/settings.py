"""The parameters that only RWDA's notebooks have."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from zsad_core.prompts import ALPHABETS
from zsad_papers.common.settings import NumbersFrom1, NumbersFrom2, Settings, Text, settings_class


@settings_class
class RwdaSettings(Settings):
    seeds: int = Field(ge=1, description="how many seeds; every mean and standard deviation is over these")
    n_pairs: int = Field(ge=2, description="random-word prompt pairs that train one FNN (N_p)")
    pool_pairs: int = Field(ge=2, description="prompt pairs embedded once; each seed draws from them")
    pair_counts: NumbersFrom2 = Field(description="training-set sizes to compare, in pairs")
    batch_size: int = Field(ge=2, description="embeddings in one training batch, two for each pair")
    epochs: int = Field(ge=1, description="passes over the training pairs")
    lr: float = Field(gt=0, description="learning rate of the first epoch")
    weight_decay: float = Field(ge=0, description="weight decay of AdamW")
    dropout: float = Field(ge=0, lt=1, description="dropout rate in the FNN")
    alphabet: Literal[*ALPHABETS] = Field(description="symbols of the random words")
    hidden: NumbersFrom1 = Field(description="widths of the FNN's hidden layers")
    captions_file: Text | None = Field(
        description="COCO captions JSON (null in a profile: this project's own sentences)"
    )
    tsne_points: int = Field(ge=10, description="embeddings of each kind in a t-SNE plot")

    @model_validator(mode="after")
    def _pool_is_large_enough(self) -> RwdaSettings:
        needed = max(self.n_pairs, *self.pair_counts)
        if self.pool_pairs < needed:
            raise ValueError(
                f"pool_pairs = {self.pool_pairs} is less than {needed}, the largest of n_pairs and "
                "pair_counts: raise pool_pairs or lower the others"
            )
        return self
