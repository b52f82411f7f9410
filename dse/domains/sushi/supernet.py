"""SuperNets: what may be chosen of them, and the SubNets that a choice gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from dse.domains.sushi.layers import Layers
from dse.errors import Fault, SpecError
from dse.spec.base import Entry
from dse.spec.fields import Count

Config = Mapping[str, np.ndarray]  # of each knob its values [..., positions]
Few = Field(min_length=1, max_length=1000)
Counts = Annotated[tuple[Count, ...], Few]
Part = Literal["squeeze-excite", "final-expand", "feature-mix", "classifier"]

MOST_BLOCKS = 1000
EVERY_FOURTH = tuple(range(128, 225, 4))  # resolutions that Once-for-All trains on


@dataclass(frozen=True, eq=False)
class SubNet:
    """A network cut out of a SuperNet.

    Attributes:
        name: what tables and figures call it.
        layers: its convolutions [slots].
        accuracy: top-1 as a fraction; nan where nobody measured it.
        resolution: height and width of the input image.
        config: what was chosen of the SuperNet, empty for a network given by its layers.
        shortcuts: whether the output of a slot has a shortcut added to it [slots]; None where nobody said.
    """

    name: str
    layers: Layers
    accuracy: float = float("nan")
    resolution: int = 0
    config: Mapping[str, Any] = field(default_factory=dict)
    shortcuts: np.ndarray | None = None

    @property
    def weights(self) -> int:
        """Number of weights, which is their bytes in INT8."""
        return int(self.layers.weights.sum())

    @property
    def macs(self) -> int:
        """Multiply-adds for one input."""
        return int(self.layers.macs.sum())


class Knob(NamedTuple):
    """Something of a SuperNet that may be chosen: the allowed values of each of its positions."""

    positions: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]


class SuperNet(Entry):
    """A space of networks that share weights. Families say what its knobs are and how slots follow from them.

    Attributes:
        resolutions: heights and widths that an input image may have.
        divisor: channels are rounded to a multiple of it.
        classes: outputs of the classifier.
        counted: parts other than the convolutions of stem and blocks that get a slot.
    """

    resolutions: Counts = EVERY_FOURTH
    divisor: Count = 8
    classes: Count = 1000
    counted: tuple[Part, ...] = ()

    @property
    def knobs(self) -> dict[str, Knob]:
        """What may be chosen, the resolution among it."""
        raise NotImplementedError

    @property
    def slots(self) -> tuple[str, ...]:
        """Name of each slot."""
        return self._assemble(self.largest()).names

    @property
    def shortcuts(self) -> np.ndarray:
        """Whether the output of a slot has a shortcut added to it [slots]."""
        return np.array(self._assemble(self.largest()).shortcuts)

    @property
    def size(self) -> int:
        """Number of SubNets, choices for absent blocks not counted."""
        raise NotImplementedError

    def _assemble(self, config: Config) -> Assembly:
        raise NotImplementedError

    def layers(self, config: Mapping[str, Any]) -> Layers:
        """Layers of many SubNets at once.

        Args:
            config: of each knob one value, or values [..., positions]; leading axes broadcast.

        Returns:
            Columns [..., slots].

        Raises:
            SpecError: a knob is unknown, missing, of the wrong length, or has a value that is not allowed.
        """
        return self._assemble(self.checked(config)).layers()

    def subnet(self, config: Mapping[str, Any], *, name: str = "", accuracy: float = float("nan")) -> SubNet:
        """The SubNet of one configuration (see :meth:`layers`)."""
        chosen = self.checked(config)
        layers = self._assemble(chosen).layers()
        if layers.k.ndim > 1:
            raise SpecError([Fault("config", "", f"describes {layers.k.shape[0]} SubNets where one is meant")])
        plain = {knob: [int(v) if v.is_integer() else v for v in values.tolist()] for knob, values in chosen.items()}
        return SubNet(name or self.id, layers, accuracy, plain["resolution"][0], plain, self.shortcuts)

    def checked(self, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The configuration with one value of each knob for each of its positions, as :meth:`layers` takes it."""
        knobs = self.knobs
        faults = [Fault(name, "", f"unknown knob; {self.id} has {', '.join(knobs)}") for name in config.keys() - knobs]
        faults += [Fault(name, "", "is required") for name in knobs.keys() - config]
        if faults:
            raise SpecError(sorted(faults, key=str))
        return {name: _checked(name, knob, config[name]) for name, knob in knobs.items()}

    def largest(self) -> dict[str, np.ndarray]:
        """The configuration that chooses the largest value of each knob."""
        return {name: np.array([max(values) for values in knob.values]) for name, knob in self.knobs.items()}

    def smallest(self) -> dict[str, np.ndarray]:
        """The configuration that chooses the smallest value of each knob."""
        return {name: np.array([min(values) for values in knob.values]) for name, knob in self.knobs.items()}

    def sample(self, count: int, seed: int) -> dict[str, np.ndarray]:
        """Random configurations, each choice uniform and independent: of each knob [count, positions]."""
        draw = np.random.default_rng(seed)
        return {
            name: np.stack([draw.choice(np.array(values), count) for values in knob.values], axis=-1)
            for name, knob in self.knobs.items()
        }

    def uniform(self, **choices: Any) -> dict[str, np.ndarray]:
        """A configuration with the same value at all positions of a knob; what is not named is at its largest."""
        wide = {name: np.resize(np.asarray(value), len(self.knobs[name].positions)) for name, value in choices.items()}
        return self.largest() | wide


