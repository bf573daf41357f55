"""The parameters that only AnomalyCLIP's notebooks have."""

from zsad_papers.common.settings import NumbersFrom1, Settings, Text, parameter, settings_class


@settings_class
class AnomalyclipSettings(Settings):
    prompt_model: Text = parameter("AnomalyCLIP's: zsad-mini or an open_clip architecture")
    prompt_weights: Text | None = parameter("AnomalyCLIP's: shipped, open_clip tag, file or random")
    prompt_image_size: int | None = parameter("AnomalyCLIP's input edge in pixels (null: the model's)", ge=1)
    epochs_share: float = parameter(
        "share of a method's epochs (15; CoOp 50; VAND 3 or 15)", default=1.0, gt=0, le=1
    )
    prompt_seeds: int = parameter("trainings of AnomalyCLIP, its ablations, CoOp, VAND; sweeps: 1", ge=1)
    context_lengths: NumbersFrom1 = parameter("learned words in a prompt to compare (E)")
    prompt_depths: NumbersFrom1 = parameter("text blocks with learned tokens to compare (M)")
    token_lengths: NumbersFrom1 = parameter("learned tokens in a text block to compare (L)")
