"""Software stacks: what kernels and framework cost beyond the ideal roofline. Each constant has a meaning."""

from __future__ import annotations

from dse.spec.base import Entry, Spec
from dse.spec.fields import Bytes, Fraction, Multiple, PositiveFraction, Seconds, Switch


class MemoryUse(Spec):
    """What a framework and its kernels hold beyond the tensors of the published equations; the defaults are none.

    Attributes:
        fixed: libraries' workspaces, communicators, gradient and all-gather buckets, whatever the model.
        fragmentation: share of the activations and working memory that the caching allocator loses.
        logits: bytes alive for each logit at the peak of the loss (16-bit logits, 32-bit copies, gradients); the
            published equations count the 32-bit copy alone.
        logits_gathered: further bytes for each logit of the whole vocabulary where every tensor-parallel rank
            computes the whole loss; 0 is a loss that is split over the vocabulary.
        norm_unfused: times its input that an unfused norm keeps besides (32-bit copies of input and result).
        gate_unfused: share kept of the activated gate of an unfused gated MLP.
        inputs_gathered: share kept of what sequence parallelism gathers for a column-parallel layer, instead of
            gathering it again in the backward pass.
        scores_unfused: bytes that plain attention kernels keep for each score besides the probabilities.
        scores_working: bytes alive for each score while attention without a flash kernel runs backward.
        gradient_copy: share of a 32-bit copy of narrower gradients, divided as the optimizer's states are.
        gradient_own: share kept of the backward pass' own 16-bit gradients beside wider accumulators.
        master_shards: share of the 32-bit master copy that is itself what ZeRO-3 shards, without 16-bit shards.
        gathered_gradients: layers whose unsharded gradients live at once under ZeRO-3.
    """

    fixed: Bytes = 0.0
    fragmentation: Fraction = 0.0
    logits: Multiple = 4.0
    logits_gathered: Multiple = 0.0
    norm_unfused: Multiple = 0.0
    gate_unfused: Fraction = 0.0
    inputs_gathered: Fraction = 0.0
    scores_unfused: Multiple = 0.0
    scores_working: Multiple = 0.0
    gradient_copy: Fraction = 0.0
    gradient_own: Fraction = 0.0
    master_shards: Fraction = 0.0
    gathered_gradients: Multiple = 0.0


class Stack(Entry):
    """Constants of a training framework and its kernels; the defaults are the ideal.

    ``*_passes`` multiply the memory traffic of a kind of element-wise kernel: 1 is one fused kernel that reads and
    writes every tensor once; unfused or FP32 implementations make several passes.

    Attributes:
        norm_passes: residual add and norm, with a fused norm kernel.
        norm_passes_unfused: the same where the strategy says ``fused_norm`` false.
        activation_passes: the MLP's activation function and gate.
        rotary_passes: rotary position embedding (and query/key norms).
        softmax_passes: a fused scale-mask-softmax kernel (attention "fused").
        softmax_passes_unfused: scale, mask, softmax and dropout as kernels of their own (attention "unfused").
        permute_passes: sorting tokens by expert, and back.
        loss_passes: cross-entropy over the vocabulary.
        cast_fp8, cast_mxfp8, cast_nvfp4: reads of a 16-bit operand that quantizing it for one product costs (amax,
            scaling, casting, transposed copies).
        optimizer_passes: the optimizer step.
        gradient_accumulation: share of the read-modify-write of the gradient buffer that a weight-gradient GEMM
            cannot hide.
        attention: rate of this stack's flash attention against the accelerator's best kernel.
        kernels_per_layer: kernels that the host launches for one layer's forward pass (twice that backward).
        launch: host time to launch one kernel; a layer takes at least kernels · launch.
        overlap: share of the compute behind which data-parallel communication really hides.
        overlap_tp: share of a tensor-parallel collective that can hide where the strategy overlaps it.
        hides_tp, hides_pp: whether it overlaps the communication of tensor parallelism (with sequence parallelism) and
            that between interleaved stages, where the strategy does not say.
        interference: growth of the compute that communication hides behind, per second hidden (it takes cores and
            memory bandwidth).
        stall: host time of one pass (forward, recomputation, backward) of a layer during which the device idles,
            because checkpointing or pipeline code synchronizes with it.
        hop: host and synchronization time of one pipeline send and receive.
        step_overhead: host time of a step outside the layers (data loading, logging, clipping).
        memory: what the framework and its kernels hold in memory.
    """

    norm_passes: Multiple = 1.0
    norm_passes_unfused: Multiple = 1.0
    activation_passes: Multiple = 1.0
    rotary_passes: Multiple = 1.0
    softmax_passes: Multiple = 1.0
    softmax_passes_unfused: Multiple = 1.0
    permute_passes: Multiple = 1.0
    loss_passes: Multiple = 1.0
    cast_fp8: Multiple = 1.5
    cast_mxfp8: Multiple = 1.5
    cast_nvfp4: Multiple = 1.5
    optimizer_passes: Multiple = 1.0
    gradient_accumulation: Multiple = 0.0
    attention: PositiveFraction = 1.0
    kernels_per_layer: Multiple = 0.0
    launch: Seconds = 0.0
    overlap: PositiveFraction = 1.0
    overlap_tp: PositiveFraction = 1.0
    interference: Fraction = 0.0
    hides_tp: Switch = False
    hides_pp: Switch = False
    stall: Seconds = 0.0
    hop: Seconds = 0.0
    step_overhead: Seconds = 0.0
    memory: MemoryUse = MemoryUse()
