"""Figures of one sparse matrix engine at work: its pipeline over time, and a tile of rows packed for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.view import theme
from dse.view.vegeta_studies import HOVER, PATTERNS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.domains.vegeta.cover import Packed
    from dse.domains.vegeta.timing import Timing

STAGES = {  # in the order of time: what people call them, colour
    "WL": ("weight load (WL)", "#888888"), "FF": ("feed first (FF)", "#0772DF"),
    "FS": ("feed second (FS)", "#88CCEE"), "DR": ("drain (DR)", "#EE6B2A"),
}  # fmt: skip
WAITED = {False: "#F3D0DC", True: "#5A2338"}  # between two FF
# What an FF waits for: the operand that came last, and why.
OPERAND_WORDS = {"none": "nothing", "weights": "the array", "a": "A", "metadata": "the positions of A", "b": "B",
                 "c": "C", "sum": "C", "entry": "the core"}  # fmt: skip
CAUSE_WORDS = {
    "weights": "weights are loading", "dependence": "an earlier instruction adds to it", "stages": "a stage is taken",
    "bandwidth": "loads and stores before it", "latency": "latency of the load", "issue": "not issued yet",
    "run-ahead": "the reorder buffer was full", "load buffer": "the load buffer was full",
    "registers": "no register was free", "memory": "an earlier store to the same place",
}  # fmt: skip
EMPTY = {False: "#EEF0F3", True: "#242933"}
PADDING = {False: "#C9CDD4", True: "#4A5260"}


def pipeline(
    timings: Timing | Mapping[str, Timing], *, first: int = 0, count: int = 10, title: str = "", dark: bool = False
) -> go.Figure:
    """Stages of matrix instructions over engine cycles, a panel a timing, and what each FF waited for.

    Args:
        timings: of one program, or of several by the names of their panels.
        first, count: which matrix instructions; time starts with the first of them.

    Raises:
        SpecError: a timing has no such instruction.
    """
    panels = timings if isinstance(timings, Mapping) else {timings.engine.name or timings.engine.id: timings}
    least = min((len(timing.starts) for timing in panels.values()), default=0)
    if not 0 <= first < least or count < 1:
        raise SpecError([Fault("first", str(first), f"must be 0 to {least - 1}, and count at least 1")])
    traces: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    axes: dict[str, Any] = {}
    share = 1 / len(panels)
    for place, (name, timing) in enumerate(panels.items()):
        number = "" if place == 0 else f"{place + 1}"
        traces += _instructions(timing, first, count, f"y{number}", dark)
        top = 1 - place * share
        rows = list(range(first, first + min(count, len(timing.starts) - first)))
        axes[f"yaxis{number}"] = {
            "domain": [top - share * 0.84, top - share * 0.06], "autorange": "reversed", "showgrid": False,
            "tickvals": rows, "tickfont": {"size": 11}, "title": {"text": "Instruction", "font": {"size": 13}},
        }  # fmt: skip
        pace = np.diff(timing.starts[first : first + count]).mean() if len(rows) > 1 else float("nan")
        about = f"<b>{name}</b>: {timing.cycles:,.0f} cycles, busy {timing.utilisation:.0%}; waits: {_stalled(timing)}"
        about += f"; here an instruction in {pace:.3g} cycles" if len(rows) > 1 else ""
        notes.append({"x": 0, "xref": "paper", "xanchor": "left", "y": top - share * 0.06, "yref": "paper",
                      "yanchor": "bottom", "text": about, "showarrow": False, "font": {"size": 13}})  # fmt: skip
    known: set[str] = set()
    for trace in traces:  # one entry in the legend for all panels
        trace["showlegend"] = trace["legendgroup"] not in known
        known.add(trace["legendgroup"])
    words = theme.heading(title, "Instructions in the array", "One instruction a row; all panels to the same scale")
    words["margin"] = {"t": words["margin"]["t"] + 18, "b": 85}
    last = f"y{len(panels)}" if len(panels) > 1 else "y"
    return theme.drawn(
        traces, dark=dark, barmode="overlay", legend=theme.BELOW, annotations=notes,
        height=150 + len(panels) * (70 + 17 * min(count, least - first)), **axes,
        xaxis={"title": {"text": "Engine cycles"}, "rangemode": "tozero", "anchor": last}, **words,
    )  # fmt: skip


def _instructions(timing: Timing, first: int, count: int, axis: str, dark: bool) -> list[dict[str, Any]]:
    """Bars of the stages of some instructions, and of the waits between them."""
    stages = timing.stages(first, count)
    zero = float(stages["WL"][0].min())
    rows = np.arange(first, first + len(stages["WL"][0]))
    told = _told(timing, first, len(rows))
    bar = {"type": "bar", "orientation": "h", "yaxis": axis, "y": rows, "hovertemplate": HOVER}
    before = timing.starts[first - 1] + timing.engine.ff if first else stages["FF"][0][0]
    ends = np.maximum(np.concatenate([[before], stages["FF"][1][:-1]]), zero)
    gap = stages["FF"][0] - ends
    late = gap > 0
    traces = []
    if late.any():
        traces.append(
            {**bar, "y": rows[late], "base": ends[late] - zero, "x": gap[late], "width": 0.94, "name": "wait before FF",
             "marker": {"color": WAITED[dark]}, "customdata": [told[i] for i in np.flatnonzero(late)],
             "legendgroup": "waits"}
        )  # fmt: skip
    for stage, (name, colour) in STAGES.items():
        start, end = stages[stage]
        said = [f"<b>instruction {row}</b>, {name}<br>cycles {a - zero:g} to {b - zero:g}<br>{text}"
                for row, a, b, text in zip(rows, start, end, told, strict=True)]  # fmt: skip
        traces.append(
            {**bar, "base": start - zero, "x": end - start, "width": 0.62, "name": name, "customdata": said,
             "marker": {"color": colour, "line": {"width": 0.6, "color": theme.paper(dark)}},
             "legendgroup": stage}
        )  # fmt: skip
    return traces


def _told(timing: Timing, first: int, count: int) -> list[str]:
    """What FF of each instruction waited for, in words."""
    from dse.domains.vegeta.pipeline import CAUSES, OPERANDS

    part = slice(first, first + count)
    return [
        "FF follows on FF" if why < 0 else f"waited for {OPERAND_WORDS[OPERANDS[what]]}: {CAUSE_WORDS[CAUSES[why]]}"
        for what, why in zip(timing.operand[part].tolist(), timing.cause[part].tolist(), strict=True)
    ]


def _stalled(timing: Timing, most: int = 2) -> str:
    """The largest shares of the cycles between two FF, by cause."""
    shares = {cause: cycles / timing.cycles for cause, cycles in timing.stalls.items()}
    largest = sorted(shares, key=lambda cause: -shares[cause])[:most]
    return ", ".join(f"{cause} {shares[cause]:.0%}" for cause in largest if shares[cause] >= 0.005) or "none"


def tile(
    rows: np.ndarray, patterns: Sequence[int], *, names: Sequence[int] | None = None, block: int = 4,
    first: int = 0, capacity: int | None = None, usual: str = "Rows that share a tile", title: str = "",
    dark: bool = False,
) -> go.Figure:  # fmt: skip
    """Rows of a sparse matrix that share one tile: on the left as they are, on the right as the engine holds them.

    Args:
        rows: pieces of rows [r, w], w a multiple of ``block``.
        patterns: N of each row's N:``block``; no block of a row has more non-zeros.
        names: number of each row in the matrix; by default their places.
        first: column of the matrix that the pieces start at.
        capacity: non-zeros that a tile holds; by default not said.
        usual: title where none is given.

    Raises:
        SpecError: a row that its pattern does not cover.
    """
    rows, n = np.asarray(rows), np.asarray(patterns, int)
    if rows.ndim != 2 or rows.shape[1] % block or n.shape != rows.shape[:1]:
        raise SpecError([Fault("rows", str(rows.shape), f"must be [r, w] with w in blocks of {block}, one N a row")])
    blocks = (rows != 0).reshape(len(rows), -1, block)
    most = blocks.sum(2).max(1, initial=0)
    if (most > n).any():
        bad = int(np.argmax(most > n))
        raise SpecError([Fault(f"patterns[{bad}]", str(n[bad]), f"must be at least {most[bad]} for that row")])
    kinds = sorted(set(n.tolist()), reverse=True)
    colours = [EMPTY[dark], PADDING[dark], *(_colour(k, block) for k in kinds)]
    code = np.array([2 + kinds.index(k) for k in n.tolist()], int)
    names = list(range(len(rows))) if names is None else [int(v) for v in names]
    held = _held(blocks, n, code)
    left = np.where(blocks, code[:, None, None], 0).reshape(rows.shape)
    labels = [f"{name}" for name in names]
    said = [f"row {name} at {k}:{block}" for name, k in zip(names, n.tolist(), strict=True)]
    traces = [_cells(left, labels, colours, said, "x", first), _cells(held, labels, colours, said, "x2")]
    marks = [(f"rows at {k}:{block}", colours[2 + i]) for i, k in enumerate(kinds)]
    traces += [_key(name, colour) for name, colour in (*marks, ("slot filled with a zero", PADDING[dark]))]
    used, slots = int(blocks.sum()), int((held >= 0).sum())
    about = f"{len(rows)} rows, {used} non-zeros in {slots} slots" + (f" of {capacity}" if capacity else "")
    words = theme.heading(title, usual, about)
    words["margin"] = {**words["margin"], "b": 105}
    hidden = {"showgrid": False, "zeroline": False, "showline": False}
    across = {**hidden, "dtick": 16, "tick0": 0}
    return theme.drawn(
        traces, dark=dark, legend=theme.BELOW, height=230 + 17 * max(len(rows), 8),
        xaxis={**across, "domain": [0, 0.485], "title": {"text": "Column of the matrix"}},
        xaxis2={**across, "domain": [0.515, 1], "title": {"text": "Slot of the row in the tile"}},
        yaxis={**hidden, "autorange": "reversed", "type": "category", "dtick": 1, "tickfont": {"size": 12},
               "title": {"text": "Row of the matrix"}}, **words,
    )  # fmt: skip


def packed(
    cover: Packed, a: np.ndarray, number: int = 0, *, block: int = 4, title: str = "", dark: bool = False
) -> go.Figure:
    """One tile of a packed matrix, as :func:`tile` draws it.

    Args:
        cover: of ``a``, as :func:`dse.domains.vegeta.cover.pack` gives it.
        a: the matrix [m, k].
        number: of the tile.
        block: the M of the engine's N:M.

    Raises:
        SpecError: there is no such tile.
    """
    if not 0 <= number < len(cover.panel):
        raise SpecError([Fault("number", str(number), f"must be 0 to {len(cover.panel) - 1}")])
    n, rows = cover.n[number], cover.rows[cover.group[number]]
    first = int(cover.panel[number]) * cover.span
    piece = np.zeros((int((n > 0).sum()), cover.span))
    part = np.asarray(a)[rows[n > 0], first : first + cover.span]
    piece[:, : part.shape[1]] = part
    head = f"Tile {number} of {len(cover.panel)}: columns {first} to {first + cover.span - 1}"
    known = {"names": rows[n > 0], "block": block, "first": first, "capacity": cover.values.shape[1]}
    return tile(piece, n[n > 0], usual=head, title=title, dark=dark, **known)


def _held(blocks: np.ndarray, n: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Slots of each row as the tile holds them [r, w]: of a block its non-zeros and first zeros; -1 past the row."""
    count, width, block = blocks.shape
    spare = n[:, None, None] - blocks.sum(2, keepdims=True)
    kept = blocks | (np.cumsum(~blocks, axis=2) <= spare)
    held = np.full((count, width * block), -1)
    for row in range(count):
        held[row, : width * n[row]] = np.where(blocks[row][kept[row]], code[row], 1)
    return held


