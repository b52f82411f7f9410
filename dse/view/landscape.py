"""A quantity over two axes as a map: many designs, what is infeasible and why, the best one and the present one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.objectives import DIRECTIONS
from dse.view import theme
from dse.view.reading import axis_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.explore.result import Result

WIDE, HIGH = 120, 90  # cells that are drawn at most
NAMED = 12  # rows and columns up to which the cells hold their numbers
SORTS = 4  # sets of broken rules that are told apart
GREY = {False: "#C9CDD4", True: "#3A404C"}
STAR = {"symbol": "star", "size": 17, "color": "#EE6B2A", "line": {"width": 1.5, "color": "#FFFFFF"}}
RING = {"symbol": "circle-open", "size": 18, "color": "#FFFFFF", "line": {"width": 3, "color": "#FFFFFF"}}


def landscape(
    result: Result,
    quantity: str,
    x: str,
    y: str,
    *,
    now: tuple[Any, Any] | None = None,
    selected: Mapping[str, tuple[float, float]] | None = None,
    log: bool = False,
    title: str = "",
    dark: bool = False,
) -> go.Figure:
    """A heat map of up to millions of designs; those that break a rule are grey and say why.

    At most 120 × 90 cells are drawn: of finer grids a cell shows the design at its centre. The star is the best of
    all designs, also of those that are not drawn.

    Args:
        result: two axes (others may have one value).
        quantity: a quantity, or an entry of a table as ``time.bubble``.
        x, y: names of the axes.
        now: values of the present design on x and y; it gets a ring.
        selected: axis → (low, high) in SI units: a frame around what is selected.
        log: colour by the logarithm.

    Raises:
        SpecError: no such axis or quantity, or an axis besides x and y.
    """
    sides = [_Side(axis_of(result, name, letter), most) for name, letter, most in ((x, "x", WIDE), (y, "y", HIGH))]
    _check(result, x, y)
    values = _grid(result, quantity, x, y).astype(float, copy=False)
    good = _grid(result, "feasible", x, y).astype(bool, copy=False)
    cut = np.ix_(sides[1].places, sides[0].places)
    shown, fits = _at(values, cut), _at(good, cut) & np.isfinite(_at(values, cut))
    unit = result.unit(quantity)
    scale, printed = theme.axis_scale(shown[fits] if fits.any() else shown.ravel(), unit)
    printed = theme.counted(quantity, printed, result.specs["model"])
    places = {"x": sides[0].shown, "y": sides[1].shown}
    lines = [f"{side.words}: %{{{letter}{side.form}}}{side.after}" for side, letter in zip(sides, "xy", strict=True)]
    where = "<br>".join(lines)
    small = fits.shape[0] <= NAMED and fits.shape[1] <= NAMED
    traces = [
        {**places, **_broken(dark, sort), "hovertemplate": f"{where}<br><i>{sort['why']}</i><extra></extra>"}
        for sort in _sorts(result, x, y, cut, ~fits)
    ]
    words = theme.sentence(theme.words(quantity))
    traces.append(
        {
            **places,
            **_cells(shown / scale, fits, log=log, dark=dark),
            "colorbar": _bar(shown[fits] / scale, theme.with_unit(words, printed), log=log),
            "hovertemplate": f"<b>{words}: %{{customdata:,.4~r}} {printed}</b><br>{where}<extra></extra>",
        }
    )
    best = _best(values, good, quantity)
    if small:
        traces[-1] |= _numbers(shown / scale, fits, best)
    elif best is not None:
        traces.append(_mark("best", [s.position(i) for s, i in zip(sides, best, strict=True)], STAR))
    shapes = _frame(sides, selected, dark)
    if now is not None and all(side.holds(value) for side, value in zip(sides, now, strict=True)):
        if small:
            shapes.append(_around(sides, now, dark))
        else:
            at = [side.scaled(value) for side, value in zip(sides, now, strict=True)]
            traces += [_mark("", at, {**RING, "size": 22, "color": "#000000"}), _mark("this design", at, RING)]
    usual = f"{words} over {theme.words(x)} and {theme.words(y)}"
    meta = {**sides[0].meta("x"), **sides[1].meta("y"), "designs": values.size}
    return theme.drawn(
        traces, dark=dark, xaxis=sides[0].axis(), yaxis=sides[1].axis(), showlegend=False, shapes=shapes, meta=meta,
        annotations=_none(good, fits, dark), **theme.heading(title, usual, _about(result, sides)),
    )  # fmt: skip


class _Side:
    """One axis of the map: which values are drawn, and how they are written."""

    def __init__(self, bound: Any, most: int) -> None:
        self.bound, self.every = bound, bound.coordinates
        count = len(self.every)
        drawn = min(count, most)
        self.places = ((np.arange(drawn) + 0.5) * count / drawn).astype(int)
        self.numeric = count > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.every)
        choice = bound.place.root == "strategy" and bound.name != "global_batch"
        self.numeric = self.numeric and not (choice or count <= 8)
        self.scale, self.unit = theme.axis_scale(self.every, bound.unit) if self.numeric else (1.0, "")
        numbers = np.asarray(self.every, dtype=float) / self.scale if self.numeric else np.zeros(0)
        self.log = self.numeric and bool(numbers.min() > 0 and numbers.max() > 8 * numbers.min())
        self.names = [] if self.numeric else [_name(value, bound.unit) for value in self.every]
        self.shown: Any = numbers[self.places] if self.numeric else [self.names[i] for i in self.places]
        self.words = theme.sentence(theme.words(bound.name))
        self.form = ":,.4~r" if self.numeric else ""
        self.after = f" {self.unit}" if self.unit else ""

    def axis(self) -> dict[str, Any]:
        found: dict[str, Any] = {"title": {"text": theme.with_unit(self.words, self.unit)}, "showgrid": False}
        if not self.numeric:
            return {**found, "type": "category"}
        first, last = self.scaled(self.every[0]), self.scaled(self.every[-1])
        first, last = (np.log10([first, last]) if self.log else (first, last)) if last > first else (last, first)
        half = 0.5 * (last - first) / max(len(self.places) - 1, 1)  # of a cell
        found["range"] = [float(first - half), float(last + half)]
        return found | ({"type": "log", **theme.log_ticks(self.shown)} if self.log else {"type": "linear"})

    def meta(self, letter: str) -> dict[str, Any]:
        """What turns places on the axis back into values."""
        found = {"": self.bound.name, "_scale": self.scale, "_log": self.log}
        return {f"{letter}{k}": v for k, v in {**found, "_values": None if self.numeric else list(self.every)}.items()}

    def position(self, index: int) -> Any:
        return float(self.every[index]) / self.scale if self.numeric else self.names[index]

    def cell(self, at: float) -> tuple[float, float]:
        """Ends of the cell around a place."""
        near = np.log10(self.shown) if self.log else np.asarray(self.shown)
        middles = (near[1:] + near[:-1]) / 2
        edges = np.concatenate([[2 * near[0] - middles[0]], middles, [2 * near[-1] - middles[-1]]])
        i = int(np.argmin(np.abs(near - (np.log10(at) if self.log else at))))
        low, high = edges[i : i + 2]
        return (float(10**low), float(10**high)) if self.log else (float(low), float(high))

    def holds(self, value: Any) -> bool:
        """Does a value lie on the axis?"""
        if not self.numeric:
            return value in self.every
        return bool(min(self.every) <= value <= max(self.every))

    def scaled(self, value: Any) -> Any:
        return value / self.scale if self.numeric else self.names[self.every.index(value)]


def _name(value: Any, unit: str) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else theme.label(value, unit)


def _check(result: Result, x: str, y: str) -> None:
    more = [b.name for b in result.axes if len(b.values) > 1 and b.name not in (x, y)]
    if x == y or more:
        rule = f"a landscape needs two axes, x and y; fix {', '.join(more)} with .sel(...)" if more else "is y too"
        raise SpecError([Fault("x", x, rule)])


def _grid(result: Result, name: str, x: str, y: str) -> np.ndarray:
    """A quantity as (y, x); an axis on which it does not depend has the length 1."""
    array = result[name]
    loose = {d: 0 for d in array.dims if d not in (x, y)}
    array = array.isel(loose) if loose else array
    kept = [d for d in (y, x) if d in array.dims]
    values = array.transpose(*kept).values
    return values.reshape([len(axis_of(result, d, "axis").values) if d in kept else 1 for d in (y, x)])


def _at(values: np.ndarray, cut: tuple[np.ndarray, ...]) -> np.ndarray:
    """The drawn cells of a grid."""
    rows, columns = (side if size > 1 else np.zeros_like(side) for side, size in zip(cut, values.shape, strict=True))
    return values[rows, columns]


def _best(values: np.ndarray, good: np.ndarray, quantity: str) -> tuple[int, int] | None:
    """Place (x, y) of the best feasible design, of quantities that have a good end."""
    if quantity not in DIRECTIONS:
        return None
    shape = np.broadcast_shapes(values.shape, good.shape)
    lost = np.inf if DIRECTIONS[quantity] else -np.inf
    score = np.where(good & np.isfinite(values), values, lost)
    place = np.argmin(score) if DIRECTIONS[quantity] else np.argmax(score)
    row, column = np.unravel_index(place, score.shape)
    if not np.isfinite(score[row, column]) or shape == (1, 1):
        return None
    return int(column), int(row)


def _sorts(result: Result, x: str, y: str, cut: tuple[np.ndarray, ...], bad: np.ndarray) -> list[dict[str, Any]]:
    """Infeasible cells by the set of rules that they break: where, why, and what is missing in memory."""
    from dse.explore.evaluate import RULES
    from dse.space import rules

    if not bad.any():
        return []
    margins = {rule: np.broadcast_to(_at(_grid(result, rule, x, y), cut), bad.shape) for rule in RULES}
    broken = {rule: margin < 0 for rule, margin in margins.items() if (margin < 0).any()}
    codes = np.where(bad, sum(mask * (1 << i) for i, mask in enumerate(broken.values())), -1)
    kinds, counts = np.unique(codes[bad], return_counts=True)
    kinds = kinds[np.argsort(-counts, kind="stable")]
    found = []
    for code in kinds[:SORTS].tolist():
        names = [rule for i, rule in enumerate(broken) if code >> i & 1]
        why = "; ".join(_rule(rules.texts()[name]) for name in names if name != "memory_fits")
        lacks = None
        if "memory_fits" in names:
            lacks = np.where(codes == code, -margins["memory_fits"] / 1e9, 0.0)
            why = "; ".join(filter(None, (why, "memory overflows by %{customdata:,.4~r} GB a device")))
        found.append({"mask": codes == code, "why": why or "no finite value", "lacks": lacks})
    if len(kinds) > SORTS:
        found.append({"mask": np.isin(codes, kinds[SORTS:]), "why": "breaks several rules", "lacks": None})
    return found


def _rule(text: str) -> str:
    """A rule's sentence without the numbers of one design."""
    return re.sub(r" ?[=(]? ?\{[^}]*\}\)?(·\{[^}]*\})*", "", text)


