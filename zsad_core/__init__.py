"""Zero-shot visual anomaly detection with CLIP: the methods behind the book."""

from typing import Any


def __getattr__(name: str) -> Any:
    # torch and open_clip take seconds to import; tables and claims need neither
    if name == "load_encoder":
        from zsad_core.encoders import load_encoder

        return load_encoder
    raise AttributeError(f"module 'zsad_core' has no attribute {name!r}")
