"""The edge-to-HPC continuum: stages placed from sensor to leadership machine, and how far models scale there."""

from __future__ import annotations

from dse.lazy import lazily

_HOME = {"Forecast": "scaling", "ScalingModel": "scaling", "load_scaling": "scaling", "training_hours": "anchors"}

__all__ = ["Forecast", "ScalingModel", "load_scaling", "training_hours"]

__getattr__ = lazily(__name__, _HOME)
