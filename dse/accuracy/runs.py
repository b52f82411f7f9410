"""One row of a table of training runs as the designs it may stand for.

The columns are documented in ``data/measured/dictionary.yaml``. What a row leaves blank becomes a choice between what
is plausible; what the cost model cannot express is refused with a reason. Nothing is guessed silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from dse.errors import SpecError
from dse.spec import Strategy, load_cluster, load_model, load_stack
from dse.spec.hardware import Cluster
from dse.spec.stack import Stack
from dse.spec.workload import Transformer

# The cluster that an accelerator of the corpus is taken to sit in, unless the row says otherwise.
CLUSTERS = {
    "V100-32GB": "dgx2-v100-32gb",
    "V100-16GB": "dgx1-v100",
    "A100-80GB": "dgx-a100",
    "A100": "dgx-a100",
    "A100-40GB": "dgx-a100-40gb",
    "H100-80GB": "dgx-h100",
    "H100": "dgx-h100",
    "H200": "dgx-h200",
    "B200": "dgx-b200",
    "B300": "dgx-b300",
    "GB200": "gb200-nvl72",
    "GB300": "gb300-nvl72",
    "L40S": "l40s-pcie",
    "Gaudi2-96GB": "gaudi2-pod",
    "Gaudi3": "gaudi3-pod",
    "MI300X": "mi300x-pod",
    "MI325X": "mi325x-pod",
    "MI355X": "mi355x-pod",
    "TPUv3": "tpu-v3-pod",
    "TPUv4": "tpu-v4-pod",
    "TPUv5e": "tpu-v5e-pod",
    "TPUv5p": "tpu-v5p-pod",
    "TPUv6e": "tpu-v6e-pod",
    "TPUv7": "tpu-v7-pod",
}
# Sites whose network differs, by what the row says of where it ran.
SITES = {
    ("Jean Zay", "A100-80GB"): "jean-zay-a100",
    ("Aleph Alpha", "A100-80GB"): "a100-cloud-200g",
    ("node RoCE", "A100-80GB"): "a100-roce-1600g",
    ("node RoCE", "A100-40GB"): "a100-40gb-roce-1600g",
    ("node RoCE", "H100-80GB"): "h100-roce-1600g",
}
SHARDING = {"none": 0, "zero1": 1, "zero2": 2, "zero3": 3, "fsdp": 3}
PRECISION = ("bf16", "fp16", "fp32", "fp8", "mxfp8", "nvfp4")
MODELS = {
    "DeepSeek-V3": "deepseek-v3",
    "Kimi-K2": "kimi-k2",
    "GPT-OSS-120B": "gpt-oss-120b",
    "GPT-OSS-20B": "gpt-oss-20b",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
    "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Mixtral-8x7B": "mixtral-8x7b",
    "Mixtral-8x22B": "mixtral-8x22b",
    "Grok1-314B": "grok-1",
    "Llama4-Scout": "llama4-scout",
    "Llama4-Maverick": "llama4-maverick",
}
# The run's own record of its attention kernel, as the notes write it.
KERNELS = {
    "kernel=flash_attention2": "flash",
    "kernel=flash_attentionv1": "flash1",
    "kernel=fused": "fused",
    "kernel=torch": "unfused",
}
NEEDED = ("layers", "hidden", "ffn_hidden", "vocab", "seq_len", "n_gpus", "tp", "pp")
MICRO_BATCHES = (1, 2, 4, 8)
VIRTUAL_STAGES = (1, 2, 4)
LORA_RANK = 16
# Code bases that shard fully but run fused or compiled kernels.
FUSED_FSDP = ("tinyllama", "torchtitan", "litgpt", "torch.compile", "fused kernels")
# Code bases and recipes that accumulate and reduce gradients in the weights' own 16 bit.
NARROW_GRADIENTS = ("MP mode PURE", "Aleph Alpha", "nemo", "megatron-bridge", "dgxc")


@dataclass(frozen=True)
class Run:
    """One design that a row may stand for.

    ``chosen`` holds what the row leaves blank and was filled in; alternatives of one row share its ``id``.
    """

    id: str
    model: Transformer
    cluster: Cluster
    strategy: Strategy
    stack: Stack
    chosen: dict[str, Any] = field(default_factory=dict)


class Row:
    """A table row with typed access; blanks are None."""

    def __init__(self, row: Any) -> None:
        self._row = row
        self.id = str(row.id)
        self._said = f"{self.text('notes')} {self.text('source')} {self.text('source_key')}".lower()

    def text(self, name: str) -> str:
        value = getattr(self._row, name, None)
        return "" if value is None or value != value else str(value).strip()

    def number(self, name: str, default: float | None = None) -> float | None:
        value = getattr(self._row, name, None)
        if value is None or value != value or value == "":
            return default
        try:
            return float(value)
        except (TypeError, ValueError):
            raise SpecError(f"{name} = {str(value)[:40]!r} is not a number") from None

    def switch(self, name: str) -> bool:
        return self.text(name).lower() in ("true", "1", "1.0", "yes")

    def says(self, *words: str) -> bool:
        """Whether notes or source name one of these."""
        return any(word.lower() in self._said for word in words)


def runs_of(table_row: Any) -> list[Run]:
    """The designs that one row may stand for: one, or several where it leaves something blank.

    Raises:
        SpecError: what the row lacks, or what the cost model cannot express.
    """
    row = Row(table_row)
    _refuse(row)
    model, cluster, stack = _model(row), _cluster(row), load_stack(stack_of(row))
    found = []
    for chosen in _alternatives(row, model):
        try:
            found.append(Run(row.id, model, cluster, _strategy(row, chosen), stack, chosen))
        except SpecError:
            if not chosen:
                raise
    if not found:
        raise SpecError("no legal layout for what the row leaves blank")
    return found


def _refuse(row: Row) -> None:
    if row.text("arch") not in ("dense", "moe", "mla_moe", ""):
        raise SpecError(f"architecture {row.text('arch')!r} is not modelled (state-space layers)")
    lacking = [name for name in NEEDED if row.number(name) is None]
    if lacking:
        raise SpecError(f"blank: {', '.join(lacking)}")
    if row.number("global_batch") is None and row.number("micro_batch") is None:
        raise SpecError("blank: global_batch and micro_batch")
    if row.text("task") not in ("pretrain", "sft", "lora", ""):
        raise SpecError(f"task {row.text('task')!r} is not modelled")
    if row.text("gpu") not in CLUSTERS:
        raise SpecError(f"GPU {row.text('gpu')!r} is not in the catalogue")
    if row.text("precision") not in (*PRECISION, ""):
        raise SpecError(f"precision {row.text('precision')!r} is not modelled")
    if row.text("sharding") not in (*SHARDING, ""):
        raise SpecError(f"sharding {row.text('sharding')!r} is not modelled")
    degrees = [row.number(name, 1) or 1.0 for name in ("tp", "pp", "cp")]
    ranks, devices = degrees[0] * degrees[1] * degrees[2] * _replicas(row), row.number("n_gpus") or 1.0
    if abs(ranks - devices) > 1e-6 * devices:
        raise SpecError(f"tp·pp·cp·dp = {ranks:g} is not the {devices:g} devices")
    if row.says("CPU offload of activations/optimizer", "Offload (CPU)"):
        raise SpecError("offload whose placement is not given")


# -- hardware and software --------------------------------------------------------------------------------------


def cluster_id(row: Row) -> str:
    """The cluster a row ran on: its site where the row names one, else the usual one of its accelerator."""
    gpu = row.text("gpu")
    for (site, there), cluster in SITES.items():
        if gpu == there and (row.says(site) or (site == "Jean Zay" and row.says("bigscience", "bloom-176b"))):
            return cluster
    if gpu == "A100-40GB" and row.number("gpus_per_node") == 4:
        return "a100-40gb-4x-200g"
    return CLUSTERS[gpu]


def _cluster(row: Row) -> Cluster:
    return load_cluster(cluster_id(row)).replace(devices=row.number("n_gpus"))


def stack_of(row: Row) -> str:
    """Software stack: XLA on TPUs and under JAX, FSDP-class, Megatron of the Volta and Ampere years or of today's
    kind, or plain PyTorch kernels under the same parallelism (rows that name their attention kernel)."""
    if row.says("jax", "maxtext", "paxml", "-pax") or row.text("gpu").startswith("TPU"):
        return "xla"
    modern = row.says("nemo", "megatron-bridge", "dgxc") and not row.says("aleph alpha")
    if row.text("sharding") in ("fsdp", "zero3", "zero2") and not modern:
        return "fsdp-fused" if row.says(*FUSED_FSDP) else "fsdp"
    if row.says("aleph alpha", *KERNELS):
        return "eager-3d"
    if row.says("megatron-deepspeed", "jean zay"):
        return "megatron-deepspeed"
    classic = row.text("gpu").startswith(("V100", "A100")) and not modern
    return "megatron-classic" if classic else "megatron"


# -- model ------------------------------------------------------------------------------------------------------


def _model(row: Row) -> Transformer:
    shape = {name: row.number(name) for name in ("layers", "hidden", "heads", "ffn_hidden", "vocab", "seq_len")}
    shape["heads"] = shape["heads"] or _usual_heads(row)
    known = MODELS.get(row.text("model"))
    if known:
        return _catalogue_model(known, row)
    if row.text("arch") == "mla_moe":
        raise SpecError(f"the latent attention of {row.text('model')!r} has columns that the table lacks")
    gated = row.switch("gated_mlp")
    heads, hidden = shape["heads"] or 1.0, shape["hidden"] or 1.0
    data: dict[str, Any] = {
        "id": "row",
        **shape,
        "kv_heads": row.number("kv_heads", heads),
        "head_dim": row.number("head_dim", hidden / heads),
        "gated_mlp": gated,
        "norm": "rms_norm" if gated else "layer_norm",
        "bias": not gated and not row.says("llm-foundry"),
        "positions": "rotary" if gated else "alibi" if row.says("llm-foundry", "alibi") else "learned",
        "tied_embeddings": not gated,
        "dropout": stack_of(row).startswith("megatron-") and not gated,
    }
    if row.text("arch") == "moe":
        if row.number("moe_experts") is None or row.number("moe_topk") is None:
            raise SpecError("blank: moe_experts or moe_topk")
        data["moe"] = {"experts": row.number("moe_experts"), "top_k": row.number("moe_topk"),
                       "hidden": shape["ffn_hidden"]}  # fmt: skip
    return Transformer.parse(data)


def _usual_heads(row: Row) -> float:
    """Heads of about 128 elements that the tensor-parallel ranks can share."""
    hidden, tp = int(min(row.number("hidden") or 1, 1e6)), int(row.number("tp") or 1)
    legal = [heads for heads in range(tp, hidden // 32 + 1, tp) if hidden % heads == 0]
    if not legal:
        raise SpecError("blank: heads")
    return float(min(legal, key=lambda heads: abs(hidden / heads - 128)))


def _catalogue_model(known: str, row: Row) -> Transformer:
    """A mixture of experts by its name, with the row's own depth and sequence."""
    model = load_model(known)
    layers = int(row.number("layers") or model.layers)
    change: dict[str, Any] = {"layers": layers, "seq_len": row.number("seq_len"), "published_parameters": None}
    change.update(kv_heads=model.groups, head_dim=model.width)
    if model.moe is not None and model.moe.dense_layers > layers:
        change["moe"] = {"dense_layers": 0}
    return model.replace(**change)


