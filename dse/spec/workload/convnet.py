"""Convolutional networks: a list of convolutions (and dense layers), data-parallel."""

from __future__ import annotations

from typing import ClassVar, Literal

from dse.spec.base import Spec
from dse.spec.fields import Count, Name, Switch
from dse.spec.workload.base import Model
from dse.spec.workload.op import Array, Block, Gemm, Op, Shard, Stream


class Convolution(Spec):
    """``repeat`` equal convolutions; ``size`` is the input's height and width. A dense layer has size 1, kernel 1.

    ``norm`` adds batch normalization (two parameters a channel) and an activation; ``bias`` a bias.
    """

    name: Name
    in_channels: Count
    out_channels: Count
    kernel: Count = 1
    stride: Count = 1
    size: Count
    groups: Count = 1
    repeat: Count = 1
    norm: Switch = True
    bias: Switch = False

    @property
    def out_size(self) -> Array:
        return -(-self.size // self.stride)

    @property
    def weights(self) -> Array:
        kernel = self.kernel**2 * self.in_channels * self.out_channels / self.groups
        return kernel + (2 * self.out_channels if self.norm else 0) + (self.out_channels if self.bias else 0)

    @property
    def macs(self) -> Array:
        """Multiply-adds of one convolution over one sample ("same" padding)."""
        return self.out_size**2 * self.kernel**2 * self.in_channels * self.out_channels / self.groups

    def op(self, batch: Array, element: Array) -> Op:
        """The convolution as an implicit GEMM (batch·H·W × C·k² × filters); traffic counts the feature maps once."""
        rows = batch * self.out_size**2
        inner = self.kernel**2 * self.in_channels / self.groups
        columns = self.out_channels / self.groups
        source = batch * self.size**2 * self.in_channels * element
        result = rows * self.out_channels * element
        return Op(
            self.name,
            "convolution",
            forward=Gemm(rows, inner, columns, self.groups, element, a_bytes=source / self.groups),
            input_grad=Gemm(rows, columns, inner, self.groups, element, a_bytes=result / self.groups),
            weight_grad=Gemm(inner, rows, columns, self.groups, element, a_bytes=source / self.groups),
            weights=self.weights,
            saved=source,
        )

    def after(self, batch: Array, element: Array) -> Op:
        """Batch normalization and activation: two passes forward (statistics, then apply), three backward."""
        size = batch * self.out_size**2 * self.out_channels * element
        return Op(
            f"{self.name}_norm",
            "element_wise",
            forward=Stream(3 * size, 8 * size / element),
            input_grad=Stream(5 * size, 10 * size / element),
            saved=size,
        )


class ConvNet(Model):
    """Layers in execution order; each block of ``repeat`` equal convolutions is costed once and multiplied."""

    family: Literal["convnet"] = "convnet"
    convolutions: tuple[Convolution, ...]

    tensor_parallel: ClassVar[bool] = False

    def parameters(self) -> Array:
        return sum(layer.weights * layer.repeat for layer in self.convolutions)

    def forward_flops(self) -> Array:
        return sum(2.0 * layer.macs * layer.repeat for layer in self.convolutions)

    def lower(self, shard: Shard) -> tuple[Block, ...]:
        b, e = shard.micro_batch, shard.element
        return tuple(
            Block(layer.name, (layer.op(b, e), layer.after(b, e)) if layer.norm else (layer.op(b, e),), layer.repeat)
            for layer in self.convolutions
        )
