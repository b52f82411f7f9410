"""Tables of the ModEx loop for studies: each class is what a ``tables:`` block of a study file may set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from dse.explore.modex.loop import Settings, run
from dse.explore.modex.ready import find
from dse.spec.base import Spec
from dse.spec.fields import Switch, Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from dse.domains.tables import Table

Strategy = Literal["regret", "variance", "variance-per-cost", "improvement", "random"]
Seeds = Annotated[int, Field(ge=1, le=1000)]


class Steps(Spec):
    """One loop, step by step: what was measured, what was expected of it, how probable another decision is.

    Attributes:
        problem: a ready problem with its options.
        measurements: at most; by default until the decision is stable.
    """

    problem: Text
    strategy: Strategy = "regret"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    measurements: Annotated[int, Field(ge=0, le=10_000)] | None = None

    def table(self, say: Callable[[str], None]) -> Table:
        from dse.domains.tables import Table

        say(self.problem)
        settings = Settings(self.strategy, self.seed)
        loop = run(find(self.problem), settings, most=self.measurements, stop=self.measurements is None)
        rows = loop.log().drop(columns=["row"])
        return Table(rows, ("number",), {"probability": "%", "regret": "%"})


class Contest(Spec):
    """Measurements that each way of choosing needs, a row a group of problems and a strategy; means over the problems.

    ``settled``: until the decision is right and stays so, on average over the seeds; ``settled_90``: in nine of ten;
    ``stopped``: until the loop stops; ``right``: whether its decision then is; ``covered``: share of 90 % intervals
    that hold; ``to_random``, ``to_unaided``: ``settled_90`` over that of random choice with the same model, and of
    random choice by someone who only compares what was measured.

    Attributes:
        groups: name of each group (a machine), and its problems.
        prior_wrong: leave out decisions that the prior alone gets right, for which nothing need be measured.
    """

    groups: dict[Text, tuple[Text, ...]]
    strategies: tuple[Strategy, ...] = ("regret", "random")
    seeds: Seeds = 10
    measurements: Annotated[int, Field(ge=1, le=10_000)] | None = None
    prior_wrong: Switch = False

    def table(self, say: Callable[[str], None]) -> Table:
        import pandas as pd

        from dse.domains.tables import Table
        from dse.explore.modex.compare import contest, prior_is_right, summary

        rows: list[dict[str, Any]] = []
        for group, problems in self.groups.items():
            say(group)
            posed = [p for p in map(find, problems) if not (self.prior_wrong and prior_is_right(p))]
            if not posed:
                continue
            found = [summary(p, contest(p, self.strategies, self.seeds, most=self.measurements), self.seeds)
                     for p in posed]  # fmt: skip
            means = pd.concat(found).groupby("strategy", sort=False).mean(numeric_only=True)
            for name in ("random", "unaided"):
                base = means["settled_90"].get(name)
                means[f"to_{name}"] = means["settled_90"] / base if base else float("nan")
            rows += [{"group": group, **row} for row in means.reset_index().to_dict("records")]
        units = dict.fromkeys(("right", "regret", "covered", "to_random", "to_unaided"), "%")
        return Table(pd.DataFrame(rows), ("group", "strategy"), units)
