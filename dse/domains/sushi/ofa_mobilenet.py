"""SuperNets of inverted residual blocks, among them those of Once-for-All (mit-han-lab/once-for-all, MIT licence)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import model_validator

from dse.domains.sushi.supernet import (
    MOST_BLOCKS,
    Assembly,
    Config,
    Counts,
    Knob,
    Part,
    SuperNet,
    halved,
    make_divisible,
)
from dse.spec.fields import Count, Multiple, Switch


class MobileNet(SuperNet):
    """MobileNetV3 with elastic depth, expansion and kernel size; the defaults are ``ofa_mbv3_d234_e346_k357_w1.0``.

    A block widens by a 1x1 convolution, filters each channel by itself, weights channels by squeeze-and-excitation in
    some stages, and narrows by a 1x1 convolution. Behind the first convolution stands one block that does not widen.

    Attributes:
        width: multiplier of all channels.
        stem: channels of the first convolution.
        first: channels of the block behind it.
        stages: channels of each stage.
        strides: of the first block of each stage.
        squeeze_excites: whether the blocks of each stage have squeeze-and-excitation.
        final_expand: channels of the last convolution.
        feature_mix: channels of the layer behind the average pooling.
        depths: blocks of a stage.
        expands: channels inside a block over those that enter it.
        kernels: heights and widths of the filters.
    """

    family: Literal["mobilenet"] = "mobilenet"
    width: Multiple = 1.0
    stem: Count = 16
    first: Count = 16
    stages: Counts = (24, 40, 80, 112, 160)
    strides: Counts = (2, 2, 2, 1, 2)
    squeeze_excites: tuple[Switch, ...] = (False, True, False, True, True)
    final_expand: Count = 960
    feature_mix: Count = 1280
    depths: Counts = (2, 3, 4)
    expands: Counts = (3, 4, 6)
    kernels: Counts = (3, 5, 7)
    counted: tuple[Part, ...] = ("final-expand", "feature-mix", "classifier")

    @model_validator(mode="after")
    def _each_stage(self) -> MobileNet:
        for field in ("strides", "squeeze_excites"):
            if len(getattr(self, field)) != len(self.stages):
                raise ValueError(f"{field} must have one entry for each of the {len(self.stages)} stages")
        if self.blocks > MOST_BLOCKS:
            raise ValueError(f"stages and depths make {self.blocks} blocks; must be {MOST_BLOCKS} or fewer")
        return self

    @property
    def blocks(self) -> int:
        """Blocks of all stages at their deepest."""
        return len(self.stages) * max(self.depths)

    @property
    def knobs(self) -> dict[str, Knob]:
        stages = tuple(f"stage {i + 1}" for i in range(len(self.stages)))
        blocks = tuple(f"{stage} block {i + 1}" for stage in stages for i in range(max(self.depths)))
        return {
            "depth": Knob(stages, (self.depths,) * len(stages)),
            "expand": Knob(blocks, (self.expands,) * len(blocks)),
            "kernel": Knob(blocks, (self.kernels,) * len(blocks)),
            "resolution": Knob(("image",), (self.resolutions,)),
        }

    @property
    def size(self) -> int:
        per_block = len(self.expands) * len(self.kernels)
        return sum(per_block**depth for depth in self.depths) ** len(self.stages) * len(self.resolutions)

    def _assemble(self, config: Config) -> Assembly:
        slots = Assembly()
        image = config["resolution"][..., 0]
        x = halved(image)
        channels, first = self._wide(self.stem), self._wide(self.first)
        slots.add("stem", channels, 3, 3, image, 2)
        slots.add("first.depthwise", channels, 1, 3, x, groups=channels)
        slots.add("first.project", first, channels, 1, x, shortcut=first == channels)
        channels, block = first, 0
        for stage in range(len(self.stages)):
            for i in range(max(self.depths)):
                here = i < config["depth"][..., stage]
                expand, r = config["expand"][..., block], config["kernel"][..., block]
                x = self._add_block(slots, stage, i, channels, expand, r, x, here)
                channels, block = self._wide(self.stages[stage]), block + 1
        self._add_head(slots, channels, x)
        return slots

    def _add_block(
        self, slots: Assembly, stage: int, i: int, channels: int, expand: np.ndarray, r: np.ndarray, x: np.ndarray, here
    ) -> np.ndarray:
        """Add the slots of a block; returns the height and width that leave it."""
        name, stride = f"stage{stage + 1}.{i}", self.strides[stage] if i == 0 else 1
        inner, y = make_divisible(np.rint(channels * expand), self.divisor), -(-x // stride)
        slots.add(f"{name}.expand", inner, channels, 1, x, present=here)
        slots.add(f"{name}.depthwise", inner, 1, r, x, stride, groups=inner, present=here)
        if self.squeeze_excites[stage] and "squeeze-excite" in self.counted:
            squeezed = make_divisible(inner // 4, self.divisor)
            slots.add(f"{name}.squeeze", squeezed, inner, 1, 1, present=here)
            slots.add(f"{name}.excite", inner, squeezed, 1, 1, present=here)
        out = self._wide(self.stages[stage])
        slots.add(f"{name}.project", out, inner, 1, y, present=here, shortcut=stride == 1 and out == channels)
        return y

    def _add_head(self, slots: Assembly, channels: int, x: np.ndarray) -> None:
        final, mixed = self._wide(self.final_expand), self._wide(self.feature_mix)
        if "final-expand" in self.counted:
            slots.add("final-expand", final, channels, 1, x)
        if "feature-mix" in self.counted:
            slots.add("feature-mix", mixed, final, 1, 1)
        if "classifier" in self.counted:
            slots.add("classifier", self.classes, mixed, 1, 1)

    def _wide(self, channels: int) -> int:
        return int(make_divisible(np.asarray(channels * self.width), self.divisor))


OFA_MOBILENETV3 = MobileNet.parse({"id": "ofa-mobilenetv3", "name": "OFA MobileNetV3"})
OFA_MOBILENETV3_WIDE = MobileNet.parse(
    {"id": "ofa-mobilenetv3-w1.2", "name": "OFA MobileNetV3, width 1.2", "width": 1.2,
     "resolutions": tuple(range(160, 225, 4))}
)  # fmt: skip
