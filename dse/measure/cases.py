"""What is measured: every point with its shape, its FLOP and the fewest bytes it can move. No PyTorch here."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from dse.errors import Fault, SpecError

KINDS = ("gemm", "attention", "elementwise", "copy", "launch", "layer", "step")
SIZES = ("tiny", "small", "full")
DTYPES = ("bf16", "fp16", "tf32", "fp32", "fp8")
BYTES = {"bf16": 2, "fp16": 2, "tf32": 4, "fp32": 4, "fp8": 1}
SHAPE = ("batch", "heads", "seq", "head_dim", "rows", "width", "layers", "vocab", "elements")


@dataclass(frozen=True)
class Case:
    """One point: a kernel, its data type, phase and shape.

    Attributes:
        flops: useful FLOP (a multiply-add is two); recomputation does not count.
        bytes: each input read once and each output written once, in B.
        options: switches that are not sizes (causal, recompute).
    """

    kind: str
    kernel: str
    dtype: str
    phase: str
    shape: dict[str, int] = field(hash=False)
    flops: float = 0.0
    bytes: float = 0.0
    options: dict[str, bool] = field(default_factory=dict, hash=False)

    @property
    def id(self) -> str:
        """The same point has the same id in every run."""
        sizes = "x".join(str(size) for size in self.shape.values())
        switches = [name for name, on in self.options.items() if on]
        return ".".join([self.kind, self.kernel, self.dtype, self.phase, sizes, *switches])


@dataclass(frozen=True)
class Grid:
    """The sizes of one ``--size``: ``full`` is for a data-centre GPU, the others suit a CPU."""

    rows: tuple[int, ...]  # m of the GEMMs
    sides: tuple[int, ...]  # n and k
    wide_rows: tuple[int, ...]  # the same for 32-bit types, whose products take many times longer
    wide_sides: tuple[int, ...]
    sequences: tuple[int, ...]
    tokens: int  # of the attention points: batch · sequence
    heads: tuple[tuple[int, int], ...]  # heads and their dimension
    streams: tuple[tuple[int, int], ...]  # rows and width of the element-wise kernels
    vocab: int
    copies: tuple[int, ...]  # B
    layer: tuple[int, int, int, int, int]  # hidden, heads, MLP width, sequence, batch
    model: tuple[int, int]  # layers and vocabulary of the model whose step is measured


_MIB = 2**20
GRIDS = {
    "tiny": Grid(
        rows=(64, 256), sides=(128, 256), wide_rows=(64, 256), wide_sides=(128, 256), sequences=(64, 128), tokens=128,
        heads=((2, 32),), streams=((64, 128),), vocab=256, copies=(4 * _MIB, 16 * _MIB), layer=(64, 2, 128, 64, 1),
        model=(2, 256),
    ),
    "small": Grid(
        rows=(128, 512, 2048), sides=(512, 1024, 2048), wide_rows=(128, 512, 2048), wide_sides=(512, 1024, 2048),
        sequences=(512, 1024, 2048), tokens=2048, heads=((8, 64), (8, 128)), streams=((1024, 1024), (4096, 2048)),
        vocab=8192, copies=(16 * _MIB, 64 * _MIB, 256 * _MIB), layer=(512, 8, 1408, 512, 2), model=(4, 8192),
    ),
    "full": Grid(
        rows=(128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768), sides=(1024, 2048, 4096, 6144, 8192, 12288, 16384),
        wide_rows=(512, 2048, 8192), wide_sides=(1024, 4096, 8192), sequences=(1024, 2048, 4096, 8192, 16384),
        tokens=16384, heads=((32, 64), (32, 128)), streams=((4096, 4096), (8192, 8192), (16384, 8192)), vocab=32000,
        copies=(64 * _MIB, 256 * _MIB, 1024 * _MIB, 4096 * _MIB), layer=(4096, 32, 14336, 4096, 2),
        model=(8, 32000),
    ),
}  # fmt: skip
# Hidden size and the like of the model whose whole step runs: smaller than one layer's, to fit with its optimizer.
MODELS = {"tiny": (64, 2, 128, 64, 2), "small": (512, 8, 1408, 256, 4), "full": (2048, 16, 5632, 2048, 4)}


def cases(size: str, kinds: Sequence[str], dtypes: Sequence[str], *, cuda: bool, seed: int = 0) -> list[Case]:
    """The points of a run, in an order that lets a budget cut every kind alike.

    Args:
        size: one of ``SIZES``.
        kinds: some of ``KINDS``.
        dtypes: some of ``DTYPES``.
        cuda: with the points that only a GPU has (copies from the host, CUDA graphs, other attention kernels).
        seed: shuffles the points within each kind, so that drifts of the clock do not look like effects of a size.
    """
    known("size", [size], SIZES)
    known("kinds", kinds, KINDS)
    known("dtypes", dtypes, DTYPES)
    grid, found = GRIDS[size], []
    short = next((name for name in ("bf16", "fp16", "fp32", "tf32") if name in dtypes), "bf16")
    makers = {
        "gemm": lambda: _gemms(grid, dtypes),
        "attention": lambda: _attentions(grid, short, cuda=cuda),
        "elementwise": lambda: _streams(grid, short),
        "copy": lambda: _copies(grid, cuda=cuda),
        "launch": lambda: _launches(cuda=cuda),
        "layer": lambda: _layers(grid, short),
        "step": lambda: _steps(size, grid, short),
    }
    for kind in dict.fromkeys(kinds):
        points = list(makers[kind]())
        random.Random(seed).shuffle(points)
        found += [((place + 0.5) / len(points), case) for place, case in enumerate(points)]
    return [case for _, case in sorted(found, key=lambda item: item[0])]


def known(name: str, values: Iterable[str], allowed: Sequence[str]) -> None:
    """Refuse what is not on the list, and an empty choice.

    Raises:
        SpecError: names what is allowed.
    """
    values = list(values)
    wrong = [value for value in values if value not in allowed]
    if wrong or not values:
        raise SpecError([Fault(name, repr(wrong[0][:40]) if wrong else "", f"must be of {', '.join(allowed)}")])


def _gemms(grid: Grid, dtypes: Sequence[str]) -> Iterator[Case]:
    for dtype in dict.fromkeys(dtypes):
        wide = BYTES[dtype] == 4
        rows, sides = (grid.wide_rows, grid.wide_sides) if wide else (grid.rows, grid.sides)
        for m, n, k in product(rows, sides, sides):
            moved = BYTES[dtype] * (m * k + k * n) + (BYTES[dtype] if wide else 2) * m * n
            yield Case("gemm", "matmul", dtype, "forward", {"m": m, "n": n, "k": k}, 2.0 * m * n * k, moved)


def attention_flops(batch: int, heads: int, seq: int, head_dim: int, *, causal: bool) -> float:
    """FLOP of the forward pass: two products of s × s × d a head, half of them under a causal mask."""
    return (0.5 if causal else 1.0) * 4.0 * batch * heads * seq * seq * head_dim


def _attentions(grid: Grid, dtype: str, *, cuda: bool) -> Iterator[Case]:
    kernels = ("sdpa", "sdpa_cudnn") if cuda else ("sdpa",)
    for kernel, seq, (heads, head_dim), causal in product(kernels, grid.sequences, grid.heads, (True, False)):
        batch = max(grid.tokens // seq, 1)
        shape = {"batch": batch, "heads": heads, "seq": seq, "head_dim": head_dim}
        flops = attention_flops(batch, heads, seq, head_dim, causal=causal)
        tensors = 4.0 * BYTES[dtype] * batch * heads * seq * head_dim  # Q, K, V and the output
        # Backward recomputes the scores: five products for two, and twice the tensors (the gradients).
        for phase, work, moved in (("forward", 1.0, 1.0), ("backward", 2.5, 2.0)):
            yield Case("attention", kernel, dtype, phase, shape, work * flops, moved * tensors, {"causal": causal})


# Tensors of rows × width that a fused kernel reads and writes, forward and backward (0: no kernel of its own).
PASSES = {
    "rms_norm": (2, 3),
    "layer_norm": (2, 3),
    "gate": (3, 5),
    "gelu": (2, 3),
    "rotary": (2, 2),
    "residual_add": (3, 0),
    "softmax": (2, 3),
    "cross_entropy": (1, 2),
}


def _streams(grid: Grid, dtype: str) -> Iterator[Case]:
    for (rows, width), (kernel, passes) in product(grid.streams, PASSES.items()):
        columns = grid.vocab if kernel == "cross_entropy" else width
        shape = {"rows": rows, "width": columns}
        for phase, tensors in zip(("forward", "backward"), passes, strict=True):
            if tensors:
                moved = 1.0 * tensors * rows * columns * BYTES[dtype]
                yield Case("elementwise", kernel, dtype, phase, shape, bytes=moved)


def _copies(grid: Grid, *, cuda: bool) -> Iterator[Case]:
    kernels = {"copy": 2, "triad": 3, **({"host_to_device": 1, "device_to_host": 1} if cuda else {})}
    for size, (kernel, passes) in product(grid.copies, kernels.items()):
        yield Case("copy", kernel, "fp32", "forward", {"elements": size // 4}, bytes=1.0 * passes * size)


def _launches(*, cuda: bool) -> Iterator[Case]:
    for kernel in ("queued", "graph") if cuda else ("queued",):
        yield Case("launch", kernel, "fp32", "forward", {"elements": 1})


def layer_parameters(hidden: int, ffn: int) -> int:
    """Weights of the matrices of one layer: QKV, projection and a gated MLP."""
    return 4 * hidden * hidden + 3 * hidden * ffn


def _layer_flops(sizes: tuple[int, int, int, int, int]) -> float:
    hidden, heads, ffn, seq, batch = sizes
    core = attention_flops(batch, heads, seq, hidden // heads, causal=True)
    return 2.0 * layer_parameters(hidden, ffn) * seq * batch + core


def _layer_shape(sizes: tuple[int, int, int, int, int], layers: int, vocab: int) -> dict[str, int]:
    hidden, heads, ffn, seq, batch = sizes
    return {
        "batch": batch, "heads": heads, "seq": seq, "head_dim": hidden // heads, "rows": batch * seq, "width": ffn,
        "layers": layers, "vocab": vocab,
    }  # fmt: skip


def _layers(grid: Grid, dtype: str) -> Iterator[Case]:
    shape, flops = _layer_shape(grid.layer, 1, 0), _layer_flops(grid.layer)
    moved = 1.0 * BYTES[dtype] * layer_parameters(grid.layer[0], grid.layer[2])
    yield Case("layer", "transformer", dtype, "forward", shape, flops, moved)
    for recompute in (False, True):
        options = {"recompute": recompute}
        yield Case("layer", "transformer", dtype, "forward_backward", shape, 3.0 * flops, 3.0 * moved, options)


def _steps(size: str, grid: Grid, dtype: str) -> Iterator[Case]:
    sizes, (layers, vocab) = MODELS[size], grid.model
    hidden, _, ffn, seq, batch = sizes
    weights = layers * layer_parameters(hidden, ffn) + 2 * vocab * hidden
    flops = 3.0 * (layers * _layer_flops(sizes) + 2.0 * vocab * hidden * seq * batch)
    for recompute in (False, True):
        # Adam reads and writes the weight and its two moments and reads the gradient: 7 words of 4 B.
        options = {"recompute": recompute}
        yield Case("step", "adamw", dtype, "step", _layer_shape(sizes, layers, vocab), flops, 28.0 * weights, options)
