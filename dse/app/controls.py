"""What an interface offers: pickers, sliders, choices and switches as plain data, each refused value with its rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np

from dse.app.design import Design, canonical
from dse.app.state import State
from dse.errors import Fault, SpecError
from dse.explore.evaluate import RULES, price, violations
from dse.explore.points import Sentence
from dse.space import rules
from dse.space.axes import Axis, axis, locate, with_value
from dse.space.enumerate import divisors, powers_of_two
from dse.spec.catalogue import ids
from dse.spec.glance import family, glance, vendor
from dse.spec.strategy import Strategy

LABELS = {
    "tp": "Tensor parallel", "pp": "Pipeline parallel", "cp": "Context parallel", "ep": "Expert parallel",
    "virtual_stages": "Virtual stages", "micro_batch": "Micro-batch", "schedule": "Schedule",
    "recompute": "Recompute", "zero_stage": "ZeRO stage", "sequence_parallel": "Sequence parallel",
    "precision": "Precision", "attention": "Attention kernel", "offload_weights": "Weights in",
    "offload_gradients": "Gradients in", "offload_optimizer": "Optimizer states in",
    "offload_activations": "Activations in", "memory_expansion": "Memory expansion", "overlap_dp": "Overlap gradients",
}  # fmt: skip
REACH = 16.0  # a slider goes from this fraction of its template's value to this multiple
MOST_DEVICES, LONGEST = 2**17, 2**20  # ends of the sliders of devices and batch, and of the sequence
WIDEST_MICRO_BATCH = 64


@dataclass(frozen=True)
class Option:
    """One value of a choice.

    Attributes:
        legal: the design with this value satisfies every rule.
        breaks: names of the rules that it breaks, and
        reasons: their sentences, with the design's numbers.
    """

    value: Any
    label: str
    group: str = ""
    legal: bool = True
    breaks: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Control:
    """One thing to set with ``state.set(path, value)``.

    Attributes:
        kind: ``pick`` (catalogue entries), ``slider``, ``choice`` or ``switch``.
        value, template: now, and before anything was set by hand; SI units.
        low, high: ends of a slider, in SI units; ``log``: it is a logarithmic one; ``whole``: of whole numbers.
        options: values of the other kinds.
    """

    path: str
    label: str
    kind: str
    group: str
    value: Any
    template: Any
    unit: str = "1"
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    options: tuple[Option, ...] = ()
    locked: bool = False

    @property
    def changed(self) -> bool:
        """Does the value differ from the template's?"""
        return bool(self.value != self.template)


def controls(state: State) -> list[Control]:
    """Everything that can be set, in the order to show it."""
    return [*_pickers(state), *_sliders(state), *_sizes(state), *_choices(state)]


# -- pickers --------------------------------------------------------------------------------------------------


def _pickers(state: State) -> list[Control]:
    found = []
    for kind in ("model", "cluster"):
        now, origin = (_option_of(getattr(design, kind)) for design in (state.design, state.origin))
        options = _entries(kind, tuple(ids(kind)))
        if now not in [option.value for option in options]:
            options = (Option(now, f"{now} (your own)", "Your own"), *options)
        found.append(
            Control(kind, kind.capitalize(), "pick", "Design", now, origin, options=options, locked=kind in state.locks)
        )
    return found


def _option_of(part: Any) -> str:
    return part if isinstance(part, str) else str(part.id)


@lru_cache(maxsize=4)
def _entries(kind: str, known: tuple[str, ...]) -> tuple[Option, ...]:
    """Catalogue entries with their names, by group and name."""
    group = family if kind == "model" else vendor
    found = [Option(entry, glance(kind, entry).get("name") or entry, group(entry)) for entry in known]
    return tuple(sorted(found, key=lambda option: (option.group.lower(), option.label.lower())))


# -- sliders --------------------------------------------------------------------------------------------------


def _sliders(state: State) -> list[Control]:
    design = state.design
    specs: Any = design.specs
    template: Any = design.template
    peaks = template["cluster"].accelerator.matrix
    precision = {"mxfp8": "fp8", "nvfp4": "fp4"}.get(design.strategy.precision, design.strategy.precision)
    device = "cluster.node.accelerator"
    wanted = []
    if getattr(peaks, precision) is not None:
        wanted.append((f"{device}.matrix.{precision}", f"{precision.upper()} peak", "Compute"))
    wanted += [
        (f"{device}.memory.{field}", _named(template["cluster"].accelerator.memory.name, field), "Memory")
        for field in ("capacity", "bandwidth")
    ]
    for index, tier in enumerate(template["cluster"].node.expansion):
        step = _step(tier.name, index)
        wanted += [
            (f"cluster.node.expansion.{step}.{field}", _named(tier.name, field), "Memory")
            for field in ("capacity", "bandwidth")
        ]
    for index, dimension in enumerate(template["cluster"].network.dimensions):
        step = _step(dimension.name, index)
        wanted += [
            (f"cluster.network.dimensions.{step}.{field}", _named(dimension.name, field), "Network")
            for field in ("bandwidth", "latency")
        ]
    found = [_slider(state, specs, template, *item) for item in wanted]
    found.append(_whole(state, "devices", "Devices", design.devices, state.origin.devices, MOST_DEVICES))
    batches = (design.strategy.global_batch, state.origin.strategy.global_batch)
    found.append(_whole(state, "strategy.global_batch", "Global batch", *batches, MOST_DEVICES))
    if hasattr(specs["model"], "seq_len"):
        lengths = (specs["model"].seq_len, template["model"].seq_len)
        found.append(_whole(state, "model.seq_len", "Sequence length", *lengths, LONGEST))
    return found


