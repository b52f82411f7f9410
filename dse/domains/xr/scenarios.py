"""Usage scenarios: which models run how often, which follow which. The seven of XRBench, or a YAML file of one's own::

name: Walk in the park
tasks:
  - {model: ES, rate: 60 Hz}
  - {model: GE, rate: 60 Hz, after: ES}
  - {model: KD, rate: 3 Hz}
  - {model: SR, rate: 3 Hz, after: KD, probability: 20 %}
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from dse.domains.xr.models import full_name
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.catalogue import asset_root
from dse.spec.fields import Fraction, Name, Text, quantity
from dse.spec.load import read_yaml

Rate = quantity("Hz", 1e-3, 1e4)
Model = Annotated[Name, BeforeValidator(lambda value: full_name(value) if isinstance(value, str) else value)]
_MOST_TASKS = 64


class Task(Spec):
    """A model that runs again and again.

    Attributes:
        model: a unit model by code or name, or a name in a cost table of one's own.
        rate: frames a second. Each frame must be finished when the next one comes.
        after: models whose frame of the same time must be finished before.
        probability: that a frame is asked for.
    """

    model: Model
    rate: Rate
    after: Annotated[
        tuple[Model, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
    ] = ()
    probability: Fraction = 1.0


class Scenario(Spec):
    """Attributes:
    name: for people.
    tasks: in the order in which the load generator looks at them.
    """

    name: Text = "unnamed"
    tasks: Annotated[tuple[Task, ...], Field(min_length=1, max_length=_MOST_TASKS)]

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        names = [task.model for task in self.tasks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"each model stands in one task; {', '.join(twice)} in more")
        for task in self.tasks:
            for name in task.after:
                if name not in names:
                    near = difflib.get_close_matches(name, names, n=1)
                    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
                    raise ValueError(f"{task.model} runs after {name}, which is no task of this scenario; {hint}")
        _ordered(self.tasks)
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in file order."""
        return tuple(task.model for task in self.tasks)

    def with_probability(self, model: str, probability: float) -> Scenario:
        """The scenario with another probability of one model."""
        name = full_name(model)
        if name not in self.models:
            raise SpecError([Fault("model", repr(model)[:60], f"must be one of {', '.join(self.models)}")])
        tasks = [t.replace(probability=probability) if t.model == name else t for t in self.tasks]
        return self.replace(tasks=[t.model_dump() for t in tasks])


def _ordered(tasks: tuple[Task, ...]) -> None:
    """Refuse models that wait for each other in a ring."""
    left = {task.model: set(task.after) for task in tasks}
    while left:
        free = [name for name, before in left.items() if not before & left.keys()]
        if not free:
            raise ValueError(f"{', '.join(sorted(left))} wait for each other")
        for name in free:
            del left[name]


def _folder() -> Path:
    return asset_root("data") / "xrbench" / "scenarios"


@lru_cache(maxsize=1)
def scenario_ids() -> tuple[str, ...]:
    """Ids of the scenarios of XRBench, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.yaml")))


def scenario(reference: Any) -> Scenario:
    """A scenario.

    Args:
        reference: an id of :func:`scenario_ids`, a path to a YAML file, a mapping, or a scenario.

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    if isinstance(reference, Scenario):
        return reference
    if isinstance(reference, dict):
        return Scenario.parse(reference)
    if not isinstance(reference, str | Path):
        raise SpecError([Fault("scenario", type(reference).__name__, "must be an id, a path or a mapping")])
    text = str(reference)
    if text in scenario_ids():
        path = _folder() / f"{text}.yaml"
    elif text.endswith((".yaml", ".yml")):
        path = Path(text)
    else:
        near = difflib.get_close_matches(text[:80], scenario_ids(), n=1)
        rule = f"did you mean {near[0]!r}?" if near else f"must be a .yaml file or one of {', '.join(scenario_ids())}"
        raise SpecError([Fault("scenario", repr(text)[:80], rule)])
    data, lines = read_yaml(path)
    return Scenario.parse(data, where=str(path), lines=lines)
