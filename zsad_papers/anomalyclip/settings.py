"""The parameters that only AnomalyCLIP's notebooks have."""

from __future__ import annotations

from pydantic import Field, model_validator

from zsad_papers.common.settings import NumbersFrom1, Settings, Text, check_shipped, settings_class


@settings_class
class AnomalyclipSettings(Settings):
    prompt_model: Text = Field(
        description="of AnomalyCLIP: zsad-mini, or the name of an open_clip architecture"
    )
    prompt_weights: Text | None = Field(
        description="of AnomalyCLIP: shipped, an open_clip tag, a checkpoint file, or random"
    )
    prompt_image_size: int | None = Field(
        ge=1, description="edge of AnomalyCLIP's input in pixels (null in a profile: the model's own)"
    )
    prompt_epochs: int | None = Field(
        ge=1,
        description="epochs of all that is learned from images (null in a profile: each method's own)",
    )
    context_lengths: NumbersFrom1 = Field(description="learned words in a prompt to compare (E)")
    prompt_depths: NumbersFrom1 = Field(description="text blocks with learned tokens to compare (M)")
    token_lengths: NumbersFrom1 = Field(description="learned tokens in a text block to compare (L)")

    @model_validator(mode="after")
    def _prompt_weights_are_there(self) -> AnomalyclipSettings:
        check_shipped(self.prompt_model, self.prompt_weights, "prompt_")
        return self
