"""The calls behind the points: PyTorch code for every kernel of :mod:`dse.measure.cases`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dse.measure.cases import Case


@dataclass(frozen=True)
class Prepared:
    """A call ready to be timed.

    Attributes:
        call: runs the kernel once, or ``inner`` times.
        inner: kernels in a call.
        flush: start with cold caches.
        note: what a reader of the table must know.
    """

    call: Callable[[], Any]
    inner: int = 1
    flush: bool = True
    note: str = ""


def dtype_of(torch: Any, name: str) -> Any:
    """The torch type of a data type's name (tf32 is a way to multiply fp32)."""
    types = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
    return types[name]


def prepare(torch: Any, device: Any, case: Case) -> Prepared:
    """Allocate a point's tensors (random values: zeros draw less power and run faster) and return its call."""
    makers = {"gemm": _gemm, "attention": _attention, "elementwise": _elementwise, "copy": _copy, "launch": _launch}
    if case.kind in makers:
        return makers[case.kind](torch, device, case)
    from dse.measure.layers import layer, step

    return (layer if case.kind == "layer" else step)(torch, device, case)


def _gemm(torch: Any, device: Any, case: Case) -> Prepared:
    if case.dtype == "fp8":
        return _gemm_fp8(torch, device, case)
    torch.set_float32_matmul_precision("high" if case.dtype == "tf32" else "highest")
    m, n, k = case.shape["m"], case.shape["n"], case.shape["k"]
    kind = dtype_of(torch, case.dtype)
    a = torch.randn(m, k, device=device, dtype=kind)
    b = torch.randn(n, k, device=device, dtype=kind).t()  # a linear layer keeps its weights transposed
    out = torch.empty(m, n, device=device, dtype=kind)
    return Prepared(lambda: torch.mm(a, b, out=out), note="torch.mm, weights transposed, cold cache")


def _gemm_fp8(torch: Any, device: Any, case: Case) -> Prepared:
    """Scaled per tensor. The activations come in bf16: their cast is part of the time, as in the shipped table."""
    m, n, k = case.shape["m"], case.shape["n"], case.shape["k"]
    kind = torch.float8_e4m3fn
    if torch.version.hip and "gfx94" in torch.cuda.get_device_properties(0).gcnArchName:
        kind = torch.float8_e4m3fnuz
    a = torch.randn(m, k, device=device, dtype=torch.bfloat16)
    b = torch.randn(n, k, device=device, dtype=torch.bfloat16).to(kind).t()
    one = torch.ones((), device=device)

    def call() -> Any:
        return torch._scaled_mm(a.to(kind), b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)

    return Prepared(call, note="torch._scaled_mm, FP8 per tensor, the cast of the activations included, cold cache")


def _attention(torch: Any, device: Any, case: Case) -> Prepared:
    shape = case.shape
    sizes = (shape["batch"], shape["heads"], shape["seq"], shape["head_dim"])
    backward = case.phase == "backward"
    new = {"device": device, "dtype": dtype_of(torch, case.dtype), "requires_grad": backward}
    q, k, v = (torch.randn(*sizes, **new) for _ in range(3))
    causal, attend = case.options["causal"], torch.nn.functional.scaled_dot_product_attention

    def call() -> Any:
        with _backend(case.kernel):
            return attend(q, k, v, is_causal=causal)

    return Prepared(_backward(torch, call(), (q, k, v)) if backward else call)


def _backend(kernel: str) -> Any:
    """The attention kernels that PyTorch may choose from."""
    if kernel == "sdpa":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.CUDNN_ATTENTION)


def _backward(torch: Any, out: Any, inputs: tuple[Any, ...]) -> Callable[[], Any]:
    """A call of the backward pass alone: the graph is kept, and no gradients are accumulated."""
    gradient = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True)


def _elementwise(torch: Any, device: Any, case: Case) -> Prepared:
    rows, width = case.shape["rows"], case.shape["width"]
    functional, backward = torch.nn.functional, case.phase == "backward"
    new = {"device": device, "dtype": dtype_of(torch, case.dtype)}
    x, y = (torch.randn(rows, width, requires_grad=backward, **new) for _ in range(2))
    weight = torch.ones(width, requires_grad=backward, **new)
    target = torch.randint(width, (rows,), device=device)
    cosine, sine = torch.randn(rows, width // 2, **new), torch.randn(rows, width // 2, **new)
    calls = {
        "rms_norm": (lambda: functional.rms_norm(x, (width,), weight), (x, weight)),
        "layer_norm": (lambda: functional.layer_norm(x, (width,), weight), (x, weight)),
        "gate": (lambda: functional.silu(x) * y, (x, y)),
        "gelu": (lambda: functional.gelu(x), (x,)),
        "rotary": (lambda: rotate(torch, x, cosine, sine), (x,)),
        "residual_add": (lambda: x + y, (x, y)),
        "softmax": (lambda: functional.softmax(x, dim=-1), (x,)),
        "cross_entropy": (lambda: functional.cross_entropy(x, target), (x,)),
    }
    call, inputs = calls[case.kernel]
    return Prepared(_backward(torch, call(), inputs) if backward else call)


def rotate(torch: Any, x: Any, cosine: Any, sine: Any) -> Any:
    """Rotary positions: the two halves of the last dimension turned against each other."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


def _copy(torch: Any, device: Any, case: Case) -> Prepared:
    count = case.shape["elements"]
    here = torch.randn(count, device=device)
    if case.kernel == "triad":
        other, out = torch.randn(count, device=device), torch.empty(count, device=device)
        return Prepared(lambda: torch.add(here, other, alpha=3.0, out=out))
    if case.kernel == "copy":
        out = torch.empty(count, device=device)
        return Prepared(lambda: out.copy_(here))
    # Page-locked memory: the only kind that a device can read while the host works on.
    host = torch.randn(count).pin_memory()
    to, source = (here, host) if case.kernel == "host_to_device" else (host, here)
    return Prepared(lambda: to.copy_(source, non_blocking=True), note="pinned memory")


def _launch(torch: Any, device: Any, case: Case) -> Prepared:
    """Many kernels of one element each: what is left of the time is launching them."""
    x, inner = torch.zeros(1, device=device), 200

    def call() -> None:
        for _ in range(inner):
            x.add_(1.0)

    if case.kernel == "queued":
        return Prepared(call, inner, flush=False, note="eager calls in a row: the host's launch rate")
    call()  # lazily loaded code must not load while the graph is captured
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return Prepared(graph.replay, inner, flush=False, note="a captured graph: the device's own floor")