# -- strategy ---------------------------------------------------------------------------------------------------


def _alternatives(row: Row, model: Transformer) -> Iterator[dict[str, Any]]:
    """All fillings of what the row leaves blank."""
    free: dict[str, tuple[Any, ...]] = {}
    if row.text("recompute") not in ("none", "selective", "full"):
        free["recompute"] = ("none", "full")
    if not row.text("sharding") and row.number("dp", 1) != 1 and stack_of(row).startswith("fsdp"):
        free["zero_stage"] = (2, 3)
    if row.number("micro_batch") is None:
        free["micro_batch"] = MICRO_BATCHES
    if row.number("vpp") is None and (row.number("pp") or 1) > 1 and row.says("interleaved"):
        stage = model.layers / (row.number("pp") or 1)
        free["virtual_stages"] = tuple(v for v in VIRTUAL_STAGES if stage % v == 0) or (1,)
    for values in product(*free.values()):
        yield dict(zip(free, values, strict=True))


def _strategy(row: Row, chosen: dict[str, Any]) -> Strategy:
    stack = stack_of(row)
    modern, parallel = stack == "megatron", (row.number("tp") or 1) > 1
    kernel = next((name for mark, name in KERNELS.items() if row.says(mark)), None)
    default = "flash" if modern or stack in ("fsdp", "fsdp-fused", "xla") else "fused"
    if row.says("llm-foundry"):  # a Triton kernel of the first flash attention, with linear biases
        default = "flash1"
    dp = _replicas(row)
    data: dict[str, Any] = {
        "tp": row.number("tp"),
        "pp": row.number("pp"),
        "dp": dp,
        "cp": row.number("cp", 1),
        "ep": row.number("ep", 1) if row.text("arch") in ("moe", "mla_moe") else 1,
        "micro_batch": row.number("micro_batch"),
        "virtual_stages": row.number("vpp", 1),
        "sequence_parallel": row.switch("seq_parallel") or (modern and parallel and not row.text("seq_parallel")),
        "recompute": row.text("recompute"),
        "zero_stage": SHARDING.get(row.text("sharding"), 1 if modern or stack == "xla" else 0),
        "shard_group": _shard_group(row),
        "precision": row.text("precision") or "bf16",
        "gradient_precision": _gradients(row),
        "attention": kernel or default,
        "fused_norm": kernel is None or row.says("RMS kernel"),
        "cuda_graphs": row.says("cuda_graph=full_iteration", "cuda_graph=transformer_engine:['attn'"),
        "overlap_tp": modern and parallel,
        "overlap_pp": modern and row.number("vpp", 1) > 1,
        "overlap_ep": row.says("EP a2a overlap"),
        "overlap_dp": modern or stack in ("fsdp", "fsdp-fused", "xla"),
        "lora_rank": LORA_RANK if row.text("task") == "lora" else 0,
        "stack": stack,
    }
    data.update(chosen)
    data["global_batch"] = row.number("global_batch") or (row.number("micro_batch") or 1) * dp
    return Strategy.parse(data)


def _replicas(row: Row) -> float:
    given = row.number("dp")
    if given is not None:
        return given
    return (row.number("n_gpus") or 1) / ((row.number("tp") or 1) * (row.number("pp") or 1) * row.number("cp", 1))


def _shard_group(row: Row) -> float:
    """Replicas that share one copy of the states, where the notes say "FSDP=64"."""
    found = re.search(r"FSDP=(\d+)", row.text("notes"))
    return min(float(found.group(1)), _replicas(row)) if found else 0.0


def _gradients(row: Row) -> str:
    """Gradients are reduced in 32 bit, but in 16 by loss-scaled FP16 runs and by code bases that say so."""
    half = row.text("precision") == "fp16" and row.text("gpu").startswith(("V100", "A100"))
    return "fp16" if half else "bf16" if row.says(*NARROW_GRADIENTS) else "fp32"