def _broken(dark: bool, sort: Mapping[str, Any]) -> dict[str, Any]:
    """Grey cells."""
    given = {} if sort["lacks"] is None else {"customdata": sort["lacks"].astype(np.float32)}
    z = np.where(sort["mask"], np.float32(1), np.float32(np.nan))
    scale = [[0, GREY[dark]], [1, GREY[dark]]]
    return {"type": "heatmap", "z": z, "colorscale": scale, "showscale": False, "hoverongaps": False, **given}


def _cells(shown: np.ndarray, fits: np.ndarray, *, log: bool, dark: bool) -> dict[str, Any]:
    """Coloured cells."""
    shown = np.broadcast_to(shown, fits.shape)
    colour = np.where(fits, np.log10(np.where(shown > 0, shown, np.nan)) if log else shown, np.nan)
    return {
        "type": "heatmap", "z": colour.astype(np.float32), "customdata": shown.astype(np.float32),
        "colorscale": theme.shades(dark), "hoverongaps": False,
    }  # fmt: skip


def _numbers(shown: np.ndarray, fits: np.ndarray, best: tuple[int, int] | None) -> dict[str, Any]:
    """The numbers in few cells; the best has the star before its own."""
    texts = [[f"{v:.3g}" if abs(v) < 1e3 else theme.compact(v) for v in row] for row in shown.tolist()]
    if best is not None:
        texts[best[1]][best[0]] = f"<b>★ {texts[best[1]][best[0]]}</b>"
    return {"text": np.where(fits, np.array(texts, dtype=object), ""), "texttemplate": "%{text}", "xgap": 2, "ygap": 2,
            "textfont": {"size": 14}}  # fmt: skip


