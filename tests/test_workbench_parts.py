"""Parts of the workbench by themselves: brushes and boxes, plans that give way, several threads."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ipywidgets")
pytest.importorskip("anywidget")

from browser import looped

import dse
from dse.app.board import drawn
from dse.app.brush import boxes, picked, unpicked
from dse.app.later import Later
from dse.app.widgets import Plot

BANDWIDTH = "cluster.node.accelerator.memory.bandwidth"
numbers = st.floats(1e-3, 1e15)
scales = st.sampled_from([1.0, 1e-6, 1e9, 1e12])


@given(ends=st.lists(numbers, min_size=4, max_size=4), x_scale=scales, y_scale=scales)
def test_a_box_and_what_it_selects_are_inverse(ends: list[float], x_scale: float, y_scale: float):
    """A box drawn for a selection selects it again, up to the slack that takes in its edge."""
    meta = {"x": "a [s]", "y": "b [B]", "x_scale": x_scale, "y_scale": y_scale}
    selected = {"a [s]": tuple(sorted(ends[:2])), "b [B]": tuple(sorted(ends[2:]))}
    [box] = boxes(meta, selected)
    message = {"type": "brush", "range": {"x": [box["x0"], box["x1"]], "y": [box["y1"], box["y0"]]}}
    again = picked(meta, message)
    for column, (low, high) in selected.items():
        assert again[column] == pytest.approx((low, high), rel=1e-9)
        assert again[column][0] <= low * (1 + 1e-13)
        assert again[column][1] >= high * (1 - 1e-13)


@given(values=st.lists(st.integers(1, 64), min_size=1, max_size=8, unique=True), data=st.data())
def test_a_box_over_categories(values: list[int], data: st.DataObject):
    """Categories stand at 0, 1, 2, ...: a box around some of them selects their span."""
    values = sorted(values)
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, len(values) - 1)] * 2)))
    meta = {"x": "tp", "y": "a [s]", "x_values": values, "y_scale": 1.0}
    found = picked(meta, {"type": "brush", "range": {"x": [low - 0.4, high + 0.4], "y": [1.0, 2.0]}})
    assert found["tp"] == (values[low], values[high])
    [box] = boxes(meta, found)
    assert (box["x0"], box["x1"]) == (low - 0.45, high + 0.45)


@given(low=st.floats(1e-3, 1e6), factor=st.floats(1.0, 1e6), scale=scales, log=st.booleans())
def test_a_range_on_a_line(low: float, factor: float, scale: float, log: bool):
    """Ranges of parallel lines, linear and logarithmic."""
    dimension = {"column": "a [s]", "log": log, "scale": scale, "values": None}
    ends = unpicked(dimension, (low, low * factor))
    found = picked({"dimensions": [dimension]}, {"type": "ranges", "ranges": [ends]})
    assert found["a [s]"] == pytest.approx((low, low * factor), rel=1e-9)


def test_names_on_a_line():
    """Ranges over names are the names; nothing is selected between two of them."""
    dimension = {"column": "recompute", "values": ["none", "selective", "full"]}
    told = {"dimensions": [dimension]}
    assert picked(told, {"type": "ranges", "ranges": [[0.6, 2.3]]}) == {"recompute": ("selective", "full")}
    assert picked(told, {"type": "ranges", "ranges": [[0.2, 0.8]]}) == {}
    assert unpicked(dimension, ("selective", "full")) == [0.8, 2.2]


def test_a_newer_plan_replaces_what_is_not_done():
    """Steps run in order, messages come in between, and an overtaken plan stops."""
    done: list[str] = []

    async def main() -> None:
        later = Later(threading.RLock())
        later.plan([(0.0, lambda name=name: done.append(name)) for name in "abc"])
        assert done == []  # nothing runs before the loop does
        await asyncio.sleep(0.01)
        assert later.idle
        later.plan([(0.0, lambda: done.append("x")), (10.0, lambda: done.append("never"))])
        await asyncio.sleep(0.01)
        later.plan([(0.0, lambda: done.append("y"))])
        await asyncio.sleep(0.02)

    looped(main)
    assert done == ["a", "b", "c", "x", "y"]


def test_several_threads_at_once():
    """JupyterLab handles widgets in several threads: no change is lost, and the page shows the last state."""
    bench = dse.workbench("gpt3-175b", "dgx-h100", "tp=8,pp=16,global_batch=1024,zero_stage=1", devices=1024)
    before = len(bench.history.past)

    def work(path: str, values: list[str]) -> None:
        for value in values:
            bench.act(f"set:{path}", value)

    jobs = [
        threading.Thread(target=work, args=(BANDWIDTH, [f"{2 + k / 10} TB/s" for k in range(12)])),
        threading.Thread(target=work, args=("cluster.node.accelerator.memory.capacity", [f"{90 + k} GB" for k in range(12)])),
    ]  # fmt: skip
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert len(bench.history.past) - before == 24
    assert bench.state.get(BANDWIDTH) == pytest.approx(3.1e12)
    assert bench.state.get("cluster.node.accelerator.memory.capacity") == pytest.approx(101e9)
    shown = bench.board.cards["breakdown"].plot.figure
    assert json.loads(shown) == json.loads(json.dumps(drawn("breakdown", bench.scene)))
    bench.close()


def test_messages_that_overtake_each_other():
    """What is in sight is what the latest message of the page says, in whatever order they come."""
    plot = Plot()
    plot._receive(plot, {"type": "seen", "seen": True, "at": 2.0}, [])
    plot._receive(plot, {"type": "seen", "seen": False, "at": 1.0}, [])
    assert plot.seen
    plot._receive(plot, {"type": "seen", "seen": False, "at": 3.0}, [])
    assert not plot.seen
    plot.close()
