"""Nodes as tokens: what a node does, without its name and without absolute sizes, so that traces can share tokens."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dse.trace.columns import Trace
from dse.trace.schema import Collective, Kind

MEMORY = (Kind.MEM_LOAD, Kind.MEM_STORE)
MESSAGES = (Kind.SEND, Kind.RECV)
NO_BIN = -99
# Public words of operator names -> family; the first that matches counts. A family says what kind of work it is and
# nothing about whose.
FAMILIES = (
    ("optimizer", "adam|sgd|optim|zero_grad"),
    ("gradient", "grad(?!_norm)|accumulate"),
    ("norm", "norm"),
    ("attention", "attn_kernel|attention|sdpa|flash|softmax"),
    ("matmul", "mm\\b|gemm|linear|matmul|proj|ffn|mlp|mha|qkv|attn|addmm|bmm|dense"),
    ("convolution", "conv"),
    ("embedding", "emb"),
    ("loss", "loss|entropy|nll"),
    ("activation", "gelu|relu|silu|swish|sigmoid|tanh"),
    ("copy", "copy|memcpy|transpose|permute|view|reshape|cat\\b|contiguous|clone|cast|to\\b"),
    ("elementwise", "add|mul|sub|div|res\\b|dropout|exp|sqrt"),
    ("reduction", "sum|mean|max|min"),
)
_PATTERNS = tuple((name, re.compile(pattern)) for name, pattern in FAMILIES)


class Token(NamedTuple):
    """What a node does.

    Attributes:
        kind: :class:`~dse.trace.schema.Kind`, or -1 for the mark that the nodes of role ``delta`` follow.
        family: of the operator, by public words of its name; "" for communication.
        coll: :class:`~dse.trace.schema.Collective` or -1.
        group: name of the family of groups it communicates in ("all": every rank), "" where none.
        delta: role of the peer minus the own one; ``way`` tells peers of one role apart.
        cpu: ``is_cpu_op``, -1 where not said.
        stream, tier: in the order in which a trace set first uses them, -1 where none.
        dims: ``involved_dim``.
        work: log2 of FLOP (else tensor bytes, else message bytes) over the geometric mean of the trace set, rounded.
    """

    kind: int
    family: str = ""
    coll: int = -1
    group: str = ""
    delta: int = 0
    way: int = 0
    cpu: int = -1
    stream: int = -1
    tier: int = -1
    dims: tuple[bool, ...] = ()
    work: int = NO_BIN

    @property
    def code(self) -> str:
        """A short name."""
        if self.kind == Kind.COLL:
            return Collective(self.coll).name.lower()
        if self.kind in MESSAGES or self.kind in MEMORY:
            return Kind(self.kind).name.lower()
        return self.family or "node"


@dataclass(frozen=True)
class Scale:
    """How large things are in one trace set: means of logarithms.

    Attributes:
        work: FLOP of a node (bytes where it says no FLOP).
        bytes: tensor bytes of a node.
        seconds: duration of a node.
        sizes: family of groups ("": messages) -> bytes of a collective or message; "*": of all.
    """

    work: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0
    sizes: dict[str, float] = field(default_factory=dict)

    def size(self, group: str) -> float:
        """Of the messages in a family of groups."""
        return self.sizes.get(group, self.sizes.get("*", 0.0))

    def centres(self, group: str) -> tuple[float, float, float, float]:
        """Of FLOP, bytes, message bytes and seconds."""
        return self.work, self.bytes, self.size(group), self.seconds


def role_mark(role: int) -> Token:
    """The mark that nodes of a role follow."""
    return Token(-1, delta=role)


@lru_cache(maxsize=1 << 17)
def family(name: str) -> str:
    """The family of an operator: ``family("layer3.mlp_up") == "matmul"``; "other" where no public word is in it."""
    text = name.lower()
    return next((found for found, pattern in _PATTERNS if pattern.search(text)), "other")


def clean_kinds(trace: Trace, known: frozenset[str]) -> NDArray[np.int8]:
    """Kinds as they can be executed: communication that does not say what or with whom counts as computing.

    Args:
        known: labels of groups.
    """
    kind = trace.kind.copy()
    kind[(kind < Kind.METADATA) | (kind > Kind.COLL)] = Kind.METADATA
    sizeless = (trace.size < 0) & (trace.coll != Collective.BARRIER)
    lost = np.array([label not in known and label not in ("", "0") for label in trace.labels], bool)
    nowhere = np.append(lost, False)[trace.group]
    kind[(kind == Kind.COLL) & ((trace.coll < 0) | (trace.coll > Collective.BARRIER) | sizeless | nowhere)] = Kind.COMP
    peer = np.where(kind == Kind.SEND, trace.dst, trace.src)
    alone = (trace.size < 0) | ((peer < 0) & (not trace.relative))
    kind[np.isin(kind, MESSAGES) & alone] = Kind.COMP
    return kind


def work_of(trace: Trace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each node computes (FLOP, else bytes) and moves (bytes), [n] each, 0 where not said."""
    return np.where(trace.flops > 0, trace.flops, trace.bytes), np.maximum(trace.size, 0).astype(float)


def mean_log(values: NDArray[np.float64]) -> float:
    """Mean of the logarithms of what is more than 0; 0 where nothing is."""
    positive = values[(values > 0) & np.isfinite(values)]
    return float(np.mean(np.log(positive))) if len(positive) else 0.0


def bins(values: NDArray[np.float64], centre: Any) -> NDArray[np.int64]:
    """log2 of values over exp(``centre``), rounded; ``NO_BIN`` where a value is not more than 0."""
    safe = np.where((values > 0) & np.isfinite(values), values, 1.0)
    found = np.rint((np.log(safe) - centre) / math.log(2)).astype(np.int64)
    return np.where((values > 0) & np.isfinite(values), np.clip(found, -60, 60), NO_BIN)
