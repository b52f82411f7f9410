"""Requests served by a few servers, event by event: compiled parts of which each domain builds its own short loop.

``lines`` holds waiting lines and agendas: who is next, by any key. ``network`` is a loop made of them that many systems
need no more than: jobs on stations, with priorities, deadlines, absences and jobs that release others; a domain whose
choices are its own writes another (SUSHI, whose servers decide what they cache, takes ``lines`` alone). ``statistics``
reads what happened, ``queueing`` has the closed forms it is checked against.
"""

from __future__ import annotations

from dse.lazy import lazily

_HOME = {
    "Log": "network",
    "Stations": "network",
    "stations": "network",
    "serve": "network",
    "tandem": "network",
    "summarise": "statistics",
    "erlang_c": "queueing",
    "mean_wait": "queueing",
}

__all__ = ["Log", "Stations", "erlang_c", "mean_wait", "serve", "stations", "summarise", "tandem"]

# The compiled parts take a while to load: only who serves something waits for them.
__getattr__ = lazily(__name__, _HOME)
