"""What people call the fields of hardware and software, where their own names do not say it."""

from __future__ import annotations

# Parts of a path as they are written.
PARTS = {
    **{"inter": "inter-node", "intra": "intra-node", "nvlink": "NVLink", "infiniband": "InfiniBand"},
    **{
        name: name.upper()
        for name in ("ddr", "hbm", "cxl", "tdp", "pue", "bf16", "fp16", "fp32", "fp64", "fp8", "fp4", "tf32", "nvme",
                     "lpddr")
    },
}  # fmt: skip

# The last two parts of a path: what it is called.
FIELDS = {
    "efficiency.matrix": "matrix efficiency",
    "efficiency.matrix_fp8": "FP8 matrix efficiency",
    "efficiency.matrix_fp4": "FP4 matrix efficiency",
    "efficiency.sustained": "sustained rate",
    "efficiency.sustained_fp8": "FP8 sustained rate",
    "efficiency.sustained_fp4": "FP4 sustained rate",
    "efficiency.small_tile": "small-tile efficiency",
    "efficiency.k_overhead": "overhead of a GEMM tile",
    "efficiency.attention": "attention efficiency",
    "efficiency.attention_backward": "backward attention",
    "efficiency.attention_first": "first flash attention",
    "efficiency.unaligned": "unaligned products",
    "efficiency.misaligned": "misaligned products",
    "efficiency.memory": "memory efficiency",
    "efficiency.launch": "kernel start-up",
    "stack.stall": "host stall per layer",
    "stack.launch": "kernel launch by the host",
    "stack.attention": "the stack's attention",
    "stack.overlap": "overlap of DP comm.",
    "stack.overlap_tp": "overlap of TP comm.",
    "stack.interference": "slow-down by overlap",
    "stack.hop": "hand-over between stages",
    "stack.step_overhead": "host time of a step",
    "memory.fragmentation": "memory fragmentation",
}

# The last part of a path, with the part before it in the braces.
TAILS = {
    "loaded": "{} under load",
    "ramp": "{} pipelining",
    "own_copy": "{} own copies",
    "in_network_efficiency": "{} in-switch reduction",
    "small_efficiency": "{} small messages",
}

# Resources as shadow prices name them, in fewer words.
RESOURCES = {
    "a kernel's start-up": "kernel start-up",
    "host stalls in a pass of a layer": "host stall per layer",
    "synchronization between stages": "stage hand-over",
}


def spelled(text: str) -> str:
    """Text with the names of technologies as they are written: ``nvlink latency`` is ``NVLink latency``."""
    return " ".join(PARTS.get(word, f"({PARTS[word[1:-1]]})" if word[1:-1] in PARTS else word) for word in text.split())


def field(path: str) -> str:
    """A field by the end of its path, if it has a name of its own here; empty if not."""
    parts = [part for part in path.split(".") if not part.isdigit()]
    known = FIELDS.get(".".join(parts[-2:]))
    if known or len(parts) < 2:
        return known or ""
    if parts[-1] in TAILS:
        return TAILS[parts[-1]].format(PARTS.get(parts[-2], parts[-2].replace("_", " ")))
    return parts[-1].replace("_", " ") if parts[-2] == "stack" else ""
