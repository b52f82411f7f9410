"""Closed forms of queues: what simulations are checked against, and first estimates without one."""

from __future__ import annotations

from dse.errors import Fault, SpecError


def erlang_c(load: float, servers: int) -> float:
    """Probability that an arrival waits in M/M/c.

    Args:
        load: arrivals a second times mean service time (erlangs), less than the servers.
        servers: c.

    Raises:
        SpecError: the servers cannot keep up.
    """
    _check(load, servers)
    blocked = 1.0  # Erlang's B by its recursion, which does not overflow
    for n in range(1, servers + 1):
        blocked = load * blocked / (n + load * blocked)
    return blocked / (1 - load / servers * (1 - blocked))


def mean_wait(rate: float, service: float, servers: int = 1, variation: float = 1.0) -> float:
    """Mean wait of Poisson arrivals before service, s.

    Exact for one server (Pollaczek and Khinchine) and for exponential service (Erlang); else the approximation of Lee
    and Longton, which scales Erlang's.

    Args:
        rate: arrivals a second.
        service: mean service time, s.
        servers: of the station.
        variation: variance of the service time over its squared mean: 1 exponential, 0 constant.

    Raises:
        SpecError: the servers cannot keep up.
    """
    load = rate * service
    waits = erlang_c(load, servers)
    return waits * service / (servers - load) * (1 + variation) / 2


def _check(load: float, servers: int) -> None:
    if servers < 1:
        raise SpecError([Fault("servers", str(servers), "must be 1 or more")])
    if not 0 <= load < servers:
        raise SpecError([Fault("load", f"{load:g}", f"must be from 0 to less than the {servers} servers")])
