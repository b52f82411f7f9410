"""Variants of models, cheaper and less accurate: the quality axis of XR scores.

A table of one's own is a CSV with the columns ``model``, ``variant``, ``metric``, ``target`` and maybe ``better``
(higher, lower), ``resolution``, ``width``, ``latency`` and ``energy`` (factors, 1 where not given). Resolution and
width change the layers; what a smaller data type saves goes into the factors. Accuracy score: metric over target, or
target over metric where lower is better, 1 at most (the form recalled of the XRBench paper, not read again:
unverified). No accuracy is shipped with dse.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dse.domains.xr.costs import Costs, LayerModel
from dse.domains.xr.layer import Layer
from dse.domains.xr.runtime import OWN, simulate
from dse.domains.xr.scenarios import Model, scenario
from dse.domains.xr.systems import System, system
from dse.domains.xr.work import network, whole
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import Name, quantity

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.xr.conditions import Conditions

_Factor = quantity("1", 1e-3, 1e3)
_MOST = 4096
FULL = "full"


class Variant(Spec):
    """Attributes:
    model: that it is a variant of.
    variant: its name.
    metric, target: accuracy, and the accuracy that is asked for, in any unit above 0.
    better: which metrics are.
    resolution, width: of the layers' inputs and channels, against the full model.
    latency, energy: factors besides.
    """

    model: Model
    variant: Name
    metric: _Factor  # type: ignore[valid-type]
    target: _Factor  # type: ignore[valid-type]
    better: Literal["higher", "lower"] = "higher"
    resolution: _Factor = 1.0  # type: ignore[valid-type]
    width: _Factor = 1.0  # type: ignore[valid-type]
    latency: _Factor = 1.0  # type: ignore[valid-type]
    energy: _Factor = 1.0  # type: ignore[valid-type]

    @property
    def accuracy(self) -> float:
        """The accuracy score, from 0 to 1."""
        ratio = self.metric / self.target
        return min(1.0, ratio if self.better == "higher" else 1 / ratio)


def read_variants(path: Path | str) -> tuple[Variant, ...]:
    """Read a table of variants.

    Raises:
        SpecError: with every fault and its line.
    """
    import pandas as pd

    path = Path(path)
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise SpecError([Fault("variants", str(path)[-200:], f"cannot be read: {str(error).strip()[:200]}")]) from None
    found, faults = [], []
    for line, row in enumerate(frame.to_dict("records"), start=2):
        cells = {str(key): value for key, value in row.items() if value != ""}
        try:
            found.append(
                Variant.parse({k: v if k in ("model", "variant", "better") else _number(v) for k, v in cells.items()})
            )
        except SpecError as error:
            faults += [Fault(f.path, f.value, f.rule, f"{path.name}, line {line}") for f in error.faults]
    keys = [(item.model, item.variant) for item in found]
    faults += [Fault("variant", " ".join(key), "stands twice", path.name) for key in set(keys) if keys.count(key) > 1]
    if not found and not faults:
        faults.append(Fault("variants", path.name, "holds no rows"))
    if faults:
        raise SpecError(faults)
    return tuple(found)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def scaled(layers: Layer, resolution: float = 1.0, width: float = 1.0) -> Layer:
    """Layers of another resolution and width. Kernels stay, and what the first layer reads keeps its channels."""
    rows, columns = (np.maximum(np.rint(n * resolution), 1).astype(np.int64) for n in (layers.rows, layers.columns))
    depthwise = layers.groups > 1
    step = np.where(depthwise & (layers.groups != layers.c), layers.groups, 1)

    def channels(count: np.ndarray) -> np.ndarray:
        return np.maximum(np.rint(count * width / step), 1).astype(np.int64) * step

    k, c = channels(layers.k), channels(layers.c)
    c[0] = layers.c[0]
    whole_groups = depthwise & (layers.groups == layers.c)
    k = np.where(whole_groups, c * (layers.k // np.maximum(layers.c, 1)), k)
    return layers._replace(
        k=k, c=c, y=np.where(layers.y > 1, rows + layers.r - 1, layers.y),
        x=np.where(layers.x > 1, columns + layers.s - 1, layers.x), groups=np.where(whole_groups, c, layers.groups),
    )  # fmt: skip


def trade_off(
    scenario_: Any, system_: Any, variants: Sequence[Variant], *, policy_: Any = "edf-wait",
    seeds: Sequence[int] = range(1, 21), costs: Costs | None = None, conditions: Conditions | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Every combination of variants on one system, all at once; a model may always be taken in ``full``, of accuracy 1.

    Returns:
        A column for each model that has variants, ``score`` (mean over seeds, with accuracy), ``accuracy`` (mean of the
        models), ``missed`` (share of frames), ``energy`` (J a run), ``on_front`` (no other has more score for less
        energy); the best score first.

    Raises:
        SpecError: more than 4,096 combinations, or a variant of no model of the scenario.
    """
    import pandas as pd

    from dse.domains.xr.published import _priced
    from dse.explore.search.pareto import front

    conditions, chosen, machine = conditions or OWN, scenario(scenario_), system(system_)
    choices: dict[str, list[Variant | None]] = {name: [None] for name in chosen.models}
    stray = [v.model for v in variants if v.model not in choices]
    if stray:
        raise SpecError([Fault("variant.model", stray[0], f"must be one of {', '.join(chosen.models)}")])
    for item in variants:
        choices[item.model].append(item)
    count = int(np.prod([len(own) for own in choices.values()], dtype=float))
    if count > _MOST:
        raise SpecError([Fault("variants", f"{count:,} combinations", f"must be {_MOST:,} at most")])
    latency, energy = _priced(chosen, [machine], costs, conditions)
    own = [np.array([_factors(item, machine, conditions) for item in items]) for items in choices.values()]
    picks = np.array(list(itertools.product(*(range(len(items)) for items in choices.values()))))
    factor = np.stack([own[m][picks[:, m]] for m in range(len(own))], axis=2)  # [C, 2, M, A]
    work = whole(latency * factor.transpose(0, 2, 3, 1)[..., 0], energy * factor.transpose(0, 2, 3, 1)[..., 1])
    runs = simulate(chosen, [machine] * count, policy_=policy_, seeds=seeds, conditions=conditions, work=work)
    score = np.array(
        [[1.0 if v is None else v.accuracy for v in items] + [1.0] * (count - len(items)) for items in choices.values()]
    )
    accuracy = np.stack([score[m][picks[:, m]] for m in range(len(own))], axis=1)
    found = runs.scores()
    among = len(own) if conditions.absent == "zero" else np.maximum(found.logged, 1)
    overall = (np.nansum(found.models * accuracy[:, None], axis=2) / among).mean(axis=1)
    counted = runs.sums.values.sum(axis=(1, 2))
    joules = 1e-3 * counted[:, 6] / len(runs.sums.seeds)
    names = {
        model: [FULL if v is None else v.variant for v in items] for model, items in choices.items() if len(items) > 1
    }
    frame = pd.DataFrame({model: np.array(of)[picks[:, chosen.models.index(model)]] for model, of in names.items()})
    frame = frame.assign(
        score=overall, accuracy=accuracy.mean(axis=1),
        missed=(counted[:, 1] + counted[:, 2]) / np.maximum(counted[:, 0], 1), energy=joules,
        on_front=np.isin(np.arange(count), front(np.stack([-overall, joules], axis=1))),
    )  # fmt: skip
    return frame.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def _factors(item: Variant | None, machine: System, conditions: Conditions) -> np.ndarray:
    """Latency and energy of a variant over those of the full model on each part, [2, A]."""
    if item is None:
        return np.ones((2, len(machine.parts)))
    found = np.array([[item.latency], [item.energy]]) * np.ones(len(machine.parts))
    if item.resolution != 1 or item.width != 1:
        model = LayerModel(conditions.depthwise, dram=conditions.memory == "counted")
        less = scaled(network(model, item.model), item.resolution, item.width)
        smaller = LayerModel(conditions.depthwise, {item.model: less}, dram=model.dram)
        found *= (
            np.array(smaller.of([item.model], machine.parts))[:, 0]
            / np.array(model.of([item.model], machine.parts))[:, 0]
        )
    return found