def _around(sides: list[_Side], now: tuple[Any, Any], dark: bool) -> dict[str, Any]:
    """A frame around the cell of the present design."""
    frame: dict[str, Any] = {"type": "rect", "line": {"width": 3, "color": theme.ink(dark)}}
    for side, value, letter in zip(sides, now, "xy", strict=True):
        if side.numeric:  # between the middles to the neighbours
            at = side.scaled(value)
            frame |= {f"{letter}{k}": end for k, end in enumerate(side.cell(at))}
        else:
            place = side.every.index(value)
            frame |= {f"{letter}0": place - 0.5, f"{letter}1": place + 0.5}
    return frame


def _none(good: np.ndarray, fits: np.ndarray, dark: bool) -> list[dict[str, Any]]:
    """What to say where no cell has a colour."""
    if fits.any():
        return []
    text = "no design that is drawn is feasible" if good.any() else "no design is feasible"
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    return [{**place, "text": text, "font": {"size": 16, "color": theme.ink(dark)}, "bgcolor": theme.paper(dark)}]


def _bar(values: np.ndarray, words: str, *, log: bool) -> dict[str, Any]:
    """The colour bar, with round ticks."""
    bar: dict[str, Any] = {"title": {"text": words, "side": "right"}, "thickness": 16}
    if not len(values):
        return bar
    low, high = float(values.min()), float(values.max())
    if not log:
        ticks = theme.linear_ticks(low, high)
        return {**bar, "tickvals": ticks, "ticktext": [theme.tick(float(f"{t:.4g}")) for t in ticks]}
    ticks = [t for t in theme.log_ticks(values).get("tickvals", []) if low * 0.99 <= t <= high * 1.01]
    if len(ticks) < 2:
        ticks = theme.linear_ticks(low, high)
    positive = [t for t in ticks if t > 0]
    return {**bar, "tickvals": np.log10(positive), "ticktext": [theme.tick(float(f"{t:.4g}")) for t in positive]}


