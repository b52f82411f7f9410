"""What every model family offers: parameters, model FLOPs, and lowering to operators."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from dse.spec.base import Entry
from dse.spec.fields import Number
from dse.spec.workload.op import Array, Block, Shard


class Model(Entry):
    """A workload. Subclasses set ``family`` and lower themselves to operators.

    ``published_parameters`` is the count its authors state; a test holds the computed one against it.
    """

    published_parameters: Number | None = None
    sample_name: ClassVar[str] = "sample"
    pipelined: ClassVar[bool] = False  # does it consist of equal layers that can be cut into stages?
    tensor_parallel: ClassVar[bool] = True

    @abstractmethod
    def parameters(self) -> Array:
        """Trainable parameters of the whole model."""

    @abstractmethod
    def forward_flops(self) -> Array:
        """Matrix FLOP of one forward pass over one sample; attention counted in full (not causal)."""

    @abstractmethod
    def lower(self, shard: Shard) -> tuple[Block, ...]:
        """Operators of one micro-batch on one device, in execution order."""

    def active_parameters(self) -> Array:
        """Parameters that one token or sample uses."""
        return self.parameters()

    @property
    def units_per_sample(self) -> Array:
        """Tokens in a sequence; 1 for models whose unit of work is the sample."""
        return 1

    @property
    def depth(self) -> Array:
        """Number of equal layers that pipeline stages divide."""
        return 1

    def divisibility(self) -> dict[str, tuple[Any, str]]:
        """What tensor parallelism must divide: name -> (size, how it is said)."""
        return {}


Family = Literal["transformer", "dlrm", "convnet", "layers"]
