"""COMET's training loops: the closed forms of the timing model against a row-by-row event loop."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import LoopRow, dlrm_loop, transformer_loop

import dse
from dse.cost.comet import Row, breakdown
from dse.spec.workload.op import Block

EXACT = 1e-9
TIMES = st.one_of(st.just(0.0), st.floats(0.01, 5.0))
ROW = st.builds(LoopRow, st.floats(0.01, 5.0), st.floats(0.01, 5.0), TIMES, TIMES, TIMES, TIMES)
ROWS = st.lists(ROW, min_size=1, max_size=6)
quick = settings(deadline=None, derandomize=True, max_examples=150)


def as_row(name: str, row: LoopRow, exchange: tuple[float, float] = (0.0, 0.0)) -> Row:
    return Row(name, row.forward, row.input_grad, row.weight_grad, row.forward_comm, row.input_comm, row.weight_comm,
               *exchange)  # fmt: skip


def closed_form(family: str, layers: list[tuple[list[Row], int]], recompute: bool = False) -> dict[str, float]:
    """The breakdown of one iteration, by the cost model."""
    blocks = [(Block(f"b{i}", (), count), rows) for i, (rows, count) in enumerate(layers)]
    terms = breakdown.function(SimpleNamespace(family=family), blocks, "full" if recompute else "none")
    return {name: float(value) for name, value in terms.items()}


def stacked(rows: list[LoopRow], count: int) -> tuple[list[Row], int]:
    return [as_row(f"r{i}", row) for i, row in enumerate(rows)], count


@given(ROWS, st.integers(1, 12), st.integers(1, 4), st.booleans())
@quick
def test_equal_stacks(rows: list[LoopRow], count: int, passes: int, recompute: bool) -> None:
    """L equal stacks of any rows take exactly the simulated time: compute, blocking and exposed communication.

    The last iteration's reductions are exposed at the start of the next, which the simulation does not run.
    """
    rows[0] = LoopRow(*(*list(vars(rows[0]).values())[:5], 0.5))  # the first row has gradients to wait for
    terms = closed_form("transformer", [stacked(rows, count)], recompute)
    simulated = transformer_loop([rows] * count, passes, recompute=recompute)
    assert simulated == pytest.approx(passes * sum(terms.values()) - terms["dp_comm"], rel=EXACT)


@given(ROWS, ROWS, st.integers(1, 6), st.integers(0, 6), st.integers(1, 3), st.booleans())
@quick
def test_stacks_of_two_kinds(first: list[LoopRow], second: list[LoopRow], some: int, others: int, passes: int,
                             recompute: bool) -> None:  # fmt: skip
    """A queue that one kind of stack leaves behind is carried into the next kind exactly."""
    first[0] = LoopRow(*(*list(vars(first[0]).values())[:5], 0.5))
    terms = closed_form("transformer", [stacked(first, some), stacked(second, others)], recompute)
    simulated = transformer_loop([first] * some + [second] * others, passes, recompute=recompute)
    assert simulated == pytest.approx(passes * sum(terms.values()) - terms["dp_comm"], rel=EXACT)


@given(ROWS, st.integers(1, 8), st.booleans())
@quick
def test_rows_without_gradients_first(rows: list[LoopRow], count: int, recompute: bool) -> None:
    """Where the first rows have no gradients their forward work hides some of the wait: at most that much less."""
    terms = closed_form("transformer", [stacked(rows, count)], recompute)
    two, three = (transformer_loop([rows] * count, n, recompute=recompute) for n in (2, 3))
    period, before = sum(terms.values()), 0.0
    for row in rows:
        if row.weight_comm:
            break
        before += row.forward + row.forward_comm
    assert three - two <= period * (1 + EXACT)
    assert three - two >= period * (1 - EXACT) - min(before, terms["dp_comm"])


@given(ROWS, st.integers(1, 8), st.booleans())
@quick
def test_terms_of_one_pass(rows: list[LoopRow], count: int, recompute: bool) -> None:
    """Each term is what the loop's rules say of it, summed by hand over the rows."""
    terms = closed_form("transformer", [stacked(rows, count)], recompute)
    again = 2 if recompute else 1
    assert terms["forward"] == pytest.approx(count * sum(r.forward for r in rows))
    assert terms["recompute"] == pytest.approx((again - 1) * count * sum(r.forward for r in rows))
    assert terms["tp_comm_forward"] == pytest.approx(again * count * sum(r.forward_comm for r in rows))
    assert terms["tp_comm_backward"] == pytest.approx(count * sum(max(r.input_comm - r.weight_grad, 0) for r in rows))
    assert 0 <= terms["dp_comm"] <= count * sum(r.weight_comm for r in rows) * (1 + EXACT)
    assert all(value >= 0 for value in terms.values())


@given(ROWS, st.integers(1, 200))
@quick
def test_many_stacks_in_one_step(rows: list[LoopRow], count: int) -> None:
    """The tail after n stacks, found without looping, equals the queue run stack by stack, last row first."""
    clock = queue = 0.0
    for _ in range(count):
        for row in reversed(rows):
            done = clock + row.input_grad + row.weight_grad
            if row.weight_comm:
                queue = max(queue, done) + row.weight_comm
            clock = max(done, clock + row.input_grad + row.input_comm)
    terms = closed_form("transformer", [stacked(rows, count)])
    assert terms["dp_comm"] == pytest.approx(max(queue - clock, 0.0), rel=EXACT, abs=1e-9)