class Assembly:
    """Slots of a SuperNet as they are added, each for all configurations at once."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self.shortcuts: tuple[bool, ...] = ()
        self._columns: list[tuple[Any, ...]] = []

    def add(
        self,
        name: str,
        k: Any,
        c: Any,
        r: Any,
        x: Any,
        stride: Any = 1,
        *,
        groups: Any = 1,
        present: Any = True,
        shortcut: bool = False,
    ) -> None:
        """One more slot: arguments as in :class:`Layers`, numbers or arrays over the configurations."""
        self.names += (name,)
        self.shortcuts += (shortcut,)
        self._columns.append(tuple(np.where(present, value, 0) for value in (k, c, r, x, stride, groups)))

    def layers(self) -> Layers:
        """The columns [..., slots]."""
        shape = np.broadcast_shapes(*(value.shape for column in self._columns for value in column))
        wide = [[np.broadcast_to(value, shape) for value in column] for column in self._columns]
        return Layers(*(np.stack(values, axis=-1).astype(np.int64) for values in zip(*wide, strict=True)))


def stack(subnets: Iterable[SubNet | Layers]) -> Layers:
    """Layers of several SubNets of one SuperNet [subnet, slot].

    Raises:
        SpecError: they do not have the same number of slots.
    """
    each = [subnet.layers if isinstance(subnet, SubNet) else subnet for subnet in subnets]
    counts = sorted({layers.k.shape[-1] for layers in each})
    if len(counts) != 1:
        raise SpecError([Fault("subnets", str(counts), "must be one or more with the same number of slots")])
    return Layers(*(np.stack(columns) for columns in zip(*each, strict=True)))


def shortcuts_of(subnets: Iterable[SubNet]) -> np.ndarray | None:
    """Slots of several SubNets to whose output a shortcut is added [subnet, slot]; None where one does not say."""
    each = [subnet.shortcuts for subnet in subnets]
    return None if any(one is None for one in each) else np.array(each)


def make_divisible(channels: np.ndarray, divisor: int) -> np.ndarray:
    """Channels rounded to a multiple, never down by more than a tenth (as MobileNets and Once-for-All do)."""
    rounded = np.maximum(divisor, (np.asarray(channels) + divisor / 2).astype(np.int64) // divisor * divisor)
    return np.where(rounded < 0.9 * channels, rounded + divisor, rounded)


def halved(size: np.ndarray) -> np.ndarray:
    """Height and width after a stride of 2."""
    return -(-size // 2)


def _checked(name: str, knob: Knob, value: Any) -> np.ndarray:
    try:
        given = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise SpecError([Fault(name, repr(value)[:60], "must be numbers")]) from None
    positions = len(knob.positions)
    if given.ndim == 0:
        given = np.full(positions, given)
    if given.shape[-1] != positions:
        rule = f"must be one value or {positions}, for {', '.join(knob.positions[:6])}{' ...' * (positions > 6)}"
        raise SpecError([Fault(name, f"{given.shape[-1]} values", rule)])
    faults = []
    for index, allowed in enumerate(knob.values):
        wrong = given[..., index][~np.isin(given[..., index], allowed)]
        if wrong.size:
            rule = f"must be one of {', '.join(f'{v:g}' for v in allowed)}"
            faults.append(Fault(f"{name}[{index}] ({knob.positions[index]})", f"{wrong.flat[0]:g}", rule))
    if faults:
        raise SpecError(faults)
    return given