def _named(part: str, field: str) -> str:
    """``HBM bandwidth``, ``InfiniBand latency``."""
    names = {"nvme": "NVMe", "nvlink": "NVLink", "infiniband": "InfiniBand"}
    acronym = part.isalpha() and len(part) <= 4
    return f"{names.get(part.lower(), part.upper() if acronym else part.replace('_', ' ').capitalize())} {field}"


def _step(name: str, index: int) -> str:
    return str(index) if "." in name else name


def _slider(state: State, specs: Any, template: Any, path: str, label: str, group: str) -> Control:
    """A slider around the template's value, on a logarithmic scale; latencies of 0 get a range in microseconds."""
    place = locate(path, specs)
    value, usual = _read(specs, place), _read(template, place)
    whole = isinstance(usual, int)
    low, high = usual / REACH, usual * REACH
    if usual == 0:
        low, high = 0.0, 100e-6 if place.field == "latency" else 1e12
    if whole:
        low, high = 1, usual * int(REACH)
    low, high = min(low, value), max(high, value)
    return Control(
        path, label, "slider", group, value, usual, place.unit, low, high,
        log=low > 0, whole=whole, locked=path in state.locks,
    )  # fmt: skip


def _read(specs: Mapping[str, Any], place: Any) -> Any:
    value = specs[place.root]
    for step in place.steps:
        value = value[step] if isinstance(value, tuple) else getattr(value, str(step))
    return value


def _whole(state: State, path: str, label: str, value: int, usual: int, most: int) -> Control:
    high = max(most, value)
    return Control(
        path, label, "slider", "Work", value, usual, "1", 1, high, log=True, whole=True, locked=path in state.locks
    )


# -- choices and switches -------------------------------------------------------------------------------------


