"""The parts of the generative model of traces: loops, back-off, references, tokens."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dse.trace import Kind
from dse.trace.synthesize import loops
from dse.trace.synthesize.backoff import Backoff
from dse.trace.synthesize.references import NEWEST, OLDEST, Waiting
from dse.trace.synthesize.tokens import Token, family


@given(st.lists(st.integers(0, 3), max_size=60))
def test_folding_loses_nothing(sequence: list[int]) -> None:
    items = loops.fold(sequence)
    assert loops.unfold(items)[0] == sequence
    text, counts = loops.write(items, 98, 99)
    assert loops.parse(text, counts, 98, 99) == items


def test_layers_and_micro_batches_are_nested_loops() -> None:
    forward, backward = [0, 1, 2, 3], [4, 5, 6]
    items = loops.fold((forward * 5 + backward * 5) * 7 + [8])
    assert items == [loops.Loop((loops.Loop(tuple(forward), 5), loops.Loop(tuple(backward), 5)), 7), 8]
    _, places = loops.unfold(items)
    assert len(set(places)) == len(forward) + len(backward) + 1  # a place for each element of a body, however often


@given(
    st.lists(st.lists(st.integers(0, 4), max_size=20), min_size=1, max_size=4), st.lists(st.integers(0, 5), max_size=5)
)
def test_probabilities_sum_to_one(texts: list[list[int]], history: list[int]) -> None:
    model = Backoff.fit(texts, 3, 5, [k % 2 for k in range(len(texts))])
    for style in (-1, 0, 1):
        total = sum(model.probability(history, symbol, style=style) for symbol in range(6))
        assert total == pytest.approx(1.0)


def test_discounting_is_as_stated() -> None:
    """Order 0 of a text with counts 3, 1: d = n1 / (n1 + 2 n2) = 1, kept at 0.75."""
    model = Backoff.fit([[0, 0, 0, 1]], 0, 2)
    base = 1 / 3
    assert model.probability([], 0) == pytest.approx((3 - 0.75) / 4 + 0.75 * 2 / 4 * base)
    assert model.probability([], 2) == pytest.approx(0.75 * 2 / 4 * base)


def test_draws_have_the_probabilities() -> None:
    model = Backoff.fit([[0, 1, 0, 1, 0, 2, 0, 1, 0, 0, 2]], 2, 3)
    rng = np.random.default_rng(1)
    drawn = Counter(model.draw([1, 0], rng) for _ in range(8000))
    for symbol in range(3):
        # What is drawn below order 0 (-1) is shared out evenly over 3 symbols and the unknown one.
        found = (drawn[symbol] + drawn[-1] / 4) / 8000
        assert found == pytest.approx(model.probability([1, 0], symbol), abs=0.02)


def test_allowed_symbols_alone_are_drawn() -> None:
    model = Backoff.fit([[0, 1, 2] * 5], 2, 3)
    rng = np.random.default_rng(1)
    assert {model.draw([0, 1], rng, {0, 1}) for _ in range(200)} <= {0, 1, -1}


@pytest.mark.parametrize("layers", [2, 5, 30])
def test_last_in_first_out_always_reads_the_same(layers: int) -> None:
    waiting = Waiting()
    for node in range(layers):
        waiting.add(7, node)
    names = [waiting.name(8, [(node, 7, 0)]) for node in reversed(range(layers))]
    assert set(names) == {((7, NEWEST, 0, 0),)}
    again = Waiting()
    for node in range(layers):
        again.add(7, node)
    assert [again.find(8, name) for name in names] == [[(node, 0)] for node in reversed(range(layers))]


def test_first_in_first_out_always_reads_the_same() -> None:
    waiting = Waiting()
    for node in range(9):
        waiting.add(7, node)
    names = [waiting.name(8, [(node, 7, 1)]) for node in range(9)]
    assert set(names[:5]) == {((7, OLDEST, 0, 1),)}  # the last ones are near both ends: newest wins where it is nearer
    assert [len(name) for name in names] == [1] * 9


def test_families_say_nothing_about_whose_operator_it_is() -> None:
    assert family("secret_model.layer12.mlp_up_proj") == family("aten::addmm") == "matmul"
    assert family("rms_norm.3") == "norm"
    assert family("zyx") == "other"


def test_a_token_has_a_short_name() -> None:
    assert Token(Kind.COLL, coll=0, group="dense").code == "all_reduce"
    assert Token(Kind.COMP, "matmul").code == "matmul"
    assert Token(Kind.MEM_LOAD).code == "mem_load"
