"""A priced design, executed: its generated trace on its own cluster, and what that changes against the closed form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import SpecError

if TYPE_CHECKING:
    import pandas as pd

    from dse.explore.result import Result
    from dse.simulate.result import Simulation
    from dse.trace.generate import Generated

# Terms of the closed form by what a simulated rank does in that time, and why the two may differ.
PARTS = {
    "computing": (
        ("forward", "recompute", "input_grad", "weight_grad", "host_forward", "host_backward", "optimizer"),
        "mean over the stages, with what communication beside it takes from computing, which the closed form counts as "
        "communication; its optimizer is that of the fullest stage",
    ),
    "communication": (
        ("tp_comm_forward", "tp_comm_backward", "cp_comm", "ep_comm", "pp_comm", "dp_comm"),
        "the closed form adds what its rules of overlap leave exposed; here each transfer hides behind the passes that "
        "really run beside it, waits for its own inputs, and shares its ports with others",
    ),
    "memory": (("offload",), "loads and stores hide behind the passes that run beside them"),
    "idle": (
        ("bubble", "imbalance"),
        "the closed form of the bubble holds for equal stages; here every stage waits for what it really needs, "
        "messages on the way included",
    ),
    "stragglers": (("stragglers",), "waiting for the slowest of many equal devices; added to the simulation as it is"),
}


@dataclass(frozen=True, eq=False)
class SimulatedStep:
    """One training step as the simulator executes it.

    Attributes:
        result: the closed form.
        traces: what each rank does; one trace a pipeline stage.
        simulation: every event, use of the ports, critical path.
    """

    result: Result
    traces: Generated
    simulation: Simulation

    @property
    def stragglers(self) -> float:
        """Seconds that the closed form adds for waiting on the slowest device: no trace holds it."""
        return self._closed.get("stragglers", 0.0)

    @property
    def step_time(self) -> float:
        """Seconds: the last rank's end, and the stragglers."""
        return self.simulation.time + self.stragglers

    @property
    def difference(self) -> float:
        """Of the step time from the closed form, as a share of that."""
        return self.step_time / float(self.result.number("step_time")) - 1.0

    @cached_property
    def _closed(self) -> dict[str, float]:
        return self.result.terms("time")

    @cached_property
    def parts(self) -> dict[str, tuple[float, float]]:
        """Closed form and simulation of each part in seconds, mean over the ranks; they add up to the steps."""
        per_rank = self.simulation.per_rank()
        mean = {name: float(np.mean(values)) for name, values in per_rank.items()}
        here = {"computing": mean["compute"], "communication": mean["exposed_comm"], "memory": mean["exposed_memory"],
                "stragglers": self.stragglers}  # fmt: skip
        here["idle"] = self.step_time - sum(here.values())  # until the last rank is done
        named = {term for terms, _ in PARTS.values() for term in terms}
        closed = {part: sum(self._closed.get(term, 0.0) for term in terms) for part, (terms, _) in PARTS.items()}
        closed["idle"] += sum(value for term, value in self._closed.items() if term not in named)
        return {part: (closed[part], here[part]) for part in PARTS}

    def compare(self) -> pd.DataFrame:
        """The two side by side: part, closed form [s], simulated [s], difference [s], share of the step, why."""
        import pandas as pd

        step = float(self.result.number("step_time"))
        rows = [
            {"part": part, "closed form [s]": closed, "simulated [s]": here, "difference [s]": here - closed,
             "of the step": (here - closed) / step, "why they differ": PARTS[part][1]}
            for part, (closed, here) in self.parts.items()
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def summary(self) -> dict[str, Any]:
        """Plain numbers, as the CLI prints them."""
        parts = {part: {"closed_form_s": closed, "simulated_s": here} for part, (closed, here) in self.parts.items()}
        return {"step_time_s": self.step_time, "closed_form_s": float(self.result.number("step_time")),
                "difference": self.difference, "ranks": len(self.traces), "simulated_ranks": self.simulated_ranks,
                "parts": parts, "not_in_the_trace": [vars(item) for item in self.traces.residual]}  # fmt: skip

    @property
    def simulated_ranks(self) -> int:
        """How many ranks had to be simulated: one of each kind."""
        return len(np.unique(self.simulation.actor_of))

    def __repr__(self) -> str:
        from dse.units import engineering

        def seconds(value: float) -> str:
            return engineering(value, "s")

        ranks = f"{self.simulated_ranks:,} of {len(self.traces):,} ranks simulated, the others are like them"
        head = f"simulated step    {seconds(self.step_time)}, {self.difference:+.1%} from the closed form ({ranks})"
        lines = [head, f"  {'mean over ranks':<16}{'closed form':>14}{'simulated':>14}{'of the step':>13}"]
        step = float(self.result.number("step_time"))
        for part, (closed, here) in self.parts.items():
            if max(abs(closed), abs(here)) > 1e-6 * step:
                lines.append(f"  {part:<16}{seconds(closed):>14}{seconds(here):>14}{(here - closed) / step:>+13.1%}")
        return "\n".join(lines)


def simulate_step(
    result: Result, *, detail: str = "operator", fidelity: str = "analytical", system: Any = None, **options: Any
) -> SimulatedStep:
    """Generate the trace of a priced design and execute it.

    Args:
        result: of one design (no axes).
        detail: ``operator``, ``block`` or ``pass``: what a computing node stands for.
        fidelity: ``analytical``, or ``flows`` (every message on its links, all ranks).
        system: instead of the design's own cluster, such as one with slower devices among it.
        options: of :func:`dse.simulate.simulate`.

    Raises:
        SpecError: a sweep, an infeasible design's degrees, or faults of the options.
    """
    from dse.simulate.run import simulate
    from dse.simulate.system import System
    from dse.trace.generate import generate_result

    if result.axes:
        raise SpecError("only one design can be simulated at a time: pick one of the sweep with .at(...)")
    traces = generate_result(result, detail=detail)
    machine = System.of(result.specs["cluster"], len(traces)) if system is None else system
    return SimulatedStep(result, traces, simulate(traces, machine, fidelity=fidelity, **options))  # type: ignore[arg-type]