def _mark(name: str, at: list[Any], marker: dict[str, Any]) -> dict[str, Any]:
    """A single mark."""
    return {
        "type": "scatter", "mode": "markers", "x": at[:1], "y": at[1:], "name": name, "marker": marker,
        "cliponaxis": False, "hoverinfo": "skip",
    }  # fmt: skip


def _frame(sides: list[_Side], selected: Mapping[str, Any] | None, dark: bool) -> list[dict[str, Any]]:
    """A frame around what is selected on the axes that are numbers."""
    if not selected:
        return []
    frame: dict[str, Any] = {"type": "rect", "line": {"width": 2, "dash": "dash", "color": theme.ink(dark)}}
    found = False
    for side, letter in zip(sides, "xy", strict=True):
        ends = selected.get(side.bound.name)
        if side.numeric and ends is not None:
            frame |= {f"{letter}{k}": float(end) / side.scale for k, end in enumerate(ends)}
            found = True
        else:
            frame |= {f"{letter}0": 0, f"{letter}1": 1, f"{letter}ref": "paper"}
    return [frame] if found else []


def _about(result: Result, sides: list[_Side]) -> str:
    """The design, and how a finer grid is shown."""
    devices = {b.name: b for b in result.axes}
    known = None if any(name.endswith("devices") for name in devices) else result.specs["cluster"].devices  # type: ignore[attr-defined]
    text = theme.design_text(result.specs, known)
    if any(len(side.places) < len(side.every) for side in sides):
        text += "; cells show their centres"
    return text
