"""A transformer layer and a small model, written plainly: norms, rotary positions, attention, gated MLP."""

from __future__ import annotations

from typing import Any

from dse.measure.cases import Case
from dse.measure.kernels import Prepared, dtype_of, rotate


def _layer_class(torch: Any) -> type:
    """The layer as a module; made here because importing this package must not import PyTorch."""
    functional, nn = torch.nn.functional, torch.nn

    class Layer(nn.Module):
        def __init__(self, hidden: int, heads: int, ffn: int, **new: Any) -> None:
            super().__init__()
            self.heads, self.hidden = heads, hidden
            self.first = nn.Parameter(torch.ones(hidden, **new))
            self.second = nn.Parameter(torch.ones(hidden, **new))
            self.qkv = nn.Linear(hidden, 3 * hidden, bias=False, **new)
            self.projection = nn.Linear(hidden, hidden, bias=False, **new)
            self.up = nn.Linear(hidden, 2 * ffn, bias=False, **new)
            self.down = nn.Linear(ffn, hidden, bias=False, **new)

        def forward(self, x: Any, cosine: Any, sine: Any) -> Any:
            batch, seq, hidden = x.shape
            # The norm's weight follows the stream's type: under autocast the parameters stay in fp32.
            normed = functional.rms_norm(x, (hidden,), self.first.to(x.dtype))
            parts = self.qkv(normed).view(batch, seq, 3, self.heads, hidden // self.heads)
            q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
            cosine, sine = cosine.to(q.dtype), sine.to(q.dtype)
            q, k = rotate(torch, q, cosine, sine), rotate(torch, k, cosine, sine)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.projection(mixed.transpose(1, 2).reshape(batch, seq, hidden))
            normed = functional.rms_norm(x, (hidden,), self.second.to(x.dtype))
            gate, value = self.up(normed).chunk(2, dim=-1)
            return x + self.down(functional.silu(gate) * value)

    return Layer


def _angles(torch: Any, device: Any, kind: Any, seq: int, head_dim: int) -> tuple[Any, Any]:
    rates = 1e4 ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim)
    angles = torch.arange(seq, device=device, dtype=torch.float32)[:, None] * rates
    return angles.cos().to(kind), angles.sin().to(kind)


def layer(torch: Any, device: Any, case: Case) -> Prepared:
    """One layer: forward alone (activations kept), or forward and backward, with or without recomputation."""
    from torch.utils.checkpoint import checkpoint

    shape, kind = case.shape, dtype_of(torch, case.dtype)
    hidden = shape["heads"] * shape["head_dim"]
    module = _layer_class(torch)(hidden, shape["heads"], shape["width"], device=device, dtype=kind)
    x = torch.randn(shape["batch"], shape["seq"], hidden, device=device, dtype=kind, requires_grad=True)
    angles = _angles(torch, device, kind, shape["seq"], shape["head_dim"])
    gradient, inputs = torch.randn_like(x), (x, *module.parameters())

    def forward() -> Any:
        if case.options.get("recompute"):
            return checkpoint(module, x, *angles, use_reentrant=False)
        return module(x, *angles)

    def both() -> Any:
        return torch.autograd.grad(forward(), inputs, gradient)

    return Prepared(forward if case.phase == "forward" else both, flush=False, note="eager; causal attention")


def _model_class(torch: Any) -> type:
    from torch.utils.checkpoint import checkpoint

    nn, functional = torch.nn, torch.nn.functional
    layer_class = _layer_class(torch)

    class Model(nn.Module):
        def __init__(self, hidden: int, heads: int, ffn: int, layers: int, vocab: int, *, recompute: bool) -> None:
            super().__init__()
            self.recompute = recompute
            self.table = nn.Embedding(vocab, hidden)
            self.layers = nn.ModuleList(layer_class(hidden, heads, ffn) for _ in range(layers))
            self.norm = nn.Parameter(torch.ones(hidden))
            self.head = nn.Linear(hidden, vocab, bias=False)

        def forward(self, tokens: Any, targets: Any, cosine: Any, sine: Any) -> Any:
            x = self.table(tokens).to(cosine.dtype)
            for block in self.layers:
                if self.recompute:
                    x = checkpoint(block, x, cosine, sine, use_reentrant=False)
                else:
                    x = block(x, cosine, sine)
            logits = self.head(functional.rms_norm(x, x.shape[-1:], self.norm.to(x.dtype)))
            return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return Model


def step(torch: Any, device: Any, case: Case) -> Prepared:
    """A training step of a small model: forward, backward, AdamW; parameters in fp32, products in the case's type."""
    shape, kind = case.shape, dtype_of(torch, case.dtype)
    hidden = shape["heads"] * shape["head_dim"]
    sizes = (hidden, shape["heads"], shape["width"], shape["layers"], shape["vocab"])
    with device:  # parameters appear on the device at once
        model = _model_class(torch)(*sizes, recompute=case.options["recompute"])
    fused = {"fused": True} if device.type == "cuda" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **fused)
    tokens, targets = torch.randint(shape["vocab"], (2, shape["batch"], shape["seq"]), device=device).unbind(0)
    angles = _angles(torch, device, kind, shape["seq"], shape["head_dim"])

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=kind, enabled=kind is not torch.float32):
            loss = model(tokens, targets, *angles)
        loss.backward()
        optimizer.step()

    return Prepared(call, flush=False, note="eager; autocast, fp32 parameters and moments; causal attention")
