"""The pipeline timeline: what every stage does in one step, and where it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dse.units import engineering
from dse.view import theme
from dse.view.waterfall import HOVER, heading, room

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.explore.result import Result
    from dse.explore.timeline import Timeline

COLOURS = {"forward": "forward", "backward": "input_grad", "weight_grad": "weight_grad"}  # kind: whose colour
SCHEDULES = {"gpipe": "GPipe", "1f1b": "1F1B", "interleaved": "interleaved 1F1B", "zero_bubble_h1": "ZB-H1",
             "zero_bubble_h2": "ZB-H2"}  # fmt: skip
FEW = 40  # micro-batches and stages together up to which the whole step is drawn
EVENTS = 12_000  # about how many events are drawn at most
SEEN = 0.3  # pixels from which on an event is drawn
PIXELS = 1050  # of the drawing in a figure 1280 pixels wide
NARROWER = 2.5  # numbers are written where they fit in a figure so much narrower too


def pipeline(
    result: Result, *, stages: int = 16, micro_batches: int | None = None, title: str = "", dark: bool = False
) -> go.Figure:
    """The passes of every micro-batch on the stages, transfers, gradients' communication and optimizer over time.

    Of a long step the warm-up and the end are drawn; the cut between them is marked and says what it leaves out.

    Args:
        result: a single design.
        stages: at most how many stages to draw, evenly chosen with the first and the last.
        micro_batches: about how many to draw at either end; by default enough to fill and drain the pipeline.

    Raises:
        SpecError: the result has axes, or its step has too many passes.
    """
    from dse.explore.timeline import KINDS, timeline

    words = heading(result, title or "One step on the stages of the pipeline")
    played = timeline(result)
    kind = SCHEDULES[played.schedule]
    words["subtitle"] += (
        f"<br>{kind}, {played.pp} stages, {played.micro_batches} micro-batches; {engineering(played.step_time, 's')}, "
        f"pipeline idle {played.bubble_share:.1%}"
    )
    if abs(played.residual) > 1e-3 * played.step_time:
        words["subtitle"] += f"; played event by event {played.residual / played.step_time:+.1%}"
    cut = _cut(played, micro_batches)
    shown = _shown(played, stages, cut)
    end = float(np.max(played.start + played.duration))
    factor, unit = theme.axis_scale([end], "s")
    width = PIXELS / (end - (cut[1] - cut[0]))
    traces = [_idle(played, shown, cut, factor)]
    on_shown = np.isin(played.stage, shown)
    for position, name in enumerate(KINDS):
        mask = (played.kind == position) & on_shown
        if mask.any():
            traces += _events(played, mask, name, cut, factor, width)
    layout = _axes(shown, played, cut, end, (factor, unit), dark)
    return theme.drawn(traces, dark=dark, **words, margin={**room(words), "b": 100}, **layout)


def _shown(played: Timeline, stages: int, cut: tuple[float, float]) -> np.ndarray:
    """The stages to draw: fewer where each has very many passes."""
    each = len(played.stage) / played.pp * (1.0 - (cut[1] - cut[0]) / played.end)
    count = min(max(stages, 1), played.pp, max(int(EVENTS / each), 4))
    return np.unique(np.linspace(0, played.pp - 1, count).round().astype(int))


def _cut(played: Timeline, micro_batches: int | None) -> tuple[float, float]:
    """Start and end of the time that is left out, in seconds; equal where all is drawn."""
    if micro_batches is None and played.micro_batches + played.pp <= FEW:
        return 0.0, 0.0
    pace = played.pipeline_end / (played.micro_batches + played.pp - 1)
    window = pace * (micro_batches or max(played.pp + 4, 10))
    return (window, played.pipeline_end - window) if 2.2 * window < played.pipeline_end else (0.0, 0.0)


def _drawn(start: np.ndarray, length: np.ndarray, cut: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Where events lie once the cut is closed, and how long they are without their part in it."""
    low, high = cut

    def place(time: np.ndarray) -> np.ndarray:
        return np.where(time <= low, time, np.maximum(time - (high - low), low))

    first = place(start)
    return first, place(start + length) - first


def _idle(played: Timeline, shown: np.ndarray, cut: tuple[float, float], factor: float) -> dict[str, Any]:
    """A row a stage in the colour of the bubble, under the events."""
    span = np.full(len(shown), played.pipeline_end)
    start, length = _drawn(played.origin[shown], span, cut)
    hover = [f"<b>stage {s}</b><br>idle {engineering(played.idle[s], 's')} in the pipeline" for s in shown]
    row = {"x": length / factor, "base": start / factor, "y": [f"{s}" for s in shown], "orientation": "h"}
    marker = {**theme.fill("bubble"), "line": {"width": 0}, "opacity": 0.45}
    words = {"name": "idle (bubble)", "customdata": hover, "hovertemplate": HOVER}
    return {"type": "bar", **row, "marker": marker, **words}


