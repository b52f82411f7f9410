"""Traces that say how a job behaves and not whose it is: a generative model learnt from traces, and obfuscation.

Companies can share a model, or traces drawn from it, where they cannot share traces (Sridharan et al., *Chakra*,
2023).

**The model.** A trace set becomes a *job* (:mod:`~dse.trace.synthesize.job`): ranks that do the same are one role,
groups of the same shape one family, and all roles' nodes stand in one order in which messages come after they were
sent and collectives of several roles are one event. A node becomes a *token* t (:mod:`~dse.trace.synthesize.tokens`):
kind, public operator family, collective, family of groups, role of the peer, stream, tier, and its work in steps of 2
relative to the trace set. With L the layout (roles, families of groups, style s), the model is

    P(job | L) = P(text | s) P(dependences | t_1 ... t_n) P(sizes, durations | t_1 ... t_n).

*Operators.* Repetitions are written as loops, ``( body )k``, innermost first (:mod:`~dse.trace.synthesize.loops`), so
that layers and micro-batches are brackets and counts. The text x_1 ... x_m of tokens, marks of roles and brackets has

    P(text | s) = prod_i P(x_i | s, x_(i-24) ... x_(i-1)) prod_loops P(k | s, last two symbols of the body),

each P interpolated over all shorter histories by absolute discounting (:mod:`~dse.trace.synthesize.backoff`). A
sequence has several texts; P of the one that folding writes is a lower bound of P(sequence).

*Dependences.* P(signature of a node | its token, the last signature of that token), where a signature names each
parent by its token and its place among the nodes that no node of the child's token has used yet, from the newest or
the oldest (:mod:`~dse.trace.synthesize.references`); below that, references are independent.

*Sizes and durations* (:mod:`~dse.trace.synthesize.values`). Relative to the trace set's mean logarithms (its latent
scale; message sizes by family of groups), the sizes of a place in the text are (1 - e) P(value seen with t) + e
log-normal(t), e by Good and Turing; nodes at one place have equal sizes but for a learnt share of changes; log
seconds are normal around the mean that belongs to the sizes. FLOP, bytes, message bytes and seconds grow as (model
size)^b(t), b fitted where one layout was learnt at several sizes and else assumed
(:func:`~dse.trace.synthesize.fit.assumed`).

**Sampling** (:mod:`~dse.trace.synthesize.sample`) draws a text of about the length learnt, repeats its outermost
loops as often as asked, and gives each event to all roles that take part; a receive only follows its send. Samples
are therefore valid and cannot deadlock. Other numbers of ranks stretch one family of groups (weak scaling: sizes
stay).

What it does not do: ranks of a role are equal (no jitter between them); a model learnt from one trace set all but
repeats it, so learn from several; the number of pipeline stages is as learnt; the file holds the texts of tokens, not
the names.
"""

from __future__ import annotations

from dse.lazy import lazily

_HOME = {
    "TraceModel": "model",
    "learn": "fit",
    "obfuscate": "privacy",
    "Leakage": "leakage",
    "evidence": "comparison",
    "Evidence": "comparison",
}

__all__ = ["Evidence", "Leakage", "TraceModel", "evidence", "learn", "obfuscate"]

__getattr__ = lazily(__name__, _HOME)
