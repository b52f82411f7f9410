"""``dse simulate``: execute traces on a system."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

COMPAT = "astra-sim"
DRAWN = ("timeline", "utilization", "occupancy", "critical")


def attach(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(simulate)


def simulate(
    workload: Annotated[str, typer.Option("--workload", help="PREFIX of PREFIX.0.et, PREFIX.1.et, ...; or a folder.")],
    system: Annotated[
        str | None, typer.Option("--system", help="System settings (JSON of ASTRA-sim), or a dse cluster (id or YAML).")
    ] = None,
    network: Annotated[Path | None, typer.Option("--network", help="Network of a JSON system: YAML.")] = None,
    memory: Annotated[Path | None, typer.Option("--memory", help="Remote memory of a JSON system: JSON.")] = None,
    groups: Annotated[Path | None, typer.Option("--groups", help='Communicator groups: JSON {"id": [ranks]}.')] = None,
    compat: Annotated[
        str | None, typer.Option(help="astra-sim: the public simulator's semantics, quirks and all.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="In compat mode unaware or aware; else analytical or flows (shared links).")
    ] = None,
    schedule: Annotated[str, typer.Option(help="Order of chunks over dimensions: ascending or themis.")] = "ascending",
    fold: Annotated[bool, typer.Option(help="Simulate ranks that are alike once.")] = True,
    replay: Annotated[
        bool | None,
        typer.Option(help="Take durations from the trace (else: FLOP and bytes on this system); not in compat mode."),
    ] = None,
    perfetto: Annotated[Path | None, typer.Option(help="Write the timeline for Perfetto: .json")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write all events: .parquet or .csv")] = None,
    figure: Annotated[
        str | None, typer.Option(help="Draw: timeline, utilization, occupancy or critical; needs --figure-out.")
    ] = None,
    figure_out: Annotated[
        Path | None, typer.Option("--figure-out", help="Where to write the figure: .html, .png, .svg or .pdf")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Execute a trace on a system: time, computing, communication and what of it is exposed, for each rank."""
    if compat is not None and compat != COMPAT:
        raise SpecError([Fault("compat", repr(compat[:40]), f"must be {COMPAT}")])
    _check_figure(figure, figure_out, compat)
    if compat is not None:
        found: Any = _compatible(workload, system, network, memory, groups, backend or "unaware")
    else:
        found = _physical(
            workload, system, network, memory, groups, backend or "analytical", schedule, fold=fold, replay=replay
        )
    if perfetto is not None:
        found.to_perfetto(perfetto)
    if out is not None:
        found.to_file(out)
    if figure is not None and figure_out is not None:
        from dse.view import simulation as view
        from dse.view.files import write_figure

        write_figure(getattr(view, figure)(found), figure_out)
    if as_json or compat is None or found.outcome == "finished":
        typer.echo(json.dumps(finite(found.to_dict()), indent=2) if as_json else str(found))
    if compat is not None:
        found.check()  # what did not finish is an error, whatever could be printed


def _check_figure(figure: str | None, out: Path | None, compat: str | None) -> None:
    """Refuse a figure that cannot be drawn or written, before anything is simulated."""
    if figure is None and out is None:
        return
    from dse.view.files import FIGURES

    if figure not in DRAWN:
        rule = f"must be one of {', '.join(DRAWN)}"
        raise SpecError([Fault("figure", repr((figure or "")[:40]), rule)])
    if out is None or out.suffix.lower() not in FIGURES:
        rule = f"must be a file that ends in {', '.join(FIGURES)}"
        raise SpecError([Fault("figure-out", str(out or "")[-80:], rule)])
    if compat is not None and figure != "timeline":
        raise SpecError([Fault("figure", repr(figure), f"must be timeline with --compat {COMPAT}: it keeps no more")])


def _files(system: str | None, network: Path | None) -> tuple[Path, Path]:
    if system is None or network is None:
        lacking = "system" if system is None else "network"
        raise SpecError([Fault(lacking, "", f"--{lacking} FILE is needed")])
    return Path(system), network


def _compatible(
    workload: str, system: str | None, network: Path | None, memory: Path | None, groups: Path | None, backend: str
) -> Any:
    """Run with the public simulator's semantics."""
    from dse.simulate.compat import run
    from dse.simulate.formats import Network, checked
    from dse.trace import load

    if backend not in ("unaware", "aware"):
        raise SpecError([Fault("backend", repr(backend[:40]), "must be unaware or aware in compat mode")])
    settings, wires = _files(system, network)
    return run(load(workload, groups=groups), checked(Network, wires, aware=backend == "aware"), settings, memory)


def _physical(
    workload: str, system: str | None, network: Path | None, memory: Path | None, groups: Path | None, backend: str,
    schedule: str, *, fold: bool, replay: bool | None,
) -> Any:  # fmt: skip
    """Run with physical links: on ASTRA-sim's files, or on a cluster of the catalogue."""
    from dse.simulate.run import simulate as execute
    from dse.trace import load

    if backend not in ("analytical", "flows"):
        raise SpecError([Fault("backend", repr(backend[:40]), "must be analytical or flows")])
    traces = load(workload, groups=groups)
    if network is None and system is not None and not system.endswith(".json"):
        if memory is not None:
            raise SpecError([Fault("memory", str(memory)[-80:], "is for a JSON system; a cluster has its own")])
        from dse.simulate.system import System

        machine = System.of(system, len(traces))
    else:
        if network is not None and system is not None and not system.endswith(".json"):
            rule = "must be a JSON file of ASTRA-sim where --network is given; a cluster has a network of its own"
            raise SpecError([Fault("system", repr(system[-80:]), rule)])
        from dse.simulate.astra import system_of
        from dse.simulate.formats import System as Settings
        from dse.simulate.formats import checked

        settings, wires = _files(system, network)
        machine = system_of(wires, settings, memory)
        replay = not checked(Settings, settings).roofline_enabled if replay is None else replay
    return execute(traces, machine, fidelity=backend, schedule=schedule, fold=fold, replay=replay is not False)