def _cells(
    code: np.ndarray, labels: list[str], colours: list[str], said: list[str], axis: str, start: int = 0
) -> dict[str, Any]:  # fmt: skip
    """Cells in fixed colours; codes below zero are left blank."""
    steps = len(colours)
    scale = [[(i + e) / steps, colour] for i, colour in enumerate(colours) for e in (0, 1)]
    return {
        "type": "heatmap", "z": np.where(code < 0, np.nan, code), "x": np.arange(code.shape[1]) + start,
        "y": labels, "xaxis": axis, "zmin": -0.5, "zmax": steps - 0.5, "colorscale": scale, "showscale": False,
        "xgap": 1, "ygap": 1, "hoverongaps": False,
        "customdata": [[text] * code.shape[1] for text in said],
        "hovertemplate": "%{customdata}<br>place %{x}<extra></extra>",
    }  # fmt: skip


def _key(name: str, colour: str) -> dict[str, Any]:
    """An entry of the legend for cells."""
    marker = {"symbol": "square", "size": 12, "color": colour}
    return {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": name, "marker": marker}


def _colour(n: int, block: int) -> str:
    """The colour of a pattern; those without one of their own share the spare ones."""
    return PATTERNS.get(f"{n}:{block}", theme.SPARE[(n + 2) % len(theme.SPARE)])
