"""Serve a stream of queries with a latency table: which SubNet, with what cached, when, and at what cost.

Accounting. A query's *latency* is its service alone; its *response* runs from its arrival to its finish. In a closed
loop (as in the paper) each replica has one query at a time: the next comes when the last is done, so that a response is
the latency and whatever of a load it had to wait for. In an open loop queries come at the stream's times and wait in
line. A load of a SubGraph goes before the next query (``blocking``), or goes on beside the queries (``overlapped``):
those that start before its end find the SubGraph that was there before. That takes room for both, or replacing layer by
layer, and bandwidth to spare: overlapped is the best case, blocking the worst. What is cached at the start was loaded
before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.domains.sushi.scheduler import AVERAGE, CACHING, PLANNED, POLICIES, RECENT, Caching, Costs, Memory
from dse.domains.sushi.served import Loads, Served, loads_of
from dse.domains.sushi.sharing import SubGraph, cached_weights, nbytes, stacked
from dse.domains.sushi.streams import Stream
from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    from dse.domains.sushi.loop import Log, Queries
    from dse.domains.sushi.table import LatencyTable

DISCIPLINES = ("fifo", "edf", "shortest")
LOADINGS = ("blocking", "overlapped")
LOOPS = ("closed", "open")
OBJECTIVES = {"strict-accuracy": {"latency": 1.0}, "strict-latency": {"accuracy": 1.0}}


def serve(
    table: LatencyTable,
    stream: Stream,
    *,
    policy: str | None = None,
    caching: str | Caching | Sequence[int] = "average",
    window: int = 8,
    objective: Mapping[str, float] | None = None,
    loading: str = "blocking",
    loop: str = "closed",
    replicas: int = 1,
    discipline: str = "fifo",
    slack: bool = False,
    drop: bool = False,
    initial: int | None = None,
    reuse: np.ndarray | None = None,
) -> Served:
    """Serve a stream.

    Args:
        table: latency, energy and traffic of each SubNet with each SubGraph.
        stream: the queries.
        policy: ``strict-accuracy`` or ``strict-latency``; as the stream says, or the first, where not given.
        caching: one of ``scheduler.CACHING``, a :class:`Caching` for its settings, or the SubGraph of each window.
        window: queries of a replica between two decisions of what to cache (the paper's Q).
        objective: weights of ``latency`` (s, with waiting for loads), ``energy`` (J) and lost ``accuracy``, of which
            ``static``, ``expected``, ``discounted``, ``work-function`` and ``oracle`` make the sum least. By default
            the latency under ``strict-accuracy`` and the accuracy under ``strict-latency``.
        loading: ``blocking`` or ``overlapped``.
        loop: ``closed`` or ``open``.
        replicas: accelerators, each with a cache of its own, that serve one line of queries.
        discipline: who is next in an open loop: ``fifo``, ``edf`` (the earliest deadline) or ``shortest`` (the least
            service expected).
        slack: under ``strict-latency``, count the time waited against the latency that is asked for.
        drop: do not serve queries whose deadline has passed when their turn comes (in an open loop).
        initial: SubGraph that is cached at the start. Not given: what the plan begins with; else the one under which
            the SubNets are fastest on average.
        reuse: [from, to], share of a SubGraph that is there already where it comes after another (:func:`kept`); by
            default a load brings in all of it.

    Raises:
        SpecError: a setting that is not known or does not fit the table; all of them at once.
    """
    from dse.domains.sushi.loop import Queries

    policy = policy or stream.policy or POLICIES[0]
    caching, plan = _rule(caching)
    settings = {"policy": policy, "caching": caching, "window": window, "loading": loading, "loop": loop,
                "replicas": replicas, "discipline": discipline, "slack": slack, "drop": drop}  # fmt: skip
    objective = dict(OBJECTIVES.get(policy, {}) if objective is None else objective)
    _check(table, settings, objective, plan, initial, reuse)
    number = POLICIES.index(policy)
    loads = loads_of(table, reuse)
    table_costs = costs(table, loads, objective, blocking=loading == "blocking")
    key = _keys(stream, table_costs, number, discipline)
    queries = Queries(stream.arrival, stream.accuracy, stream.latency, key)
    if plan is None:
        plan = _plan(table, table_costs, queries, settings, objective)
    start = int(plan[0]) if caching.rule == PLANNED else int(np.argmin(table_costs.latency.mean(axis=1)))
    initial = start if initial is None else initial
    log = _run(queries, table_costs, settings, plan, initial)
    return Served(table, stream, settings | {"objective": objective}, *log[:-1],
                  *_loaded(log, initial, replicas), loads)  # fmt: skip


def _run(
    queries: Queries, table_costs: Costs, settings: Mapping[str, Any], plan: np.ndarray, initial: int
) -> Log:  # fmt: skip
    """Serve the queries with replicas that all begin with the same SubGraph."""
    from dse.domains.sushi.loop import Log, Replicas, Rules, run
    from dse.simulate.serving.lines import lines

    caching, replicas, count = settings["caching"], settings["replicas"], len(queries.arrival)
    memory = Memory(np.zeros((replicas, len(table_costs.accuracy))), np.zeros((replicas, len(table_costs.size))),
                    np.tile(table_costs.load_value[initial] * caching.margin, (replicas, 1)))  # fmt: skip
    state = Replicas(np.full(replicas, initial), np.zeros(replicas), np.full(replicas, initial), np.zeros(replicas),
                     np.zeros(replicas, np.int64))  # fmt: skip
    rules = Rules(POLICIES.index(settings["policy"]), caching.rule, settings["window"], caching.kept, caching.margin,
                  settings["loading"] == "blocking", settings["loop"] == "closed", settings["slack"],
                  settings["drop"])  # fmt: skip
    log = Log(*np.full((3, count), np.nan), *np.full((4, count), -1))
    run(queries, table_costs, rules, plan, state, memory, lines(count), lines(replicas), log)
    return log


def costs(table: LatencyTable, loads: Loads, objective: Mapping[str, float], *, blocking: bool = True) -> Costs:
    """The table as the compiled loop reads it."""
    place = np.argsort(-np.asarray(table.accuracy, float), kind="stable")
    accuracy = np.asarray(table.accuracy, float)[place]
    latency, energy = (np.ascontiguousarray(np.asarray(of, float)[place].T) for of in (table.latency, table.energy))
    seconds, joules = objective.get("latency", 0.0), objective.get("energy", 0.0)
    nets, graphs = np.asarray(table.subnet_vectors, float)[place], np.asarray(table.subgraph_vectors, float)
    return Costs(
        place=place,
        accuracy=accuracy,
        latency=latency,
        value=seconds * latency + joules * energy - objective.get("accuracy", 0.0) * accuracy,
        load_time=loads.time,
        load_value=joules * loads.energy + (seconds * loads.time if blocking else 0.0),
        alike=np.ascontiguousarray(graphs @ nets.T),
        size=(graphs**2).sum(axis=1),
        quickest=np.argmin(latency, axis=1),
        fastest=np.argmin(latency, axis=0),
    )


def kept(subgraphs: Sequence[SubGraph]) -> np.ndarray:
    """Share of each SubGraph that another holds too [from, to], for ``reuse``; the empty one, first, is added."""
    empty = SubGraph(*(np.zeros_like(column) for column in subgraphs[0]))
    columns = stacked([empty, *subgraphs])
    shared = cached_weights(columns, columns).sum(axis=-1).T
    return shared / np.maximum(nbytes(columns), 1)


def _rule(caching: str | Caching | Sequence[int]) -> tuple[Caching, np.ndarray | None]:
    if isinstance(caching, Caching):
        return caching, None
    if isinstance(caching, str):
        return Caching(caching), None
    return Caching("static"), np.array(caching)


def _keys(stream: Stream, table_costs: Costs, policy: int, discipline: str) -> np.ndarray:
    from dse.domains.sushi.oracle import services

    if discipline == "edf":
        return stream.arrival + stream.latency
    if discipline == "shortest":
        return services(stream.accuracy, stream.latency, table_costs, policy)
    return np.zeros(len(stream))  # equals are served in order of arrival


def _plan(
    table: LatencyTable,
    table_costs: Costs,
    queries: Queries,
    settings: Mapping[str, Any],
    objective: Mapping[str, float],
) -> np.ndarray:
    """SubGraph of each window for the rules that are decided before the stream starts; any for the others."""
    from dse.domains.sushi.oracle import schedule, sums

    caching, window = settings["caching"], settings["window"]
    policy, columns = POLICIES.index(settings["policy"]), len(table_costs.size)
    first = objective.get("energy", 0.0) * np.asarray(table.load_energy, float)
    if caching.kind == "none":
        return np.array([0])  # the first column of a table holds nothing
    if caching.kind == "random":
        return np.random.default_rng(caching.seed).integers(0, columns, len(queries.arrival) // window + 1)
    if caching.kind == "static" and caching.column is None:
        return np.array([np.argmin(first + sums(queries, table_costs, policy))])
    if caching.kind == "oracle":
        blocking, seconds = settings["loading"] == "blocking", objective.get("latency", 0.0)
        return schedule(queries, table_costs, policy, window, blocking, seconds, first)[0]
    return np.array([caching.column or 0])


def _loaded(log: Log, initial: int, replicas: int) -> tuple[np.ndarray, np.ndarray]:
    """The SubGraphs brought in, and for each the one it came after on its replica."""
    at = np.flatnonzero(log.loaded >= 0)
    at = at[np.argsort(log.start[at], kind="stable")]
    to, before = log.loaded[at], np.full(len(at), initial)
    for replica in range(replicas if len(at) else 0):
        mine = np.flatnonzero(log.replica[at] == replica)
        before[mine[1:]] = to[mine[:-1]]
    return to, before


def _check(
    table: LatencyTable,
    settings: Mapping[str, Any],
    objective: Mapping[str, float],
    plan: np.ndarray | None,
    initial: int | None,
    reuse: np.ndarray | None,
) -> None:
    """Every fault of the settings at once."""
    faults = []
    caching, columns = settings["caching"], len(table.size)

    def known(name: str, value: str, among: Sequence[str]) -> None:
        if value not in among:
            faults.append(Fault(name, str(value)[:40], f"must be one of {', '.join(among)}"))

    def within(name: str, value: float, least: float, most: float) -> None:
        if not least <= value <= most:
            faults.append(Fault(name, str(value)[:40], f"must be from {least:,} to {most:,}"))

    known("policy", settings["policy"], POLICIES)
    known("caching", caching.kind, CACHING)
    known("loading", settings["loading"], LOADINGS)
    known("loop", settings["loop"], LOOPS)
    known("discipline", settings["discipline"], DISCIPLINES)
    within("window", settings["window"], 1, 10**9)
    within("replicas", settings["replicas"], 1, 100_000)
    within("caching.discount", caching.discount, 0, 1)
    within("caching.margin", caching.margin, 0, 1e9)
    within("caching.column", caching.column or 0, 0, columns - 1)
    within("initial", initial or 0, 0, columns - 1)
    for name, weight in objective.items():
        known("objective", name, ("latency", "energy", "accuracy"))
        within(f"objective.{name}", weight, 0, 1e9)
    if plan is not None and not (
        plan.ndim == 1 and len(plan) and plan.dtype.kind in "iu" and plan.min() >= 0 and plan.max() < columns
    ):
        faults.append(Fault("caching", "a plan", f"must be a list of SubGraphs, from 0 to {columns - 1}"))
    if settings["loop"] == "closed" and settings["drop"]:
        faults.append(Fault("drop", "True", "is for an open loop; in a closed one no query waits in line"))
    if settings["loop"] == "closed" and settings["discipline"] in DISCIPLINES[1:]:
        rule = "is for an open loop; in a closed one no queries wait in line"
        faults.append(Fault("discipline", settings["discipline"], rule))
    if caching.kind == "oracle" and (settings["replicas"] > 1 or settings["loop"] == "open"):
        rule = "knows the best schedule only for one replica in a closed loop"
        faults.append(Fault("caching", "oracle", rule))
    if np.isnan(np.asarray(table.accuracy, float)).any():
        faults.append(Fault("table.accuracy", "nan", "must be known of every SubNet: give their file an accuracy"))
    if caching.rule in (AVERAGE, RECENT) and not table.subgraph_vectors.size:
        faults.append(Fault("table.subgraph_vectors", "none", f"must be given for the rule {caching.kind}"))
    if reuse is not None and (np.shape(reuse) != (columns, columns) or not ((reuse >= 0) & (reuse <= 1)).all()):
        faults.append(Fault("reuse", str(np.shape(reuse)), f"must be shares from 0 to 1 of {columns} by {columns}"))
    if faults:
        raise SpecError(faults)
