"""The physical constants that are fitted to measured training runs: where each lives, its range and starting value.

A constant belongs to a generation of accelerators (a field of ``accelerator.efficiency``), to a software stack, or to
a network fabric. There are no factors of single rows, publications or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["device", "stack", "up", "out"]
# Stacks that take over from another what they do not state themselves.
FAMILY = {"megatron-deepspeed": "megatron-classic", "fsdp-fused": "fsdp"}
SCALE_OUT = ("infiniband", "roce", "omni_path", "ethernet", "efa")


@dataclass(frozen=True)
class Constant:
    """One constant: ``kind`` device, stack, ``up`` (a fabric inside nodes) or ``out`` (between them)."""

    kind: Kind
    owner: str  # a generation, a stack, a fabric; "*" is all
    field: str
    start: float
    low: float
    high: float

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.owner}.{self.field}"


def _each(kind: Kind, owners: tuple[str, ...], **fields: tuple[float, float, float]) -> list[Constant]:
    return [Constant(kind, owner, name, *values) for owner in owners for name, values in fields.items()]


def _stack(owner: str, *, norm: float, activation: float, rotary: float, accumulation: float = 0.3) -> list[Constant]:
    """What every stack has. Starting passes follow from counting the reads and writes of its kernels."""
    return _each(
        "stack",
        (owner,),
        norm_passes=(norm, 1.0, 1.6 * norm),
        activation_passes=(activation, 1.0, 2.0 * activation),
        rotary_passes=(rotary, 1.0, 2.0 * rotary),
        gradient_accumulation=(accumulation, 0.3 * accumulation, 2.0 * accumulation),
        loss_passes=(1.5, 1.0, 3.0),
        optimizer_passes=(1.3, 1.0, 6.0),
        launch=(6e-6, 2e-6, 20e-6),
        step_overhead=(0.02, 0.001, 0.3),
    )


GENERATIONS = ("ampere", "hopper", "blackwell", "blackwell_ultra")


def constants() -> list[Constant]:
    """All constants, in a stated order: (start, low, high)."""
    return [
        *_each("device", GENERATIONS, sustained=(0.9, 0.75, 1.0), memory=(0.82, 0.7, 0.93)),
        *_each("device", ("ampere",), attention=(0.6, 0.35, 0.75)),
        *_each("device", ("hopper",), attention=(0.55, 0.3, 0.8), sustained_fp8=(0.85, 0.6, 1.0)),
        *_each(
            "device",
            ("blackwell", "blackwell_ultra"),
            attention=(0.5, 0.25, 0.8),
            sustained_fp8=(0.85, 0.6, 1.0),
            sustained_fp4=(0.7, 0.4, 1.0),
        ),
        *_each(
            "device",
            ("*",),
            attention_backward=(0.8, 0.55, 1.0),
            attention_first=(0.75, 0.5, 1.0),
            unaligned=(0.8, 0.4, 1.0),
            misaligned=(0.5, 0.1, 1.0),
        ),
        *_stack("megatron", norm=1.5, activation=1.5, rotary=1.5),
        *_stack("megatron-classic", norm=1.5, activation=1.5, rotary=2.0),
        # No fused accumulation of weight gradients: a kernel of its own reads and writes the 32-bit buffer.
        *_stack("eager-3d", norm=2.5, activation=1.8, rotary=4.0, accumulation=1.0),
        *_stack("fsdp", norm=2.5, activation=1.8, rotary=4.0),
        *_each("stack", ("megatron", "fsdp"), overlap=(0.6, 0.1, 1.0), interference=(0.1, 0.01, 0.5)),
        *_each("stack", ("megatron", "megatron-classic", "eager-3d"), hop=(20e-6, 1e-6, 300e-6)),
        *_each("stack", ("megatron", "megatron-classic", "eager-3d", "fsdp"), stall=(5e-5, 1e-6, 5e-3)),
        # DeepSpeed's checkpoints synchronize with the device to save and restore random states.
        *_each("stack", ("megatron-deepspeed",), stall=(1e-3, 1e-5, 1e-2)),
        *_each(
            "stack",
            ("megatron",),
            overlap_tp=(0.5, 0.1, 0.95),
            permute_passes=(2.0, 1.0, 8.0),
            cast_fp8=(1.5, 0.7, 5.0),
            cast_mxfp8=(2.0, 0.7, 6.0),
            cast_nvfp4=(2.0, 0.6, 8.0),
        ),
        *_each("stack", ("megatron-classic", "eager-3d"), softmax_passes=(1.8, 1.0, 4.0)),
        *_each("stack", ("eager-3d",), norm_passes_unfused=(10.0, 5.0, 20.0), softmax_passes_unfused=(5.0, 2.0, 10.0)),
        *_each(
            "stack",
            ("fsdp-fused",),  # one kernel each, as the definition of a pass has it
            norm_passes=(1.1, 1.0, 2.0),
            activation_passes=(1.1, 1.0, 2.0),
            rotary_passes=(1.1, 1.0, 2.0),
            attention=(1.0, 0.6, 1.0),
        ),
        *_each("stack", ("fsdp", "eager-3d"), attention=(0.7, 0.3, 1.0)),
        *_each("up", ("nvlink3", "nvlink4", "nvlink5"), loaded=(0.95, 0.7, 1.0)),
        *_each("out", ("infiniband", "roce", "omni_path"), loaded=(0.75, 0.25, 1.0), jitter=(0.004, 0.0005, 0.04)),
    ]
