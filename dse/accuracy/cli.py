"""``dse validate``, ``dse calibrate`` and ``dse compare``: how far off predictions are, and what that means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

KINDS = ("training", "memory", "collectives", "gemm")
DOMAINS = {  # recorded runs of the public XRBench, and runs of Earth-system models
    "xrbench-scores": "dse.domains.xr.score_validate:validate",
    "xrbench-layers": "dse.domains.xr.layer_validate:validate_layers",
    "scaling": "dse.domains.continuum.scaling_validate:validate",
}
SYNTHESIZED = "tacos"  # runs of another synthesizer
RECORDED = ("astrasim-collectives", "astrasim-programs", "astrasim-traces")  # runs of another simulator
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def attach(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(validate)
    app.command()(calibrate)
    app.command()(compare)


def validate(
    kind: Annotated[
        str,
        typer.Argument(
            help="What the table holds: training, memory, collectives or gemm; or recorded runs of the public "
            "ASTRA-sim: astrasim-collectives, astrasim-programs, astrasim-traces; of the public TACOS: tacos; or of "
            "the public XRBench: xrbench-scores, xrbench-layers; or runs of Earth-system models: scaling."
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            help="CSV or Parquet with the columns of the table; of measurements by default the shipped one."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a line a row: id, prediction, interval, reason.")
    ] = None,
    fixtures: Annotated[
        Path | None, typer.Option(help="Of astrasim tables: folder of the traces; by default the shipped ones.")
    ] = None,
    topologies: Annotated[
        Path | None, typer.Option(help="Of tacos tables: folder of FAMILY_NPUS.txt; by default the shipped networks.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold predictions against measurements: error by source, hardware, stack and scale, and what was not predicted.

    Recorded runs of ASTRA-sim are executed again in compat mode: n, exact_fraction, within_2pct_fraction, worst.
    """
    if kind == SYNTHESIZED:
        _synthesized(file, topologies, out, as_json=as_json)
        return
    if kind in RECORDED:
        _recorded(kind, file, fixtures, as_json=as_json)
        return
    if kind not in KINDS and kind not in DOMAINS:
        known = ", ".join((*KINDS, *RECORDED, SYNTHESIZED, *DOMAINS))
        raise SpecError([Fault("kind", repr(kind[:40]), f"must be one of {known}")])
    report = _report(kind, file) if kind in KINDS else _of_domain(kind, file)
    if out is not None:
        from dse.study.export import write_table

        write_table(out, report.table)
    typer.echo(json.dumps(finite(report.summary()), indent=2) if as_json else str(report))


def _of_domain(kind: str, file: Path | None) -> Any:
    from importlib import import_module

    module, function = DOMAINS[kind].split(":")
    return getattr(import_module(module), function)(file)


def _recorded(kind: str, file: Path | None, fixtures: Path | None, *, as_json: bool) -> None:
    from dse.simulate.compat import validate as recorded

    if file is None:
        raise SpecError([Fault("file", "", f"{kind} needs a file with the columns of the reference tables")])
    if kind == "astrasim-collectives":
        found = recorded.validate_collectives(file)
    else:
        check = recorded.validate_programs if kind == "astrasim-programs" else recorded.validate_traces
        found = check(file, fixtures)
    typer.echo(json.dumps(finite(found), indent=2) if as_json else recorded.text(found))


def _synthesized(file: Path | None, topologies: Path | None, out: Path | None, *, as_json: bool) -> None:
    """Synthesize again what a table of recorded runs names. Exit code 1 if a schedule is wrong or beats a bound."""
    from dse.collective import validate as recorded
    from dse.explore.search.progress import shown

    if file is None:
        raise SpecError([Fault("file", "", "tacos needs a file with the columns of the reference table")])
    with shown(terminal=True) as progress:
        found = recorded.validate(file, topologies, progress=progress)
    if out is not None:
        from dse.study.export import write_table

        write_table(out, lambda: found.table)
    answer = {**found.summary(), "cases": found.table.to_dict("records")}
    typer.echo(json.dumps(finite(answer), indent=2) if as_json else str(found))
    if not found.summary()["valid"] or found.summary()["below_bound"]:
        raise typer.Exit(1)


def _report(kind: str, file: Path | None) -> Any:
    if kind == "training":
        from dse.accuracy.validate import validate_training

        return validate_training(file)
    if kind == "memory":
        from dse.accuracy.memory import validate_memory

        return validate_memory(file)
    if kind == "collectives":
        from dse.accuracy.collectives import validate_collectives

        return validate_collectives(file)
    from dse.accuracy.gemm import validate_gemm

    return validate_gemm(file)


def calibrate(
    out: Annotated[Path, typer.Option("--out", help="The calibration file to write; its runs go beside it.")],
    seed: Annotated[int, typer.Option(help="Order of the fits that leave something out.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes.", min=1, max=64)] = 2,
    as_json: AsJson = False,
) -> None:
    """Refit every constant from the measured tables: use the file with DSE_CALIBRATION=FILE."""
    from rich.console import Console
    from rich.status import Status

    from dse.accuracy.calibrate import calibrate as fit
    from dse.accuracy.calibrate import held_out_statistics, write

    if out.is_dir() or out.suffix not in (".yaml", ".yml") or not out.parent.is_dir():
        raise SpecError([Fault("out", str(out)[-60:], "must be a .yaml file in a folder that exists")])
    console = Console(stderr=True)
    with Status("calibrating", console=console) as status:
        data, runs = fit(seed=seed, workers=workers, progress=lambda line: status.update(line))
    write(data, runs, out)
    found = {"id": data["id"], "file": str(out), **held_out_statistics(runs)}
    if as_json:
        typer.echo(json.dumps(finite(found), indent=2))
        return
    from dse.accuracy.report import error_lines

    typer.echo(
        f"calibration {data['id']} written to {out}\nerror of the step time, each fitted without the rows it predicts"
    )
    typer.echo("\n".join(error_lines("", found["parts"])))


def compare(
    model: Annotated[str, typer.Option("--model", help="Catalogue id or YAML file.")],
    cluster: Annotated[str, typer.Option("--cluster", help="Catalogue id or YAML file.")],
    a: Annotated[str, typer.Option("--a", help='Strategy of a: "tp=8,pp=8,...,global_batch=1536".')],
    b: Annotated[str, typer.Option("--b", help="Strategy of b.")],
    cluster_b: Annotated[str | None, typer.Option(help="Cluster of b, where it is another.")] = None,
    devices: Annotated[int | None, typer.Option(help="Number of accelerators of both.")] = None,
    as_json: AsJson = False,
) -> None:
    """Which of two designs is faster, and how sure that is: errors that both share cancel."""
    import dse

    first = dse.estimate(model, cluster, a, devices=devices)
    second = dse.estimate(model, cluster_b or cluster, b, devices=devices)
    found = dse.compare(first, second)
    if as_json:
        terms = {str(name): list(row) for name, row in zip(found.terms.index, found.terms.to_numpy(), strict=True)}
        shown = {"p_a_faster": found.faster, "ratio": found.ratio, "ratio_90": [found.low, found.high],
                 "shared": found.shared, "notes": list(found.notes),
                 "changed": found.changed, "terms_s": terms}  # fmt: skip
        typer.echo(json.dumps(finite(shown), indent=2, default=str))
        return
    typer.echo(str(found))
