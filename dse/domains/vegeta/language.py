"""A small language model, trained here in seconds: real weights to prune, and a loss that says what pruning costs.

It predicts the next character of the reference manual of Python, which every Python carries as ``pydoc_data``, from the
characters before: an embedding, two hidden layers (ReLU) and a linear output, trained with Adam. NumPy only, seeded.

Examples come in stacks of 16, as [stack, 16, ...]. Each product is then so small that BLAS runs it on one thread: where
other programs keep the cores busy, waiting for a second thread takes many times as long as the product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from dse.domains.vegeta.check import fault, sizes
from dse.domains.vegeta.prune import mask

CONTEXT, EMBEDDING, HIDDEN = 8, 16, 128
MATRICES = ("first", "second", "output")
STACKS, STACK, RATE = 8, 16, 4e-3


@dataclass(frozen=True)
class Text:
    """Characters as numbers: a training part and a held-out part, and the alphabet."""

    train: np.ndarray
    held_out: np.ndarray
    alphabet: str


@dataclass(frozen=True)
class Model:
    """Weights by name, float32; the matrices [out, in] are what is pruned."""

    weights: Mapping[str, np.ndarray]

    def matrices(self) -> dict[str, np.ndarray]:
        """The three weight matrices [out, in], in the order of the layers."""
        return {name: self.weights[name] for name in MATRICES}

    def pruned(self, masks: Mapping[str, np.ndarray]) -> Model:
        """A copy with the weights zero where their mask is false."""
        return Model({name: w * masks[name] if name in masks else w for name, w in self.weights.items()})


@lru_cache(maxsize=1)
def text() -> Text:
    """Python's reference manual: nine tenths to train on, the last tenth held out.

    Raises:
        SpecError: this Python comes without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise fault("text", "pydoc_data", "must be installed with Python to train the language model") from None
    whole = "".join(topics[name] for name in sorted(topics))
    alphabet = "".join(sorted(c for c in set(whole) if whole.count(c) >= 20))
    numbers = {c: i for i, c in enumerate(alphabet)}
    codes = np.fromiter((numbers[c] for c in whole if c in numbers), dtype=np.int32)
    cut = len(codes) * 9 // 10
    return Text(codes[:cut], codes[cut:], alphabet)


@lru_cache(maxsize=4)
def train(steps: int = 2000, seed: int = 0) -> Model:
    """Train from the start; the same seed gives the same weights."""
    sizes(steps=steps)
    rng = np.random.default_rng(seed)
    letters = len(text().alphabet)
    shapes = {
        "embedding": (letters, EMBEDDING),
        "first": (HIDDEN, CONTEXT * EMBEDDING),
        "second": (HIDDEN, HIDDEN),
        "output": (letters, HIDDEN),
    }
    weights = {n: rng.standard_normal(s, dtype=np.float32) * (2.0 / s[1]) ** 0.5 for n, s in shapes.items()}
    weights |= {f"{n}_bias": np.zeros(shapes[n][0], dtype=np.float32) for n in MATRICES}
    return retrain(Model(weights), {}, steps=steps, seed=seed + 1)


def retrain(model: Model, masks: Mapping[str, np.ndarray], *, steps: int, seed: int = 0) -> Model:
    """Train on from a model; weights whose mask is false stay zero. The learning rate falls to zero as a cosine."""
    data, rng = text().train, np.random.default_rng(seed)
    weights = {name: w.copy() for name, w in model.pruned(masks).weights.items()}
    mean = {name: np.zeros_like(w) for name, w in weights.items()}
    square = {name: np.zeros_like(w) for name, w in weights.items()}
    for step in range(1, steps + 1):
        at = rng.integers(CONTEXT, len(data), (STACKS, STACK))
        slopes = _slopes(weights, *_examples(data, at))
        rate = RATE * 0.5 * (1.0 + np.cos(np.pi * step / (steps + 1)))
        for name, slope in slopes.items():
            slope = slope * masks[name] if name in masks else slope
            mean[name] += 0.1 * (slope - mean[name])
            square[name] += 0.001 * (slope * slope - square[name])
            sized = np.sqrt(square[name] / (1.0 - 0.999**step)) + np.float32(1e-8)
            weights[name] -= np.float32(rate / (1.0 - 0.9**step)) * mean[name] / sized
    return Model(weights)


def loss(model: Model, *, examples: int = 20_000) -> float:
    """Cross entropy of held-out characters in bits a character; a guess at random has log2(alphabet)."""
    data = text().held_out
    at = np.linspace(CONTEXT, len(data) - 1, -(-examples // STACK) * STACK).astype(int).reshape(-1, STACK)
    return _cross_entropy(model.weights, *_examples(data, at)) / float(np.log(2.0))


def prune(model: Model, kind: str, sparsity: float, *, block: int = 4, steps: int = 0, seed: int = 0) -> Model:
    """Prune the three matrices by magnitude, each to the same sparsity, and retrain what is left.

    Args:
        model: a trained model.
        kind: a key of :data:`dse.domains.vegeta.prune.KINDS`.
        sparsity: of each matrix, 0 to 1.
        block: M of N:M, and the side of square blocks.
        steps: of retraining with the masks held fixed; 0 leaves the weights as they are.
        seed: of the retraining's examples.
    """
    masks = {name: mask(w, kind, sparsity, block=block) for name, w in model.matrices().items()}  # type: ignore[arg-type]
    return retrain(model, masks, steps=steps, seed=seed) if steps else model.pruned(masks)


def _examples(data: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Characters before the places ``at`` [s, b, CONTEXT], and those at them [s, b]."""
    return data[at[..., None] - np.arange(CONTEXT, 0, -1)], data[at]


def _forward(weights: Mapping[str, np.ndarray], before: np.ndarray) -> tuple[np.ndarray, ...]:
    """Activations of every layer [s, b, ...]; the last are scores with the largest of each example at zero."""
    seen = weights["embedding"][before].reshape(*before.shape[:-1], -1)
    first = np.maximum(seen @ weights["first"].T + weights["first_bias"], 0.0)
    second = np.maximum(first @ weights["second"].T + weights["second_bias"], 0.0)
    scores = second @ weights["output"].T + weights["output_bias"]
    return seen, first, second, scores - scores.max(axis=-1, keepdims=True)


def _cross_entropy(weights: Mapping[str, np.ndarray], before: np.ndarray, target: np.ndarray) -> float:
    """Mean over the examples, in nats."""
    scores = _forward(weights, before)[-1]
    own = np.take_along_axis(scores, target[..., None], axis=-1)[..., 0]
    return float(np.mean(np.log(np.exp(scores).sum(axis=-1)) - own))


def _slopes(weights: Mapping[str, np.ndarray], before: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
    """Gradient of the mean cross entropy by weight."""
    seen, first, second, scores = _forward(weights, before)
    likely = np.exp(scores)
    back = likely / likely.sum(axis=-1, keepdims=True)
    back -= np.arange(back.shape[-1]) == target[..., None]
    back /= np.float32(target.size)
    slopes = {}
    for name, below in (("output", second), ("second", first), ("first", seen)):
        slopes[name] = (back.swapaxes(1, 2) @ below).sum(axis=0)
        slopes[f"{name}_bias"] = back.sum(axis=(0, 1))
        back = back @ weights[name]
        if name != "first":
            back = back * (below > 0.0)
    embedding = np.zeros_like(weights["embedding"])
    np.add.at(embedding, before.reshape(-1), back.reshape(-1, EMBEDDING))
    slopes["embedding"] = embedding
    return slopes
