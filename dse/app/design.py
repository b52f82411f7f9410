"""One design: what comes from the catalogue, how many devices, the strategy, and what is set by hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dse.errors import Fault, SpecError
from dse.explore.evaluate import load_specs, price
from dse.explore.result import Result
from dse.space.axes import locate, with_value
from dse.spec import load_cluster
from dse.spec.base import Spec
from dse.spec.calibration import stamp
from dse.spec.strategy import Strategy

WHOLE = ("model", "cluster", "devices")  # besides the strategy's fields and overrides, what a design consists of
NAMING = ("id", "name", "sources", "family")  # fields that say what a part is, not how it performs


@dataclass(frozen=True)
class Design:
    """One design: what comes from the catalogue, how many devices, the strategy, and fields set by hand.

    Attributes:
        model, cluster: catalogue id, or a specification of the user's own.
        devices: number of accelerators; data parallelism follows, so ``strategy.dp`` is None.
        strategy: how the model is spread.
        overrides: dotted path of ``model``, ``cluster`` or ``stack`` and its value in SI units, sorted by path.
    """

    model: Any
    cluster: Any
    devices: int
    strategy: Strategy
    overrides: tuple[tuple[str, Any], ...] = ()

    @property
    def template(self) -> dict[str, Spec]:
        """The four specifications as the catalogue has them."""
        return dict(_template(self.model, self.cluster, self.strategy, self.devices, stamp()))

    @property
    def specs(self) -> dict[str, Spec]:
        """The four specifications with the overrides applied."""
        return dict(_specs(self, stamp()))

    def checked(self) -> Design:
        """This design, if all its parts are valid together.

        Raises:
            SpecError: fields that do not fit each other, or a tensor placed in a tier that the cluster lacks.
        """
        specs = self.specs
        for root in sorted({path.partition(".")[0] for path, _ in self.overrides}):
            specs[root] = type(specs[root]).parse(specs[root].model_dump())
        price(specs, devices_given=True)
        return self

    @property
    def width(self) -> int:
        """Devices that hold one replica of the model."""
        return self.strategy.tp * self.strategy.pp * self.strategy.cp

    def get(self, path: str) -> Any:
        """The value of a field in SI units, or of ``model``, ``cluster``, ``devices`` or ``dp``."""
        path = canonical(self, path)
        if path in WHOLE:
            return getattr(self, path)
        place = locate(path, specs := self.specs)
        if path == "strategy.dp":
            return self.devices / self.width
        value: Any = specs[place.root]
        for step in place.steps:
            value = value[step] if isinstance(value, tuple) else getattr(value, str(step))
        return value

    @property
    def result(self) -> Result:
        """The design priced; the same object until the design or the calibration changes."""
        return _priced(self, stamp())


@lru_cache(maxsize=64)
def _template(model: Any, cluster: Any, strategy: Any, devices: int, _calibration: Any) -> dict[str, Spec]:
    return load_specs(model, cluster, strategy, devices)


@lru_cache(maxsize=64)
def _specs(design: Design, _calibration: Any) -> dict[str, Spec]:
    specs = design.template
    for path, value in design.overrides:
        place = locate(path, specs)
        specs[place.root] = with_value(specs[place.root], place.steps, value)
    return specs


@lru_cache(maxsize=64)
def _priced(design: Design, _calibration: Any) -> Result:
    return Result(design.specs, [], devices_given=True)


def canonical(design: Design, path: str) -> str:
    """The one name of a field: shortcuts expanded, tiers and dimensions by name.

    Raises:
        SpecError: no such field.
    """
    path = str(path)
    path = f"strategy.{path}" if path in Strategy.model_fields else path
    if path in WHOLE:
        return path
    if path == "cluster.devices":
        return "devices"
    place = locate(path, specs := design.specs)
    if not place.steps or place.field in NAMING:
        raise SpecError([Fault(path[:80], "", "is not a field that can be set")])
    names, current = [place.root], specs[place.root]
    for step in place.steps:
        if isinstance(current, tuple):
            current = current[int(step)]
            name = str(getattr(current, "name", step))
            names.append(str(step) if "." in name else name)
        else:
            names.append(str(step))
            current = getattr(current, str(step))
    if isinstance(current, Spec | tuple):
        raise SpecError([Fault(path[:80], "", "holds other fields; set one of those")])
    return ".".join(names)


def has_field(design: Design, path: str) -> bool:
    """Does the design have a field of this path that can be set?"""
    try:
        canonical(design, path)
    except SpecError:
        return False
    return True


def named(reference: Any, load: Any) -> Any:
    """A catalogue id as it is; files and mappings as specifications."""
    from dse.spec.catalogue import ids

    spec = load(reference)
    kind = "cluster" if load is load_cluster else "model"
    return reference if isinstance(reference, str) and reference in ids(kind) else spec
