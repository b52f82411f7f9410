"""The tab of long work: a hardware search, its progress and live front; also the analyses that take a while."""

from __future__ import annotations

import hashlib
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from dse.app import markup
from dse.app.controls import Control, controls
from dse.app.state import State
from dse.app.widgets import Html, Plot
from dse.errors import Fault, SpecError
from dse.spec.strategy import Strategy
from dse.units import engineering

if TYPE_CHECKING:
    from dse.app.jobs import Job, Status
    from dse.app.workbench import Workbench

KINDS = {
    "search": "Search hardware and strategy",
    "sobol": "Variance by input (Sobol)",
    "morris": "Screening of inputs (Morris)",
    "validate": "Predictions against published runs",
}
METHODS = ("auto", "exhaustive", "bound", "nsga2", "cmaes", "tpe")
OBJECTIVES = ("step_time", "cost", "energy", "capital", "tco", "tokens_per_s", "mfu", "memory_bytes", "goodput")
PLAIN = ("capacity", "bandwidth")


class Searching:
    """What varies, what is wanted, and how far it is."""

    title = "Search"

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self.kind = "search"
        self.ranges: dict[str, str] = {}
        self.wanted = {"first": "step_time", "second": "capital", "budget": "", "method": "auto"}
        self.job: Job | None = None
        self.found: Any = None
        self._form = Html(on_do=bench.act, kind="dse-form")
        self._progress = Html(on_do=bench.act)
        self._plot = Plot()
        self._figure = widgets.VBox([self._plot])
        self._figure.layout.display = "none"
        self.widget = widgets.VBox([self._form, self._progress, self._figure])

    # -- the form ------------------------------------------------------------------------------------------------

    def show(self, state: State) -> None:
        """The form for this state."""
        kinds = [("", name, title) for name, title in KINDS.items()]
        parts = [markup.select("work:kind", kinds, self.kind, "Kind of work")]
        if self.kind == "search":
            parts.append(self._search_form(state))
        running = self.job is not None and not self.job.status.ended
        start = markup.button(
            "work:start", "Start", "Run in the background; the controls stay free", off=running, kind="main"
        )
        stop = markup.button("work:cancel", "Cancel", "Stop; what is done is kept", off=not running)
        back = markup.button("work:strategies", "Show the strategies again", off=self._bench.board.searched is None)
        self._form.html = "".join(parts) + f"<div class='dse-line'>{start}{stop}{back}</div>"

    def _search_form(self, state: State) -> str:
        fields = [control for control in controls(state) if control.kind == "slider" and _hardware(control)]
        rows = "".join(self._row(control) for control in fields)
        goals = [("", name, name.replace("_", " ")) for name in OBJECTIVES]
        second = [("", "", "nothing else"), *goals]
        methods = [("", name, name) for name in METHODS]
        budget = escape(self.wanted["budget"], quote=True)
        return (
            f"<div class='dse-grid-form'>{rows}</div><div class='dse-line'>by "
            + markup.select("work:first", goals, self.wanted["first"], "First objective")
            + " and "
            + markup.select("work:second", second, self.wanted["second"], "Second objective")
            + f" within <input data-do='work:budget' value='{budget}' placeholder='capital &lt;= 80 MUSD' "
            + "aria-label='Budget'>"
            + " method "
            + markup.select("work:method", methods, self.wanted["method"], "Method")
            + "</div>"
        )

    def _row(self, control: Control) -> str:
        path = escape(control.path, quote=True)
        value = escape(self.ranges.get(control.path, ""), quote=True)
        around = escape(_around(control), quote=True)
        return (
            f"<label>{escape(control.label)}<input data-do='work:range:{path}' value='{value}' placeholder='{around}' "
            f"aria-label='Range of {escape(control.label, quote=True)}'></label>"
        )

    def act(self, verb: str, what: str, value: Any) -> bool:
        """``work:...``: the fields of the form, start and cancel."""
        if verb != "work":
            return False
        field, _, path = what.partition(":")
        if field == "range":
            self.ranges[path] = str(value or "").strip()
        elif field == "kind":
            self.kind = str(value)
        elif field in self.wanted:
            self.wanted[field] = str(value or "")
        elif field == "start":
            self.start()
        elif field == "cancel":
            self.stop()
        elif field == "strategies":
            self._bench.show_designs(None)
        self.show(self._bench.state)
        return True

    # -- the work ------------------------------------------------------------------------------------------------

    def start(self) -> Job:
        """Start what the form says.

        Raises:
            SpecError: nothing varies, or a range, objective or budget that cannot be read.
        """
        from dse.app.jobs import Job

        state = self._bench.state
        if self.kind == "search":
            job = self._search(state)
        elif self.kind == "validate":
            job = Job.validate()
        else:
            job = Job.sensitivity(state, analysis=self.kind)
        self.job, self.found = job, None
        job.on_change(self._changed)
        job.start()
        return job

    def stop(self) -> None:
        """Cancel what runs, if anything does; what is done is kept."""
        if self.job is not None:
            self.job.cancel()

    def _search(self, state: State) -> Job:
        from dse.app.jobs import Job
        from dse.explore.search.cli import parse_variable

        given = {path: text for path, text in self.ranges.items() if text}
        if not given:
            rule = "give at least one range, such as 40 GB..160 GB:8 (eight values) or 40,80,160 GB"
            raise SpecError([Fault("search", "", rule)])
        names = {"devices": "cluster.devices"}
        variables = [parse_variable(f"{names.get(path, path)}={text}") for path, text in given.items()]
        objective = [name for name in (self.wanted["first"], self.wanted["second"]) if name]
        budget = self.wanted["budget"] or None
        told = repr((state.design, sorted(state.locks), sorted(given.items()), self.wanted, state.seed))
        key = hashlib.sha256(told.encode()).hexdigest()[:8]  # the same search goes on where it was cancelled
        folder = self._bench.folder / (self._bench.name or "unsaved") / f"search-{key}"
        return Job.search(
            state,
            variables,
            objective=list(dict.fromkeys(objective)),
            budget=budget,
            method=self.wanted["method"],
            folder=folder,
        )

    def _changed(self, status: Status) -> None:
        """News of the job, on the notebook's event loop."""
        self._bench.guarded(lambda: self._told(status))

    def _told(self, status: Status) -> None:
        self._progress.html = _bar(status)
        if self.job is None:
            return
        if status.state == "failed":
            self._bench.say("bad", status.message)
        elif self.kind == "search":
            found = self.job.partial()
            if found is not None and found is not self.found:
                self._live(found)
        elif status.state == "done":
            self._drawn(self.job.result())
        if status.ended:
            self.show(self._bench.state)

    def _live(self, found: Any) -> None:
        """Put the designs that are known on the board."""
        from dse.app.designs import from_search

        self.found = found
        self._bench.show_designs(from_search(found))

    def _drawn(self, found: Any) -> None:
        """The figure of an analysis."""
        dark = self._bench.state.view.dark
        if self.kind == "validate":
            from dse.view.accuracy import predicted_vs_measured

            figure = predicted_vs_measured(found if hasattr(found, "columns") else found.table, dark=dark)
        else:
            from dse.view import sensitivity

            figure = getattr(sensitivity, self.kind)(found, design=self._bench.result, dark=dark)
        self.found = found
        self._figure.layout.display = ""
        self._plot.show(figure)

    def state_of(self, row: int) -> State:
        """The state of a design that the search found: its hardware and its strategy."""
        designs = self._bench.board.searched
        chosen, state = designs.table.iloc[row], self._bench.state
        fields = {}
        for column in designs.table.columns:
            name, value = column.partition(" [")[0], chosen[column]
            if name in Strategy.model_fields:
                if name != "dp" and value == value:
                    fields[name] = value.item() if hasattr(value, "item") else value
            elif name in ("devices", "cluster.devices"):
                state = state.set("devices", int(value))
            elif name.startswith("cluster."):
                state = state.set(name, value.item() if hasattr(value, "item") else value)
        return state.strategy(**fields)


def _hardware(control: Control) -> bool:
    return control.path == "devices" or control.path.startswith("cluster.")


def _around(control: Control) -> str:
    """A range to show as an example: half to twice the value."""
    value = float(control.value)
    if control.whole:
        return f"{max(int(value) // 2, 1)},{int(value)},{int(value) * 2}"
    return f"{engineering(value / 2, control.unit, 3)}..{engineering(value * 2, control.unit, 3)}:6"


def _bar(status: Status) -> str:
    share = status.done / status.total if status.total else (1.0 if status.state == "done" else 0.0)
    left = "" if status.eta_s is None else f", {engineering(status.eta_s, 's', 2)} left"
    text = f"{status.state}: {status.message}, {engineering(status.elapsed_s, 's', 2)}{left}"
    return (
        f"<div class='dse-progress {status.state}'><progress value='{share:.4f}' max='1'></progress>"
        f"<span>{escape(text)}</span></div>"
    )
