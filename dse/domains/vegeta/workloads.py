"""Layers as matrix products: those of the published study, and any convolution through im2col."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Count, Name, Text
from dse.spec.load import read_yaml


class Layer(Spec):
    """C = A B of a layer: A holds the weights.

    A convolution is given by its ``kernels``, ``channels``, and ``size`` and ``window`` (of a square output and
    kernel); m = kernels, n = size², k = channels · window² then.

    Attributes:
        name: of the layer.
        kind: the network it belongs to.
        confidence: in that these are the sizes of the study.
        m, n, k: rows of A, columns of B, columns of A.
    """

    name: Name
    kind: Name = "layer"
    confidence: Literal["high", "medium", "low", "own"] = "own"
    m: Count
    n: Count
    k: Count
    kernels: Count | None = None
    channels: Count | None = None
    size: Count | None = None
    window: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _unrolled(cls, data: Any) -> Any:
        given = {"kernels", "channels", "size", "window"}
        if not isinstance(data, dict) or not given & data.keys():
            return data
        if not given <= data.keys() or {"m", "n", "k"} & data.keys():
            raise ValueError("give m, n and k, or kernels, channels, size and window")
        kernels, channels, size, window = (data[name] for name in ("kernels", "channels", "size", "window"))
        if not all(isinstance(value, int) for value in (kernels, channels, size, window)):
            raise ValueError("kernels, channels, size and window must be whole numbers")
        return {**data, "m": kernels, "n": size * size, "k": channels * window * window}

    @property
    def flops(self) -> float:
        """Operations of the dense product."""
        return 2.0 * self.m * self.n * self.k


class Layers(Spec):
    """A file of layers."""

    source: Text = ""
    layers: tuple[Layer, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _named_apart(self) -> Self:
        names = [layer.name for layer in self.layers]
        twins = sorted({name for name in names if names.count(name) > 1})
        if twins:
            raise ValueError(f"layers of the same name: {', '.join(twins)}")
        return self


def layers(path: str | Path | None = None) -> list[Layer]:
    """Layers of a YAML file; by default those of the published study, as far as they are remembered.

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    return list(_read(Path(path) if path else asset_root("data") / "vegeta" / "layers.yaml").layers)


@lru_cache(maxsize=8)
def _read(path: Path) -> Layers:
    data, lines = read_yaml(path)
    return Layers.parse(data, where=str(path), lines=lines)