def _events(
    played: Timeline, mask: np.ndarray, name: str, cut: tuple[float, float], factor: float, width: float
) -> list[dict[str, Any]]:
    """All events of one kind as one trace, but those too short to be seen; ``width`` is pixels a second.

    The template of what is shown on hover holds the words once, and an event its numbers.
    """
    start, length = _drawn(played.start[mask], played.duration[mask], cut)
    seen = (length > 0) & (length * width >= SEEN)
    if not seen.any():
        return []
    stage, batch, virtual, since, took = (
        column[mask][seen]
        for column in (played.stage, played.micro_batch, played.virtual_stage, played.start, played.duration)
    )
    label = name.replace("_", " ") if name in COLOURS else theme.term_title(name)
    parts = "".join(f"<br>  {theme.term_title(term)}: {value / sum(played.terms[name].values()):.0%}"
                    for term, value in played.terms.get(name, {}).items() if len(played.terms[name]) > 1)  # fmt: skip
    (early, early_unit), (long, long_unit) = (theme.axis_scale(times.tolist(), "s") for times in (since, took))
    numbers = np.stack([since / early, took / long, batch, virtual], axis=1).astype(np.float32)
    which = "<br>micro-batch %{customdata[2]}" if batch[0] >= 0 else ""
    if which and played.virtual_stages > 1:
        which += f", virtual stage %{{customdata[3]}} of {played.virtual_stages}"
    times = f"<br>starts at %{{customdata[0]:.5~r}} {early_unit}, takes %{{customdata[1]:.4~r}} {long_unit}"
    rows = {s: f"{s}" for s in np.unique(stage).tolist()}
    usual = float(np.median(length[seen])) * width
    first, span = ((times[seen] / factor).astype(np.float32) for times in (start, length))
    edge = {"width": 0.5 if usual > 4 else 0, "color": "#FFFFFF"}
    trace = {
        "type": "bar", "x": span, "base": first,
        "y": [rows[s] for s in stage.tolist()], "orientation": "h", "name": label, "meta": name,
        "marker": {**theme.fill(COLOURS.get(name, name)), "line": edge},
        "customdata": numbers, "hovertemplate": f"<b>{label}</b>, stage %{{y}}{which}{times}{parts}<extra></extra>",
    }  # fmt: skip
    if name in COLOURS and batch[0] >= 0 and usual > NARROWER * (5 + 7 * len(f"{batch.max()}")):
        trace |= {"text": [f"{b}" for b in batch.tolist()], "textposition": "inside", "insidetextanchor": "middle",
                  "textangle": 0, "constraintext": "none", "textfont": {"size": 11}}  # fmt: skip
    return [trace]


def _axes(
    shown: np.ndarray, played: Timeline, cut: tuple[float, float], end: float, scale: tuple[float, str], dark: bool
) -> dict[str, Any]:
    """Stages from the top down, ticks at their true times on both sides of the cut, the legend underneath."""
    factor, unit = scale
    low, high = cut
    left = [t for t in theme.linear_ticks(0.0, (low or end) / factor, 6) if not low or t < 0.93 * low / factor]
    right = theme.linear_ticks(high / factor, end / factor, 7) if low else []
    right = [t for t in right if t > (high + 0.07 * low) / factor]
    places = [*left, *(t - (high - low) / factor for t in right)]
    ticks = {"tickvals": places, "ticktext": [f"{t:.6g}" for t in (*left, *right)]}
    top = (end - (high - low)) / factor
    across = {"title": {"text": theme.with_unit("Time", unit)}, "range": [0, 1.005 * top], **ticks}
    names = [f"{s}" for s in shown]
    words: dict[str, Any] = {"type": "category", "categoryarray": names, "title": {"text": "Pipeline stage"}}
    down = {"autorange": "reversed", "showgrid": False, **words}
    marks: dict[str, list[Any]] = {"shapes": [], "annotations": []}
    if low:
        note = {"text": f"{engineering(high - low, 's')} not drawn", "yanchor": "bottom"}
        marks = theme.line_at(low / factor, dark, **note)
        [line] = marks["shapes"]
        gap = {**line, "line": {"color": theme.paper(dark), "width": 9}}
        marks["shapes"] = [gap, {**line, "line": {"color": theme.ink(dark), "width": 2, "dash": "dot"}}]
    height = int(min(720, max(330, 250 + 30 * len(shown))))
    return {"xaxis": across, "yaxis": down, "barmode": "overlay", "bargap": 0.12, "height": height,
            "legend": theme.BELOW, **marks}  # fmt: skip
