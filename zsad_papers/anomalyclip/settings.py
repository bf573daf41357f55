"""The parameters that only AnomalyCLIP's notebooks have."""

from zsad_papers.common.settings import NumbersFrom1, Settings, Text, parameter, settings_class


@settings_class
class AnomalyclipSettings(Settings):
    prompt_model: Text = parameter("of AnomalyCLIP: zsad-mini, or the name of an open_clip architecture")
    prompt_weights: Text | None = parameter(
        "of AnomalyCLIP: shipped, an open_clip tag, a checkpoint file, or random"
    )
    prompt_image_size: int | None = parameter(
        "edge of AnomalyCLIP's input in pixels (null in a profile: the model's own)", ge=1
    )
    epochs_share: float = parameter(
        "share of each method's own epochs (15; CoOp 50; VAND 3 on MVTec AD, else 15)",
        default=1.0,
        gt=0,
        le=1,
    )
    prompt_seeds: int = parameter(
        "how many trainings of AnomalyCLIP, its ablations, CoOp and VAND; sweeps have one", ge=1
    )
    context_lengths: NumbersFrom1 = parameter("learned words in a prompt to compare (E)")
    prompt_depths: NumbersFrom1 = parameter("text blocks with learned tokens to compare (M)")
    token_lengths: NumbersFrom1 = parameter("learned tokens in a text block to compare (L)")