def candidates(design: Design) -> dict[str, list[Any]]:
    """Values that are tried for each field of the strategy; the present one is always among them."""
    specs: Any = design.specs
    model, strategy, cluster = specs["model"], design.strategy, specs["cluster"]
    layers, inner = int(model.depth), cluster.network.dimensions[0].size or design.devices
    experts = getattr(model, "moe", None)
    tiers = ["local", *(tier.name for tier in cluster.node.expansion)]
    found: dict[str, list[Any]] = {
        "tp": divisors(design.devices, max(2 * inner, 8)),
        "pp": divisors(design.devices, layers) if model.pipelined else [1],
        "cp": [d for d in powers_of_two(64) if design.devices % d == 0],
        "ep": divisors(int(experts.experts)) if experts else [1],
        "virtual_stages": divisors(max(layers // strategy.pp, 1)) if model.pipelined else [1],
        "micro_batch": powers_of_two(min(strategy.global_batch, WIDEST_MICRO_BATCH)),
        "schedule": _literals("schedule"),
        "recompute": _literals("recompute"),
        "zero_stage": [0, 1, 2, 3],
        "sequence_parallel": [False, True],
        "overlap_dp": [False, True],
        "precision": _literals("precision"),
        "attention": _literals("attention"),
    }
    if len(tiers) > 1:
        found |= {f"offload_{what}": tiers for what in ("weights", "gradients", "optimizer", "activations")}
        found["memory_expansion"] = _literals("memory_expansion")
    for field, values in found.items():
        if getattr(strategy, field) not in values:
            found[field] = sorted([*values, getattr(strategy, field)])
    return found


def _literals(field: str) -> list[Any]:
    return list(get_args(Strategy.model_fields[field].annotation))


def _choices(state: State) -> list[Control]:
    found = []
    for field, options in legality(state.design, candidates(state.design)).items():
        value = getattr(state.design.strategy, field)
        kind = "switch" if isinstance(value, bool) else "choice"
        group = "Parallelism" if field in ("tp", "pp", "cp", "ep", "virtual_stages", "schedule") else "Strategy"
        path = f"strategy.{field}"
        usual = getattr(state.origin.strategy, field)
        found.append(
            Control(path, LABELS[field], kind, group, value, usual, options=options, locked=path in state.locks)
        )
    return found


def legality(design: Design, tried: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Option, ...]]:
    """Which values of each strategy field leave the design feasible, the other fields as they are.

    All values of all fields are priced as one array of designs, each unlike the present one in one field.

    Raises:
        SpecError: a field that is not an array field of the strategy.
    """
    lengths = [len(values) for values in tried.values()]
    ends = np.cumsum(lengths)
    columns = {}
    for (field, values), end in zip(tried.items(), ends, strict=True):
        now = getattr(design.strategy, field)
        if now is None or any(value is None for value in values):
            raise SpecError([Fault(field, "None", "cannot be tried together with other values")])
        columns[field] = np.full(ends[-1], now, dtype=np.asarray([now, *values]).dtype)
        columns[field][end - len(values) : end] = values
    specs: Any = design.specs
    evaluation = price({**specs, "strategy": specs["strategy"].model_copy(update=columns)}, devices_given=True)
    judge = _judge(evaluation, ends[-1])
    return {
        field: tuple(judge(value, index) for index, value in enumerate(values, start=int(end) - len(values)))
        for (field, values), end in zip(tried.items(), ends, strict=True)
    }


def _judge(evaluation: Any, count: int) -> Callable[[Any, int], Option]:
    """What turns a value and its position among ``count`` designs into an option."""
    margins = violations(evaluation)
    broken = {r: np.broadcast_to(np.less(m, 0), (count,)) for r, m in margins.items() if np.any(np.less(m, 0))}

    def option(value: Any, index: int) -> Option:
        breaks = tuple(rule for rule in RULES if rule in broken and broken[rule][index])
        reasons = tuple(rules.texts()[rule].format_map(_At(evaluation, index)) for rule in breaks)
        return Option(value, _label(value), "", not breaks, breaks, reasons)

    return option


def _sizes(state: State) -> list[Control]:
    """Sizes of the network's dimensions: those that nest with the nodes are priced, the others say why they do not."""
    found = []
    specs, template = state.design.specs, state.design.template
    for index, dimension in enumerate(specs["cluster"].network.dimensions):  # type: ignore[attr-defined]
        if dimension.size is None:
            continue
        path = f"cluster.network.dimensions.{_step(dimension.name, index)}.size"
        place = locate(path, specs)
        usual = _read(template, place)
        values = sorted({usual, dimension.size, *powers_of_two(usual * int(REACH))})
        refused = {value: rule for value in values if (rule := _not_nesting(specs["cluster"], place, value))}
        nesting = [value for value in values if value not in refused]
        changed = with_value(specs["cluster"], place.steps, np.asarray(nesting))
        judge = _judge(price({**specs, "cluster": changed}, devices_given=True), len(nesting))
        options = [judge(value, i) for i, value in enumerate(nesting)]
        options += [Option(v, _label(v), "", False, ("nesting",), (rule,)) for v, rule in refused.items()]
        options.sort(key=lambda option: option.value)
        found.append(
            Control(
                path, _named(dimension.name, "size"), "choice", "Network", dimension.size, usual,
                options=tuple(options), locked=path in state.locks,
            )
        )  # fmt: skip
    return found


def _not_nesting(cluster: Any, place: Any, value: int) -> str:
    """Why nodes do not nest with a dimension of this size; empty if they do."""
    changed = with_value(cluster, place.steps, value)
    try:
        type(cluster).parse({name: getattr(changed, name) for name in type(cluster).model_fields})
    except SpecError as error:
        return error.faults[0].rule
    return ""


class _At(Sentence):
    """Formats quantities of one position of an evaluation over many designs."""

    def __init__(self, evaluation: Any, index: int) -> None:
        super().__init__(_Position(evaluation, index))


class _Position:
    """One design out of an evaluation's array of designs."""

    def __init__(self, evaluation: Any, index: int) -> None:
        self.graph, self._evaluation, self._index = evaluation.graph, evaluation, index

    def __getitem__(self, name: str) -> Any:
        taken = self._take(self._evaluation[name])
        if name == "tier_overflow":  # of the array of designs: the tiers that overflow in any of them
            return {tier: (held, capacity) for tier, (held, capacity) in taken.items() if held > capacity}
        return taken

    def _take(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._take(item) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(self._take(item) for item in value)
        array = np.asarray(value)
        return array.reshape(-1)[self._index].item() if array.size > 1 else array.reshape(-1)[0].item()


def _label(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def axis_of(state: State, path: str, points: int) -> Axis:
    """An axis over a control's values: the legal and illegal options, or ``points`` values of a slider.

    Raises:
        SpecError: no control has this path.
    """
    path = canonical(state.design, path)
    field = path.removeprefix("strategy.")
    tried = candidates(state.design)
    if path.startswith("strategy.") and field in tried:
        return axis(path, tried[field])
    for control in _sliders(state):
        if control.path == path:
            spaced = np.geomspace if control.log else np.linspace
            values = spaced(control.low, control.high, points)
            if control.whole:
                values = np.asarray([n for n in powers_of_two(int(control.high)) if n >= control.low])
            target = "cluster.devices" if path == "devices" else path
            return axis(target, values.tolist(), name=_short(path))
    for control in _sizes(state):
        if control.path == path:
            nesting = [option.value for option in control.options if option.breaks != ("nesting",)]
            return axis(path, nesting, name=_short(path))
    raise SpecError([Fault("axis", path[:80], "has no control; give dse.axis(path, values)")])


def _short(path: str) -> str:
    return path.removeprefix("strategy.").removeprefix("cluster.")
