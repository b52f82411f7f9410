"""How a model is spread over devices: parallel degrees, schedule, batch, sharding, recompute, offload, overlap."""

from __future__ import annotations

from itertools import permutations
from typing import Any, Literal

from pydantic import field_validator

from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Count, CountOrZero, Name, PositiveFraction, Ratio, Stage, Switch

GROUPS = ("tp", "cp", "dp", "pp")
PLACEMENTS = tuple("-".join(order) for order in permutations(GROUPS))
Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "mxfp8", "nvfp4"]


class Strategy(Spec):
    """A training strategy. Any field may become an axis of a sweep.

    ``dp`` None follows from the device count: dp = devices / (tp·pp·cp). Expert parallelism ``ep`` divides dp·cp.
    ``context`` says how ranks of cp meet each other's keys: passed around a ring, or with heads exchanged for tokens.
    ``shard_group`` above 0 shards within that many neighbouring replicas and copies between them (HSDP).
    ``placement`` lists the groups from the innermost network position outwards; experts sit innermost in dp.
    ``offload_*`` names the memory tier that holds a tensor class; ``expansion_share`` "spread" lets the footprint
    overflow into the first expansion tier with accesses spread in proportion (COMET's memory expansion).
    ``attention``: a flash kernel of the second or later generation, of the first, a fused softmax between two GEMMs,
    or plain kernels. ``execution`` selects the timing model: Megatron-style micro-batched pipelines, or COMET's loop.
    ``precision``: "fp8" scales per tensor, "mxfp8" and "nvfp4" per block; routers and logits stay in 16 bit.
    ``cuda_graphs``: the host launches whole graphs, so its launch time no longer counts. ``lora_rank`` above 0 trains
    adapters of that rank beside every linear layer and nothing else.
    ``overlap_tp`` and ``overlap_pp`` None is what the software stack does.
    ``stack`` names the software stack; by default "megatron", and "ideal" for COMET.
    """

    tp: Count = 1
    pp: Count = 1
    dp: Count | None = None
    cp: Count = 1
    ep: Count = 1
    sequence_parallel: Switch = False
    context: Literal["ring", "all_to_all"] = "ring"
    virtual_stages: Count = 1
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero_bubble_h1", "zero_bubble_h2"] = "1f1b"
    micro_batch: Count = 1
    global_batch: Count
    zero_stage: Stage = 0
    shard_group: CountOrZero = 0
    recompute: Literal["none", "selective", "full"] = "none"
    partition_checkpoints: Switch = False
    precision: Precision = "bf16"
    gradient_precision: Precision = "fp32"
    optimizer: Literal["adam", "sgd", "sgd_momentum"] = "adam"
    attention: Literal["flash", "flash1", "fused", "unfused"] = "flash"
    fused_norm: Switch = True
    cuda_graphs: Switch = False
    lora_rank: CountOrZero = 0
    capacity_factor: Ratio = 1.0
    overlap_dp: Switch = True
    overlap_tp: Switch | None = None
    overlap_pp: Switch | None = None
    overlap_ep: Switch = False
    overlap_offload: Switch = True
    overlap_efficiency: PositiveFraction = 1.0
    offload_weights: Name = "local"
    offload_gradients: Name = "local"
    offload_optimizer: Name = "local"
    offload_activations: Name = "local"
    memory_expansion: Literal["none", "spread"] = "none"
    hybrid_bandwidth: Literal["harmonic", "overlapped"] = "harmonic"
    placement: str = "tp-cp-dp-pp"
    execution: Literal["megatron", "comet"] = "megatron"
    stack: Name | None = None

    @field_validator("placement")
    @classmethod
    def _every_group_once(cls, value: str) -> str:
        if value not in PLACEMENTS:
            raise ValueError("must name tp, cp, dp and pp once each, innermost first, such as 'tp-cp-dp-pp'")
        return value


def parse_strategy(text: str) -> dict[str, Any]:
    """Split the CLI form ``"tp=8,pp=8,recompute=full"`` into a mapping.

    Raises:
        SpecError: an item is not ``name=value`` or a name is given twice.
    """
    result: dict[str, Any] = {}
    faults = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name or not value:
            faults.append(Fault("strategy", repr(item[:60]), "must be name=value"))
        elif name in result:
            faults.append(Fault(f"strategy.{name}", value[:60], "is given twice"))
        else:
            result[name] = value
    if faults:
        raise SpecError(faults)
    return result
