"""How an XR runtime schedules: whose frame is next, on which part, what is dropped, and what may be interrupted.

A name of :data:`POLICIES`, or a YAML file of one's own::

    order: deadline
    placing: wait
    preempt: yes
    pins: {ES: [0], GE: [0]}
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dse.domains.xr.models import full_name
from dse.domains.xr.scenarios import Model
from dse.errors import Fault, SpecError
from dse.spec.base import Spec
from dse.spec.fields import CountOrZero, Multiple, Seconds, Switch
from dse.spec.load import read_yaml

ORDERS = ("name", "arrival", "deadline", "slack", "dynamic")
PLACINGS = ("idle", "wait", "thrifty")
DROPS = ("late", "hopeless", "never")


class Policy(Spec):
    """A scheduler; by default the published one.

    Attributes:
        order: which model's head is next: by ``name``, as published; by ``arrival`` (first come, first served); by
            ``deadline`` (EDF); by least ``slack``; or ``dynamic``, see below.
        placing: on the fastest ``idle`` part; on the part that would be done first, for which a frame may ``wait``; or
            ``thrifty``, on the idle part of least energy that meets the deadline, else the fastest.
        drop: frames that wait when their deadline comes (``late``), also those that no part can finish in time
            (``hopeless``), or ``never``.
        newest: a newer frame of a model takes the place of one that waits.
        preempt: jobs may be interrupted between layers; they go on on the same part.
        switch: time that going on with an interrupted job takes.
        pins: parts, counted from 0, on which a model may run; all where not given.
        starvation, thrift: weights of the dynamic order: the frame of the highest merit is next, on its best part.
            merit = urgency x speed + starvation x waiting + thrift x saving; urgency: least time needed over time left,
            0 if it is too late; speed and saving: time and energy on the best part over those on this one; waiting:
            time waited over time given. A busy part is waited for if the deadline would be missed on an idle one. In
            the spirit of DREAM (ASPLOS 2023), whose own formulas were not at hand: this definition is ours.
        tune: time between trials of other weights, kept if the share of misses times the energy over the least falls;
            0: the weights stay.
    """

    order: Literal["name", "arrival", "deadline", "slack", "dynamic"] = "name"
    placing: Literal["idle", "wait", "thrifty"] = "idle"
    drop: Literal["late", "hopeless", "never"] = "late"
    newest: Switch = False
    preempt: Switch = False
    switch: Seconds = 0.0
    pins: Annotated[dict[Model, tuple[CountOrZero, ...]], Field(max_length=64)] = Field(default_factory=dict)
    starvation: Multiple = 0.25
    thrift: Multiple = 0.25
    tune: Seconds = 0.0

    def allowed(self, models: Sequence[str], parts: int) -> np.ndarray:
        """Whether a model may run on a part, bool [M, A].

        Raises:
            SpecError: a pinned part that no system has, or a model without a part.
        """
        found = np.ones((len(models), parts), bool)
        faults = []
        for name, places in self.pins.items():
            if not places or max(places) >= parts:
                rule = f"must be one or more of the parts 0 to {parts - 1}"
                faults.append(Fault(f"pins.{name}", str(list(places)), rule))
            elif full_name(name) in models:
                found[models.index(full_name(name))] = np.isin(np.arange(parts), places)
        if faults:
            raise SpecError(faults)
        return found


POLICIES: dict[str, Policy] = {
    "published": Policy(),
    "fcfs": Policy(order="arrival"),
    "edf": Policy(order="deadline"),
    "least-slack": Policy(order="slack"),
    "wait-for-best": Policy(placing="wait"),
    "edf-wait": Policy(order="deadline", placing="wait"),
    "least-slack-wait": Policy(order="slack", placing="wait"),
    "edf-preempt": Policy(order="deadline", placing="wait", preempt=True),
    "least-slack-preempt": Policy(order="slack", placing="wait", preempt=True),
    "thrifty": Policy(order="deadline", placing="thrifty"),
    "dynamic": Policy(order="dynamic", drop="hopeless"),
    "dynamic-tuned": Policy(order="dynamic", drop="hopeless", tune=0.1),
    "dynamic-preempt": Policy(order="dynamic", drop="hopeless", preempt=True),
}


def policy(reference: Any) -> Policy:
    """A policy.

    Args:
        reference: a name of :data:`POLICIES`, a path to a YAML file, a mapping, or a policy.

    Raises:
        SpecError: with every fault, the file and the lines.
    """
    if isinstance(reference, Policy):
        return reference
    if isinstance(reference, dict):
        return Policy.parse(reference)
    if not isinstance(reference, str | Path):
        raise SpecError([Fault("policy", type(reference).__name__, "must be a name, a path or a mapping")])
    text = str(reference)
    if text in POLICIES:
        return POLICIES[text]
    if text.endswith((".yaml", ".yml")):
        data, lines = read_yaml(Path(text))
        return Policy.parse(data, where=text, lines=lines)
    near = difflib.get_close_matches(text[:80], POLICIES, n=1)
    rule = f"did you mean {near[0]!r}?" if near else f"must be a .yaml file or one of {', '.join(POLICIES)}"
    raise SpecError([Fault("policy", repr(text)[:80], rule)])
