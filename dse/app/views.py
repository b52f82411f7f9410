"""The views of the workbench: each a pure function from what is known to a figure. Add one by adding a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from dse.app.design import Design
from dse.app.operators import INTENSITY, RATE
from dse.app.state import State, landscape
from dse.spec.calibration import stamp
from dse.view import theme

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from dse.app.designs import Designs
    from dse.explore.result import Result

COARSE, FINE = 24, 1000  # points of an axis of the landscape: while something moves, and at rest
ENVELOPE = 24  # points of an axis of the landscape of the best strategies
TOP = 12  # bars of the tornado


@dataclass(frozen=True)
class Scene:
    """What the views show.

    Attributes:
        state: the design and the view.
        points: of each axis of the landscape.
        searched: the designs of a search, in place of the strategies.
        surface: the landscape, where it is known already.
    """

    state: State
    points: int = COARSE
    searched: Any = None
    surface: Result | None = None

    @property
    def result(self) -> Result:
        """The design priced."""
        return self.state.result

    @property
    def dark(self) -> bool:
        """The theme."""
        return self.state.view.dark

    @cached_property
    def designs(self) -> Designs:
        """The strategies of this design, or the designs of a search."""
        if self.searched is not None:
            return self.searched
        return _strategies(self.state.design, self.state.locks, self.state.view.objectives, stamp())

    @cached_property
    def selected(self) -> Any:
        """Which of the designs are brushed; None if nothing is."""
        from dse.app.designs import chosen

        ranges = self.ranges(self.designs)
        return chosen(self.designs, ranges) if ranges else None

    def ranges(self, designs: Designs) -> dict[str, Any]:
        """The part of the selection that the table has columns for."""
        return {
            column: {"values": list(picked)} if isinstance(picked[0], str | bool) else picked
            for column, picked in self.state.view.selected
            if column in designs.table.columns
        }

    @cached_property
    def now(self) -> dict[str, Any]:
        """Fields of the present strategy, to find it among others."""
        strategy = self.state.design.strategy
        fields = {name: getattr(strategy, name) for name in type(strategy).model_fields if name != "dp"}
        return {**fields, "dp": self.state.design.devices // self.state.design.width}


@lru_cache(maxsize=16)
def _strategies(design: Design, locks: frozenset[str], objectives: tuple[str, str], _stamp: Any) -> Designs:
    from dse.app.designs import strategies

    return strategies(State(design, design, locks=locks), objectives=objectives)


@lru_cache(maxsize=16)
def _tornado(design: Design, _stamp: Any) -> Any:
    from dse.explore.sensitivity import tornado

    return tornado(design.result)


@lru_cache(maxsize=16)
def _prices(design: Design, _stamp: Any) -> Any:
    from dse.explore.sensitivity import shadow_prices

    return shadow_prices(design.result)


@lru_cache(maxsize=8)
def _landscape(design: Design, x: str, y: str, quantity: str, points: int, _stamp: Any) -> Result:
    return landscape(State(design, design), x, y, quantity, points)


def enveloped(state: State, points: int) -> Result:
    """The landscape of the best strategies of a state (see :class:`dse.app.envelope.Envelope`)."""
    from dse.app.envelope import Envelope

    envelope = Envelope(state, state.view.x, state.view.y, points)
    for row in range(envelope.rows):
        envelope.step(row)
    return envelope.result()


# -- figures --------------------------------------------------------------------------------------------------


def _breakdown(scene: Scene) -> go.Figure:
    from dse.view.figures import breakdown

    return breakdown(scene.result, title="Where the step time goes", dark=scene.dark)


def _memory(scene: Scene) -> go.Figure:
    from dse.view.waterfall import memory_waterfall

    return memory_waterfall(scene.result, title="Memory of the fullest device", dark=scene.dark)


def _roofline(scene: Scene) -> go.Figure:
    from dse.view.comparisons import roofline

    figure = roofline(scene.result, title="Roofline: every operator", dark=scene.dark)
    return figure.update_layout(meta={"x": INTENSITY, "y": RATE, "x_scale": 1.0, "y_scale": 1.0})


def _timeline(scene: Scene) -> go.Figure:
    from dse.view.timeline import pipeline

    return pipeline(scene.result, title="One step on every pipeline stage", dark=scene.dark)


def _energy(scene: Scene) -> go.Figure:
    from dse.view.money import energy_and_money

    return energy_and_money(scene.result, title="Energy and money of a step", dark=scene.dark)


def _nearest(scene: Scene) -> go.Figure:
    from dse.view.nearest import nearest

    return nearest(scene.result, title="The measured runs most like this", dark=scene.dark)


def _map(scene: Scene) -> go.Figure:
    from dse.view.landscape import landscape as draw

    view, design = scene.state.view, scene.state.design
    result = scene.surface
    if result is None and view.best:
        result = enveloped(scene.state, ENVELOPE)
    elif result is None:
        result = _landscape(design, view.x, view.y, view.quantity, scene.points, stamp())
    now = (design.get(view.x), design.get(view.y))
    x, y = (axis.name for axis in result.axes)
    told = {"now": now, "selected": _framed(scene, (x, y)), "dark": scene.dark}
    if view.best:
        words = theme.sentence(theme.title_of(view.quantity))
        told["title"] = f"{words} with the best strategy at every point"
    figure = draw(result, view.quantity, x, y, **told)
    return figure.update_layout(meta={**figure.layout.meta, "x": column_of(view.x), "y": column_of(view.y)})


def _framed(scene: Scene, names: tuple[str, str]) -> dict[str, Any] | None:
    """What is selected on only one of the landscape's axes; on both it is a box of its own."""
    picked = dict(scene.state.view.selected)
    columns = {
        name: column_of(path) for name, path in zip(names, (scene.state.view.x, scene.state.view.y), strict=True)
    }
    found = {name: picked[column] for name, column in columns.items() if column in picked}
    numeric = {name: ends for name, ends in found.items() if not isinstance(ends[0], str | bool)}
    return numeric if len(found) == 1 and numeric else None


