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
PIXELS = 1050  # of the drawing in a figure 1280 pixels wide


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
    figure = theme.blank(words["title"], dark, subtitle=words["subtitle"], margin={**room(words), "b": 100})
    shown = np.unique(np.linspace(0, played.pp - 1, min(max(stages, 1), played.pp)).round().astype(int))
    cut = _cut(played, micro_batches)
    end = float(np.max(played.start + played.duration))
    factor, unit = theme.axis_scale([end], "s")
    _idle(figure, played, shown, cut, factor)
    width = PIXELS / (end - (cut[1] - cut[0]))
    for position, name in enumerate(KINDS):
        mask = (played.kind == position) & np.isin(played.stage, shown)
        if mask.any():
            _events(figure, played, mask, name, cut, factor, width)
    _axes(figure, shown, played, cut, end, (factor, unit), dark)
    return figure


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


def _idle(figure: go.Figure, played: Timeline, shown: np.ndarray, cut: tuple[float, float], factor: float) -> None:
    """A row a stage in the colour of the bubble, under the events."""
    import plotly.graph_objects as go

    span = np.full(len(shown), played.pipeline_end)
    start, length = _drawn(played.origin[shown], span, cut)
    hover = [f"<b>stage {s}</b><br>idle {engineering(played.idle[s], 's')} in the pipeline" for s in shown]
    row = {"x": length / factor, "base": start / factor, "y": [f"{s}" for s in shown], "orientation": "h"}
    marker = {**theme.fill("bubble"), "line": {"width": 0}, "opacity": 0.45}
    figure.add_trace(go.Bar(**row, name="idle (bubble)", marker=marker, customdata=hover, hovertemplate=HOVER))


def _events(
    figure: go.Figure,
    played: Timeline,
    mask: np.ndarray,
    name: str,
    cut: tuple[float, float],
    factor: float,
    width: float,
) -> None:
    """All events of one kind as one trace; ``width`` is pixels a second."""
    import plotly.graph_objects as go

    start, length = _drawn(played.start[mask], played.duration[mask], cut)
    seen = length > 0
    stage, batch, virtual, since, took = (
        column[mask][seen].tolist()
        for column in (played.stage, played.micro_batch, played.virtual_stage, played.start, played.duration)
    )
    label = name.replace("_", " ") if name in COLOURS else theme.term_title(name)
    parts = "".join(f"<br>  {theme.term_title(term)}: {value / sum(played.terms[name].values()):.0%}"
                    for term, value in played.terms.get(name, {}).items() if len(played.terms[name]) > 1)  # fmt: skip
    some = f", virtual stage {{}} of {played.virtual_stages}" if played.virtual_stages > 1 else ""
    hover = [
        f"<b>{label}</b>, stage {s}" + (f"<br>micro-batch {b}{some.format(v)}" if b >= 0 else "")
        + f"<br>starts at {engineering(t, 's')}, takes {engineering(d, 's')}{parts}"
        for s, b, v, t, d in zip(stage, batch, virtual, since, took, strict=True)
    ]  # fmt: skip
    fits = width * float(np.median(length[seen])) > 5 + 7 * max(len(f"{b}") for b in batch)
    text = [f"{b}" if fits and b >= 0 and name in COLOURS else "" for b in batch]
    row = {"x": length[seen] / factor, "base": start[seen] / factor, "y": [f"{s}" for s in stage], "orientation": "h"}
    line = {"width": 0.5 if float(np.median(length[seen])) * width > 4 else 0, "color": "#FFFFFF"}
    figure.add_trace(
        go.Bar(
            **row, name=label, meta=name, marker={**theme.fill(COLOURS.get(name, name)), "line": line},
            customdata=hover, hovertemplate=HOVER, text=text, textposition="inside", insidetextanchor="middle",
            textangle=0, constraintext="none", textfont={"size": 11},
        )
    )  # fmt: skip


def _axes(
    figure: go.Figure,
    shown: np.ndarray,
    played: Timeline,
    cut: tuple[float, float],
    end: float,
    scale: tuple[float, str],
    dark: bool,
) -> None:
    """Stages from the top down, ticks at their true times on both sides of the cut, the legend underneath."""
    factor, unit = scale
    low, high = cut
    left = [t for t in theme.linear_ticks(0.0, (low or end) / factor, 6) if not low or t < 0.93 * low / factor]
    right = theme.linear_ticks(high / factor, end / factor, 7) if low else []
    right = [t for t in right if t > (high + 0.07 * low) / factor]
    places = [*left, *(t - (high - low) / factor for t in right)]
    ticks = {"tickvals": places, "ticktext": [f"{t:.6g}" for t in (*left, *right)]}
    top = (end - (high - low)) / factor
    figure.update_xaxes(title={"text": theme.with_unit("Time", unit)}, range=[0, 1.005 * top], **ticks)
    names = [f"{s}" for s in shown]
    words: dict[str, Any] = {"type": "category", "categoryarray": names, "title": {"text": "Pipeline stage"}}
    figure.update_yaxes(autorange="reversed", showgrid=False, **words)
    if low:
        figure.add_vline(low / factor, line={"color": theme.paper(dark), "width": 9})
        figure.add_vline(low / factor, line={"color": theme.ink(dark), "width": 2, "dash": "dot"})
        text = f"{engineering(high - low, 's')} not drawn"
        note = {"yref": "paper", "y": 1, "yanchor": "bottom", "showarrow": False}
        figure.add_annotation(x=low / factor, text=text, **note)
    legend = {"orientation": "h", "x": 0, "y": 0.01, "yref": "container", "yanchor": "bottom"}
    height = int(min(720, max(330, 250 + 30 * len(shown))))
    figure.update_layout(barmode="overlay", bargap=0.12, height=height, legend=legend)
