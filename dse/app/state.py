"""What the workbench shows: one design, what is locked and pinned, and the views on it. Transitions make new states."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dse.app.design import WHOLE, Design, canonical, has_field, named
from dse.app.look import View, changed, fitting
from dse.errors import Fault, SpecError
from dse.explore.evaluate import bind_axes, load_specs
from dse.explore.result import Result
from dse.space.axes import Axis, axis
from dse.spec import load_cluster, load_model, load_strategy
from dse.spec.strategy import Strategy

if TYPE_CHECKING:
    from dse.explore.best import Best

PINS = ("A", "B")
VIEW = View()
HISTORY = 200  # states that undo goes back


@dataclass(frozen=True)
class State:
    """Everything that the workbench shows and saves. Methods return a new state and leave this one as it is.

    Attributes:
        design: what is priced.
        origin: what ``reset`` goes back to.
        locks: paths that neither the user nor ``find_best`` may change.
        pins: designs kept to compare with, by ``A`` and ``B``.
        view: what is on the screen.
        seed: of whatever is random (search, sensitivity).
    """

    design: Design
    origin: Design
    locks: frozenset[str] = frozenset()
    pins: tuple[tuple[str, Design], ...] = ()
    view: View = VIEW
    seed: int = 0

    @property
    def result(self) -> Result:
        """The design priced."""
        return self.design.result

    def get(self, path: str) -> Any:
        """The value of a field in SI units (see :meth:`Design.get`)."""
        return self.design.get(path)

    # -- inputs ------------------------------------------------------------------------------------------------

    def set(self, path: str, value: Any) -> State:
        """Set one field; numbers are SI, text may carry a unit. Setting ``dp`` sets the number of devices.

        Raises:
            SpecError: no such field, a value outside its range, one that does not fit the others, or a locked field.
        """
        path = canonical(self.design, path)
        if path == "model":
            return self.choose_model(value)
        if path == "cluster":
            return self.choose_cluster(value)
        if path == "strategy.dp":
            replicas = Strategy.parse({"global_batch": 1, "dp": value}).dp
            if replicas is None:
                raise SpecError([Fault("dp", "None", "must be a whole number; it sets the number of devices")])
            path, value = (
                "devices",
                replicas * self.design.strategy.tp * self.design.strategy.pp * self.design.strategy.cp,
            )
        self._unlocked(path)
        if path == "devices":
            [devices] = bind_axes(self.design.specs, [axis("cluster.devices", [value])])[0].values
            return self._with(devices=devices)
        if path.startswith("strategy."):
            return self._with(strategy=self.design.strategy.replace(**{path.removeprefix("strategy."): value}))
        [checked] = bind_axes(self.design.specs, [axis(path, [value])])[0].values
        return self._with(overrides=_sorted({**dict(self.design.overrides), path: checked}))

    def strategy(self, **fields: Any) -> State:
        """Set several fields of the strategy at once.

        Raises:
            SpecError: a value outside its range, fields that do not fit each other, or a locked field that changes.
        """
        now = self.design.strategy
        self._unlocked(*(f"strategy.{name}" for name, value in fields.items() if getattr(now, name, None) != value))
        return self._with(strategy=now.replace(**fields))

    def choose_model(self, model: Any) -> State:
        """Take another model; fields of the old one that were set by hand are dropped, unless they are locked.

        Raises:
            SpecError: no such model, or it lacks a locked field.
        """
        self._unlocked("model")
        return self._with(model=named(model, load_model), overrides=self._kept("model"))

    def choose_cluster(self, cluster: Any) -> State:
        """Take another cluster at the same number of devices; what was set by hand is dropped, unless it is locked.

        Tensors that were placed in memory tiers the new cluster lacks return to local memory.

        Raises:
            SpecError: no such cluster, or it lacks a locked field or tier.
        """
        self._unlocked("cluster")
        chosen = named(cluster, load_cluster)
        tiers = {tier.name for tier in load_cluster(chosen).node.expansion}
        back: dict[str, Any] = {
            f: "local"
            for f in Strategy.model_fields
            if f.startswith("offload_") and getattr(self.design.strategy, f) not in ("local", *tiers)
        }
        if not tiers and self.design.strategy.memory_expansion == "spread":
            back["memory_expansion"] = "none"
        self._unlocked(*(f"strategy.{name}" for name in back))
        strategy = self.design.strategy.replace(**back)
        return self._with(cluster=chosen, strategy=strategy, overrides=self._kept("cluster"))

    def reset(self, path: str | None = None) -> State:
        """Put one field back to what the state started with, or (by default) everything that is not locked.

        Raises:
            SpecError: no such field, or it is locked.
        """
        origin = dict(self.origin.overrides)
        if path is not None:
            path = canonical(self.design, path)
            self._unlocked(path)
            if path in WHOLE or path.startswith("strategy."):
                return self.set(path, self.origin.get(path))
            rest = {p: v for p, v in self.design.overrides if p != path}
            return self._with(overrides=_sorted(rest | ({path: origin[path]} if path in origin else {})))
        whole = {name: getattr(self.origin, name) for name in WHOLE if name not in self.locks}
        fields = {p.removeprefix("strategy.") for p in self.locks if p.startswith("strategy.")}
        strategy = self.origin.strategy.replace(**{f: getattr(self.design.strategy, f) for f in fields})
        same = {n for n in ("model", "cluster") if whole.get(n, getattr(self.design, n)) == getattr(self.origin, n)}
        values = {p: v for p, v in origin.items() if p.partition(".")[0] in {*same, "stack"}}
        values |= {p: v for p, v in self.design.overrides if p in self.locks}
        return self._with(**whole, strategy=strategy, overrides=_sorted(values))

    def find_best(self, objective: Any = "step_time") -> State:
        """Take the best strategy of all (see :func:`dse.best`) for this model, cluster, devices and batch.

        Locked fields stay, as do those that no search varies (precision, schedule, offload, ...); context, expert
        and sharded-group degrees that it does not vary go back to none.

        Raises:
            InfeasibleDesign: no strategy satisfies the rules.
            SpecError: fields of the software stack are set by hand, which the search does not take.
        """
        found = self.best(objective)
        chosen = {name: value for name, value in found.strategy.items() if name != "dp"}
        return self._with(strategy=self.design.strategy.replace(**chosen))

    def best(self, objective: Any = "step_time") -> Best:
        """The search behind :meth:`find_best`, with its ranking and counts."""
        from dse.explore.best import best
        from dse.space.enumerate import default_options

        specs: Any = self.design.specs
        strategy, devices = self.design.strategy, self.design.devices
        varied = default_options(specs["model"], specs["cluster"], devices, strategy.global_batch)
        kept = {f for f in Strategy.model_fields if f not in varied or f"strategy.{f}" in self.locks}
        base = {f: getattr(strategy, f) for f in kept - {"dp", "global_batch"}}
        base |= {f: v for f, v in (("cp", 1), ("ep", 1), ("shard_group", 0)) if f in base and not self.is_locked(f)}
        if any(path.startswith("stack.") for path, _ in self.design.overrides):
            raise SpecError([Fault("stack", "", "the search takes stacks as the catalogue has them; reset its fields")])
        return best(
            specs["model"], specs["cluster"], devices=devices, global_batch=strategy.global_batch,
            objective=objective, base=base,
        )  # fmt: skip

    # -- locks, pins, views ------------------------------------------------------------------------------------

    def lock(self, path: str) -> State:
        """Keep a field as it is until it is unlocked.

        Raises:
            SpecError: no such field, or one that follows from others.
        """
        path = canonical(self.design, path)
        if path == "strategy.dp":
            raise SpecError([Fault("dp", "", "follows from devices and the other degrees; lock those")])
        state = dataclasses.replace(self, locks=self.locks | {path})
        if path in WHOLE or path.startswith("strategy."):
            return state
        return state._with(overrides=_sorted({**dict(self.design.overrides), path: self.get(path)}))

    def unlock(self, path: str) -> State:
        """Let a field be set again."""
        return dataclasses.replace(self, locks=self.locks - {canonical(self.design, path)})

    def is_locked(self, path: str) -> bool:
        """Is the field locked?"""
        return canonical(self.design, path) in self.locks

    def pin(self, name: str, design: Design | None = None) -> State:
        """Keep this design (or another) as ``A`` or ``B``.

        Raises:
            SpecError: another name.
        """
        if name not in PINS:
            raise SpecError([Fault("pin", repr(name)[:40], f"must be one of {', '.join(PINS)}")])
        pins = {**dict(self.pins), name: design or self.design}
        return dataclasses.replace(self, pins=tuple(sorted(pins.items())))

    def unpin(self, name: str) -> State:
        """Forget a pinned design."""
        return dataclasses.replace(self, pins=tuple((n, d) for n, d in self.pins if n != name))

    def take(self, name: str) -> State:
        """Go on from a pinned design; locks on what differs in it are lifted.

        Raises:
            SpecError: nothing is pinned there.
        """
        pinned = dict(self.pins).get(name)
        if pinned is None:
            raise SpecError([Fault("pin", repr(name)[:40], "nothing is pinned there")])
        kept = frozenset(path for path in self.locks if has_field(pinned, path) and pinned.get(path) == self.get(path))
        return dataclasses.replace(self, design=pinned, locks=kept, view=fitting(self.view, pinned))

    def look(self, **changes: Any) -> State:
        """Change properties of the view (see :class:`dse.app.look.View`).

        Raises:
            SpecError: an unknown property, view, axis or quantity, or a selection that is none.
        """
        return dataclasses.replace(self, view=changed(self.view, self.design, changes))

    # -- the inside --------------------------------------------------------------------------------------------

    def _with(self, **changes: Any) -> State:
        design = dataclasses.replace(self.design, **changes).checked()
        return dataclasses.replace(self, design=design, view=fitting(self.view, design))

    def _kept(self, root: str) -> tuple[tuple[str, Any], ...]:
        """Overrides that outlive the choice of another model or cluster."""
        return tuple((p, v) for p, v in self.design.overrides if p.partition(".")[0] != root or p in self.locks)

    def _unlocked(self, *paths: str) -> None:
        faults = [Fault(path, "", "is locked; unlock it first") for path in paths if path in self.locks]
        if faults:
            raise SpecError(faults)


def _sorted(overrides: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(overrides.items()))


def start(model: Any, cluster: Any, strategy: Any = None, *, devices: int | None = None, seed: int = 0) -> State:
    """The state that a workbench opens with.

    Args:
        model, cluster, devices: as for :func:`dse.estimate`.
        strategy: the same; by default the one of least step time at a global batch of one sample a device.
        seed: of whatever is random.

    Raises:
        SpecError: with every fault of the inputs, or ``dp`` and ``devices`` that contradict each other.
        InfeasibleDesign: no strategy was given and none satisfies the rules.
    """
    model, cluster = named(model, load_model), named(cluster, load_cluster)
    if strategy is None:
        count = load_cluster(cluster).devices if devices is None else devices
        plain = load_specs(model, cluster, {"global_batch": count}, count)
        opened = start(model, cluster, plain["strategy"], devices=count, seed=seed).find_best()
        return dataclasses.replace(opened, origin=opened.design)
    chosen = load_strategy(strategy)
    if chosen.dp is not None:
        product = chosen.tp * chosen.pp * chosen.cp * chosen.dp
        if devices not in (None, product):
            raise SpecError([Fault("dp", str(chosen.dp), f"tp·pp·cp·dp = {product} must equal the {devices} devices")])
        devices, chosen = product, chosen.replace(dp=None)
    specs: Any = load_specs(model, cluster, chosen, devices)
    design = Design(model, cluster, specs["cluster"].devices, chosen).checked()
    return State(design, design, seed=seed)


def landscape(
    state: State, x: Axis | str | None = None, y: Axis | str | None = None, quantity: str | None = None,
    points: int = 64,
) -> Result:  # fmt: skip
    """The design over two axes, with a quantity and the feasibility of every point computed.

    Args:
        x, y: axes, or paths of controls (by default the view's), which take up to ``points`` values of their range.
        quantity: by default the view's.

    Raises:
        SpecError: an axis without values, or an unknown quantity.
    """
    from dse.app.blocks import bind, fill
    from dse.app.controls import axis_of

    chosen = [a if isinstance(a, Axis) else axis_of(state, a, points) for a in (x or state.view.x, y or state.view.y)]
    specs, wanted = state.design.specs, quantity or state.view.quantity
    result = fill(Result(specs, bind(specs, chosen, state.design.devices), devices_given=True), [wanted])
    result[wanted], result["feasible"]
    return result


@dataclass(frozen=True)
class History:
    """States and the way back: a bounded past, the present, and what was undone."""

    present: State
    past: tuple[State, ...] = ()
    future: tuple[State, ...] = ()

    def push(self, state: State) -> History:
        """Go on to a new state; what was undone is gone. An equal state changes nothing."""
        if state == self.present:
            return self
        return History(state, (*self.past, self.present)[-HISTORY:])

    def undo(self) -> History:
        """One state back, if there is one."""
        if not self.past:
            return self
        return History(self.past[-1], self.past[:-1], (self.present, *self.future))

    def redo(self) -> History:
        """One state forward, if something was undone."""
        if not self.future:
            return self
        return History(self.future[0], (*self.past, self.present), self.future[1:])
