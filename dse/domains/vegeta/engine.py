"""Matrix engines of a core: geometry of the array, registers, and the core that feeds them.

An engine VEGETA-{D|S}-alpha-beta is a weight-stationary systolic array: A (the weights) stands in the array, B comes
from the west, C goes in at the north and out at the south. alpha columns of the output share one processing element
and its inputs (broadcast); beta multiply-adds of a column work side by side and their sums meet in an adder tree below
the array (reduction). An instruction passes four stages, named after RASA (Jeong et al., DAC 2021):

    WL  weight load   rows
    FF  feed first    tile_n                   (columns of B enter)
    FS  feed second   rows - 1                 (the last column reaches the last row)
    DR  drain         cols + log2(beta)        (outputs leave, adder tree included)

with rows = tile_k / beta and cols = tile_m / alpha, all in cycles of the engine's clock. For beta = 1 and alpha = 1
the sum is RASA's 2 T_K + T_M + T_N - 1. The names and RASA's formula are recalled with high confidence, the term of
beta with medium confidence; alpha in DR is derived.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dse.domains.vegeta.registers import registers
from dse.errors import SpecError
from dse.spec import catalogue
from dse.spec.base import Entry, Spec
from dse.spec.fields import Bytes, Count, CountOrZero, Multiple, Name, Switch, Unit, quantity

KIND = "engine"
Hertz = quantity("Hz", 1.0, 1e12)
Rate = Annotated[float, Unit("1"), Field(gt=0, le=1e6)]
Cycles = quantity("1", 0, 1e6)
Window = Annotated[Count, Field(le=4096)]


class Core(Spec):
    """The out-of-order core that issues tile instructions and loads tiles.

    Attributes:
        clock: of the core; Hz.
        issue_width: instructions that enter, and that retire, each core cycle.
        run_ahead: instructions from the oldest one that has not retired to the youngest that may have entered: a
            reorder buffer.
        load_lines: cache lines that arrive each core cycle, in program order.
        load_latency: core cycles from the first request to the first line.
        load_buffer: lines that may be asked for and not retired; 0: as many as the run-ahead allows.
        stores: ``shared``, a stored line takes the time of a loaded one on the same path; ``separate``, stores have a
            path of their own of the same rate.
        rename_registers: physical tile registers beyond the architectural ones that writes may take; None: as many
            as the run-ahead needs; 0: a write enters when the old value has been read, and all that follows after it.
        engine_order: of matrix instructions: ``program``, or ``ready``: the oldest of those that have entered and
            could start first.
    """

    clock: Hertz = 2e9
    issue_width: Count = 4
    run_ahead: Window = 97
    load_lines: Rate = 0.75
    load_latency: Cycles = 14.0
    load_buffer: CountOrZero = 0
    stores: Literal["shared", "separate"] = "shared"
    rename_registers: CountOrZero | None = None
    engine_order: Literal["program", "ready"] = "program"


class Costs(Spec):
    """What is stated of area, power and clock; the sources say how far to trust it. None: not known.

    Attributes:
        relative_to: the engine that area and power are relative to.
        area, power: multiples of that engine's.
        max_clock: the fastest that the design closes timing at; Hz.
    """

    relative_to: Name = "vegeta-d-1-1"
    area: Multiple | None = None
    power: Multiple | None = None
    max_clock: Hertz | None = None


class Engine(Entry):
    """A matrix engine; see the module's text for the geometry.

    Attributes:
        alpha: output columns that share a processing element (broadcast).
        beta: multiply-adds of an output column side by side (reduction).
        tile_m, tile_n, tile_k: rows of A, columns of B, values in a row of A of one instruction.
        block: the M of N:M.
        patterns: the N that run natively; a dense engine has the block alone.
        row_wise: whether rows of different N may share a tile (SPMM_R).
        output_forwarding: a dependent instruction takes C as it leaves the array, before it is drained.
        double_buffered: weights of the next instruction load while this one computes; else from the end of FS on.
        weight_bypass: an instruction whose weights are the last one's skips WL.
        exclusive_stages: FS and DR, too, hold one instruction at a time.
        clock: of the array; Hz.
        tile_register: bytes of a tile register (treg).
        tile_registers, metadata_registers: how many there are.
        core: that feeds the engine.
        costs: stated constants.
    """

    alpha: Count = 1
    beta: Count = 1
    tile_m: Count = 16
    tile_n: Count = 16
    tile_k: Count = 32
    block: Count = 4
    patterns: Annotated[tuple[Count, ...], Field(min_length=1, max_length=16)] = (4,)
    row_wise: Switch = False
    output_forwarding: Switch = False
    double_buffered: Switch = True
    weight_bypass: Switch = False
    exclusive_stages: Switch = False
    clock: Hertz = 0.5e9
    tile_register: Bytes = 1024.0
    tile_registers: Count = 8
    metadata_registers: CountOrZero = 8
    core: Core = Core()
    costs: Costs = Costs()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.tile_m % self.alpha:
            raise ValueError(f"alpha = {self.alpha} must divide tile_m = {self.tile_m}")
        if self.tile_k % self.beta:
            raise ValueError(f"beta = {self.beta} must divide tile_k = {self.tile_k}")
        if len(set(self.patterns)) < len(self.patterns):
            raise ValueError(f"patterns = {self.patterns} must differ from each other")
        try:
            registers(self)
        except SpecError as error:
            raise ValueError("; ".join(f"{f.path} = {f.value}: {f.rule}" for f in error.faults)) from None
        return self

    @property
    def rows(self) -> int:
        """Rows of processing elements."""
        return self.tile_k // self.beta

    @property
    def cols(self) -> int:
        """Columns of processing elements."""
        return self.tile_m // self.alpha

    @property
    def macs(self) -> int:
        """Multiply-adds a cycle."""
        return self.tile_m * self.tile_k

    @property
    def reduction(self) -> int:
        """Cycles of the adder tree: log2(beta), rounded up."""
        return (self.beta - 1).bit_length()

    @property
    def wl(self) -> int:
        """Engine cycles of WL."""
        return self.rows

    @property
    def ff(self) -> int:
        """Engine cycles of FF; at most one instruction starts in so many."""
        return self.tile_n

    @property
    def fs(self) -> int:
        """Engine cycles of FS."""
        return self.rows - 1

    @property
    def dr(self) -> int:
        """Engine cycles of DR."""
        return self.cols + self.reduction

    @property
    def latency(self) -> int:
        """Engine cycles of one instruction alone."""
        return self.wl + self.ff + self.fs + self.dr

    @property
    def dependence(self) -> int:
        """Engine cycles between the starts of FF of two instructions that add to the same C."""
        return self.rows + self.reduction if self.output_forwarding else self.ff + self.fs + self.dr


def load_engine(reference: str | Path | Mapping[str, Any] | Engine) -> Engine:
    """An engine from the catalogue, a YAML file or a mapping (with an optional ``base``).

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    return catalogue.load(Engine, KIND, dict(reference) if isinstance(reference, Mapping) else reference)


def as_engine(engine: Any) -> Any:
    """What has an engine's geometry as it is; an id, a path or a mapping through :func:`load_engine`.

    Raises:
        SpecError: it is neither.
    """
    return engine if hasattr(engine, "tile_m") else load_engine(engine)


def engines() -> list[str]:
    """Ids of the shipped engines, sorted."""
    return catalogue.ids(KIND)