def column_of(path: str) -> str:
    """A field as tables of designs and selections call it."""
    return path.removeprefix("strategy.")


def _front(scene: Scene) -> go.Figure:
    from dse.view.designs import front

    now = None if scene.searched is not None else scene.now
    return front(scene.designs, selected=scene.selected, now=now, dark=scene.dark)


def _parallel(scene: Scene) -> go.Figure:
    from dse.view.designs import parallel

    return parallel(scene.designs, selected=scene.selected, dark=scene.dark)


def _swings(scene: Scene) -> go.Figure:
    from dse.view.sensitivity import tornado

    return tornado(_tornado(scene.state.design, stamp()), top=TOP, title="What the step time hangs on", dark=scene.dark)


def _shadow(scene: Scene) -> go.Figure:
    from dse.view.sensitivity import shadow

    return shadow(_prices(scene.state.design, stamp()), title="What more of each would save", dark=scene.dark)


@dataclass(frozen=True)
class Kind:
    """A view.

    Attributes:
        title: on its button; ``hint``: what it answers.
        draw: its figure.
        height: pixels.
        heavy: drawn when the kernel is idle, not with every step of a slider.
        brush: a box drawn on it selects designs, or operators.
    """

    title: str
    hint: str
    draw: Callable[[Scene], go.Figure]
    height: int = 360
    heavy: bool = False
    brush: bool = False


KINDS: dict[str, Kind] = {
    "breakdown": Kind("Step time", "Where the time goes", _breakdown, 250),
    "memory": Kind("Memory", "What fills the memory", _memory, 350),
    "roofline": Kind("Roofline", "What bounds each operator", _roofline, 400, brush=True),
    "timeline": Kind("Timeline", "When each stage works and waits", _timeline, 400),
    "landscape": Kind("Landscape", "A quantity over two inputs", _map, 400, brush=True),
    "front": Kind("Front", "All strategies: which are worth having", _front, 420, heavy=True, brush=True),
    "parallel": Kind("Parallel lines", "What good strategies have in common", _parallel, 420, heavy=True, brush=True),
    "tornado": Kind("Tornado", "What the step time hangs on", _swings, 400, heavy=True),
    "shadow": Kind("Shadow prices", "What one more of each would save", _shadow, 400, heavy=True),
    "energy": Kind("Energy, money", "Joules and dollars of a step", _energy, 340),
    "nearest": Kind("Measured", "How far off predictions of similar runs are", _nearest, 360),
}


def depends(name: str, scene: Scene) -> tuple[Any, ...]:
    """What a view is drawn from, besides what is selected: while it is equal, so is the figure."""
    state, view = scene.state, scene.state.view
    found: tuple[Any, ...] = (state.design, view.dark, stamp())
    if name == "landscape":
        found += (view.x, view.y, view.quantity, view.best, (view.objectives[0], state.locks) if view.best else ())
    if name in ("front", "parallel"):
        found += (view.objectives, state.locks, id(scene.searched))
    return found


def figure(state: State, name: str, *, points: int = FINE, searched: Any = None) -> go.Figure:
    """One view of a state as a figure, the same as on the screen."""
    return KINDS[name].draw(Scene(state, points, searched))