# -- DLRM ---------------------------------------------------------------------------------------------------

POSITIVE = st.floats(0.01, 5.0)
UPDATE = st.builds(LoopRow, POSITIVE, POSITIVE, POSITIVE, st.just(0.0), st.just(0.0), TIMES)
MLP = st.lists(UPDATE, min_size=1, max_size=5)


def recommender(embedding: LoopRow, bottom: list[LoopRow], top: list[LoopRow], exchange: tuple[float, float]
                ) -> dict[str, float]:  # fmt: skip
    rows = [as_row("embedding", embedding, exchange)]
    rows += [as_row(f"bottom_{i}", row) for i, row in enumerate(bottom)]
    rows += [as_row(f"top_{i}", row) for i, row in enumerate(top)]
    return closed_form("dlrm", [(rows, 1)])


@given(POSITIVE, POSITIVE, MLP, MLP, POSITIVE, POSITIVE)
@quick
def test_dlrm_pass(forward: float, backward: float, bottom: list[LoopRow], top: list[LoopRow], there: float,
                   back: float) -> None:  # fmt: skip
    """One pass of the recommendation loop is exact: exchanges behind the bottom MLP, reductions behind all the rest."""
    embedding = LoopRow(forward, backward, 0.0)
    terms = recommender(embedding, bottom, top, (there, back))
    clock, reduced = dlrm_loop(embedding, bottom, top, (there, back), 1)
    assert clock == pytest.approx(sum(terms.values()) - terms["dp_comm"], rel=EXACT)
    assert max(reduced - clock, 0.0) == pytest.approx(terms["dp_comm"], rel=EXACT, abs=1e-9)


@given(POSITIVE, POSITIVE, MLP, MLP, POSITIVE, POSITIVE)
@quick
def test_dlrm_passes_in_a_row(forward: float, backward: float, bottom: list[LoopRow], top: list[LoopRow], there: float,
                              back: float) -> None:  # fmt: skip
    """Over many iterations the loop differs only in how the tail meets the next forward pass, within stated bounds.

    The embedding needs no reduced gradients, so its look-ups hide some of the tail (at most forward); and the next
    exchange interrupts the tail (at most as long as it, where the bottom MLP would have hidden it).
    """
    embedding = LoopRow(forward, backward, 0.0)
    terms = recommender(embedding, bottom, top, (there, back))
    two, three = (dlrm_loop(embedding, bottom, top, (there, back), n)[0] for n in (2, 3))
    period = sum(terms.values())
    hidden = min(there, sum(row.forward for row in bottom))
    assert period - min(forward + hidden, terms["dp_comm"]) <= (three - two) * (1 + EXACT)
    assert three - two <= (period + (hidden if terms["dp_comm"] else 0.0)) * (1 + EXACT)
    if terms["dp_comm"] == 0:
        assert three - two == pytest.approx(period, rel=EXACT)


# -- whole estimates ----------------------------------------------------------------------------------------


def loop_rows(result: dse.Result) -> list[list[list[Row]]]:
    """The stacks of an estimate, one entry for each repeat."""
    layers: list[Any] = result._cells[0].evaluation["comet_rows"]
    return [[rows] * int(block.count) for block, rows in layers]


def as_loop(row: Row) -> LoopRow:
    return LoopRow(*(float(x) for x in (row.forward, row.input_grad, row.weight_grad, row.forward_comm, row.input_comm,
                                        row.weight_comm)))  # fmt: skip


@pytest.mark.parametrize("tp", [1, 8, 64, 256])
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize(("model", "batch"), [("transformer-1t", 1024), ("gpt3-175b", 2048), ("mixtral-8x7b", 1024)])
def test_estimates_equal_the_simulated_loop(model: str, batch: int, tp: int, recompute: str) -> None:
    """A whole estimate in COMET's execution is the simulated loop over its own rows."""
    strategy = {"tp": tp, "global_batch": batch, "execution": "comet", "precision": "fp16", "recompute": recompute,
                "gradient_precision": "fp16"}  # fmt: skip
    result = dse.estimate(model, "comet-baseline", strategy, devices=1024)
    stacks = [[as_loop(row) for row in rows] for repeated in loop_rows(result) for rows in repeated]
    terms = result.breakdown()
    simulated = transformer_loop(stacks, 3, recompute=recompute == "full")
    assert simulated == pytest.approx(3 * float(result["step_time"]) - terms["dp_comm"], rel=EXACT)


@pytest.mark.parametrize("devices", [8, 16, 32, 64])
@pytest.mark.parametrize("model", ["dlrm-1.2t", "dlrm-criteo-1tb"])
def test_recommenders_equal_the_simulated_loop(model: str, devices: int) -> None:
    """A whole DLRM estimate is the simulated loop over its own rows."""
    strategy = "global_batch=32768,execution=comet,precision=fp16,gradient_precision=fp16"
    result = dse.estimate(model, "comet-baseline", strategy, devices=devices)
    ((rows,),) = loop_rows(result)
    embedding, bottom = rows[0], [as_loop(r) for r in rows if r.name.startswith("bottom")]
    top = [as_loop(r) for r in rows[1 + len(bottom) :]]
    exchange = float(embedding.exchange_forward), float(embedding.exchange_backward)
    clock, reduced = dlrm_loop(as_loop(embedding), bottom, top, exchange, 1)
    assert max(clock, reduced) == pytest.approx(float(result["step_time"]), rel=EXACT)
