"""The conditions under which XR runs are carried out and counted: as published, or with any of them set otherwise."""

from __future__ import annotations

from typing import Literal

from dse.spec.base import Spec
from dse.spec.fields import Bytes, Count, Seconds, Watts


class Conditions(Spec):
    """How runs are carried out and counted; by default as published.

    Attributes:
        horizon: frames come in this time.
        periods: ``whole-ms``, as published (60 Hz: 16 ms), with frames seen at ticks of the fastest model; or ``real``,
            with each frame seen as it comes. Chances of frames are then drawn for all systems alike.
        jitter: with real periods, width of the even distribution of arrival times around the sensor's.
        dependencies: ``count``, a frame waits for as many completions as its number, so that one dropped frame delays
            all later ones; or ``frame``, for the frame of its own time, and falls when that falls.
        in_flight: what runs or waits at the end is ``unlogged``, or finished and ``logged``.
        order: which model's head is next: by ``name``, or by ``deadline``.
        placing: on the fastest ``idle`` accelerator, or on that which would finish first, for which it may ``wait``.
        qoe: the share of frames that are not dropped counts ``twice``, or ``once`` as the paper describes it.
        absent: a model that was never asked for scores ``zero``, or is ``left-out``.
        depthwise: layers priced as ``dense``, or as ``grouped``.
        memory: DRAM and the size of L2 are ``ignored``, or ``counted`` (elements of one byte).
        noc_bandwidth, offchip_bandwidth, l2: of a whole system in place of its own, split evenly between its parts;
            elements a cycle, and bytes.
        power: energy score against a budget: 0 for a model that would use it up by itself. None: 1.5 J an inference.
    """

    horizon: Seconds = 0.7
    periods: Literal["whole-ms", "real"] = "whole-ms"
    jitter: Seconds = 0.0
    dependencies: Literal["count", "frame"] = "count"
    in_flight: Literal["unlogged", "logged"] = "unlogged"
    order: Literal["name", "deadline"] = "name"
    placing: Literal["idle", "wait"] = "idle"
    qoe: Literal["twice", "once"] = "twice"
    absent: Literal["zero", "left-out"] = "zero"
    depthwise: Literal["dense", "grouped"] = "dense"
    memory: Literal["ignored", "counted"] = "ignored"
    noc_bandwidth: Count | None = None
    offchip_bandwidth: Count | None = None
    l2: Bytes | None = None
    power: Watts | None = None
