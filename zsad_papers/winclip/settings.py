"""The parameter that only WinCLIP's notebooks have."""

from typing import Annotated

from pydantic import Field

from zsad_papers.common.settings import Settings, parameter, settings_class

ModelAndWeights = Annotated[str, Field(pattern=r"^\s*\S+\s+\S+\s*$")]


@settings_class
class WinclipSettings(Settings):
    clip_backbones: dict[str, ModelAndWeights] = parameter(
        "CLIPs to compare, by published name: architecture, weights"
    )
