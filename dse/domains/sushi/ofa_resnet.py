"""SuperNets of bottleneck residual blocks, among them that of Once-for-All (mit-han-lab/once-for-all, MIT licence)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import model_validator

from dse.domains.sushi.supernet import (
    MOST_BLOCKS,
    Assembly,
    Config,
    Counts,
    Few,
    Knob,
    SuperNet,
    halved,
    make_divisible,
)
from dse.spec.fields import Count, CountOrZero, PositiveFraction


class ResNet(SuperNet):
    """ResNet-D with elastic depth, width and bottleneck; the defaults are ``ofa_resnet50``.

    The stem is three 3x3 convolutions, of which the middle one may be left out, and a max pooling. Each stage starts
    with a block whose shortcut is a 1x1 convolution (behind an average pooling where the stage has a stride).

    Attributes:
        stem: channels that leave the stem at width 1.
        stages: channels of each stage at width 1.
        base_depths: blocks that a stage always has.
        depths: blocks that may be added.
        expands: channels inside a block over those of its stage.
        widths: multipliers of the channels of stem and stages.
    """

    family: Literal["resnet"] = "resnet"
    stem: Count = 64
    stages: Counts = (256, 512, 1024, 2048)
    base_depths: Counts = (2, 2, 4, 2)
    depths: Annotated[tuple[CountOrZero, ...], Few] = (0, 1, 2)
    expands: Annotated[tuple[PositiveFraction, ...], Few] = (0.2, 0.25, 0.35)
    widths: Annotated[tuple[PositiveFraction, ...], Few] = (0.65, 0.8, 1.0)

    @model_validator(mode="after")
    def _each_stage(self) -> ResNet:
        if len(self.base_depths) != len(self.stages):
            raise ValueError(f"base_depths must have one entry for each of the {len(self.stages)} stages")
        if sum(self.blocks) > MOST_BLOCKS:
            raise ValueError(f"stages and depths make {sum(self.blocks)} blocks; must be {MOST_BLOCKS} or fewer")
        return self

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks that each stage has at most."""
        return tuple(base + max(self.depths) for base in self.base_depths)

    @property
    def knobs(self) -> dict[str, Knob]:
        stages = tuple(f"stage {i + 1}" for i in range(len(self.stages)))
        blocks = tuple(f"{stage} block {i + 1}" for stage, n in zip(stages, self.blocks, strict=True) for i in range(n))
        ends = (min(self.depths), max(self.depths))  # the stem has its middle convolution, or has not
        return {
            "depth": Knob(("stem", *stages), (ends,) + (self.depths,) * len(stages)),
            "expand": Knob(blocks, (self.expands,) * len(blocks)),
            "width": Knob(("stem inside", "stem", *stages), (self.widths,) * (len(stages) + 2)),
            "resolution": Knob(("image",), (self.resolutions,)),
        }

    @property
    def size(self) -> int:
        per_stage = [sum(len(self.expands) ** (base + d) for d in self.depths) for base in self.base_depths]
        widths = len(self.widths) ** (len(self.stages) + 2)
        return 2 * widths * int(np.prod(per_stage, dtype=object)) * len(self.resolutions)

    def _assemble(self, config: Config) -> Assembly:
        depth, expand, width = config["depth"], config["expand"], config["width"]
        slots, round_to = Assembly(), self.divisor
        x = config["resolution"][..., 0]
        inside = make_divisible(make_divisible(self.stem * width[..., 0], round_to) // 2, round_to)
        channels = make_divisible(self.stem * width[..., 1], round_to)
        slots.add("stem.0", inside, 3, 3, x, 2)
        x = halved(x)
        slots.add("stem.1", inside, inside, 3, x, present=depth[..., 0] == max(self.depths), shortcut=True)
        slots.add("stem.2", channels, inside, 3, x)
        x = halved(x)
        block = 0
        for stage, (base, most) in enumerate(zip(self.base_depths, self.blocks, strict=True)):
            out = make_divisible(self.stages[stage] * width[..., stage + 2], round_to)
            for i in range(most):
                stride = 2 if stage and not i else 1
                here = i < base + depth[..., stage + 1]
                inner = make_divisible(np.rint(out * expand[..., block]), round_to)
                name, y = f"stage{stage + 1}.{i}", halved(x) if stride == 2 else x
                slots.add(f"{name}.conv1", inner, channels, 1, x, present=here)
                slots.add(f"{name}.conv2", inner, inner, 3, x, stride, present=here)
                slots.add(f"{name}.conv3", out, inner, 1, y, present=here, shortcut=True)
                if not i:
                    slots.add(f"{name}.shortcut", out, channels, 1, y)
                channels, x, block = out, y, block + 1
        if "classifier" in self.counted:
            slots.add("classifier", self.classes, channels, 1, 1)
        return slots


OFA_RESNET50 = ResNet.parse({"id": "ofa-resnet50", "name": "OFA ResNet-50D"})
