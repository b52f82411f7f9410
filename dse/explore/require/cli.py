"""``dse require``: how much of a resource a target needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.errors import Fault, InfeasibleDesign, SpecError
from dse.plain import plain
from dse.view.files import check_figure, write_figure


def attach(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(require)


def require(
    target: Annotated[list[str], typer.Option(help='"mfu >= 0.5", "step_time <= 12 s"; several must all hold.')],
    vary: Annotated[list[str], typer.Option(help="A numeric field; of two, the first for each of the second.")],
    model: Annotated[str, typer.Option("--model", help="Catalogue id, YAML file, or CSV of layers.")],
    cluster: Annotated[str, typer.Option("--cluster", help="Catalogue id or YAML file; a template for any size.")],
    strategy: Annotated[str, typer.Option(help='"tp=8,pp=8,...,global_batch=1536", or best for each value.')] = "best",
    best: Annotated[bool, typer.Option("--best", help="The best strategy for each value (the default).")] = False,
    devices: Annotated[int | None, typer.Option(help="Number of accelerators.")] = None,
    global_batch: Annotated[int | None, typer.Option(help="Samples per step, with the best strategy.")] = None,
    low: Annotated[list[str] | None, typer.Option(help="Low end of the range with its unit, one a field.")] = None,
    high: Annotated[list[str] | None, typer.Option(help="High end of the range.")] = None,
    level: Annotated[float, typer.Option(help="Of the interval, 0.5 to 0.95.")] = 0.9,
    probability: Annotated[float, typer.Option(help="What the certain value holds with, 0.5 to 0.99.")] = 0.9,
    direction: Annotated[str | None, typer.Option(help="least or most; by default told from the response.")] = None,
    base: Annotated[str | None, typer.Option(help='Fixed strategy fields with the best, e.g. "precision=fp8".')] = None,
    option: Annotated[list[str] | None, typer.Option(help='Values to try: "tp=1,2,4", "recompute=none,full".')] = None,
    price: Annotated[list[str] | None, typer.Option(help='For two fields: "FIELD=100 USD/(GB/s)" a device.')] = None,
    points: Annotated[int | None, typer.Option(help="Values of the scan.")] = None,
    tolerance: Annotated[float, typer.Option(help="Of the answer, relative.")] = 1e-3,
    out: Annotated[Path | None, typer.Option("--out", help="Write the scan: .csv .parquet .xlsx .tex .md")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Write the figure: .html .svg .png .pdf")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the designs and estimate the time; no more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the least of a resource that meets a target, with its interval; exit code 1 if none does."""
    from dse.explore.require import forecast
    from dse.explore.require import require as solve

    if best and strategy != "best":
        raise SpecError([Fault("best", "", "goes without --strategy: name one of them")])
    check_figure(figure)
    question: dict[str, Any] = {
        "target": target,
        "vary": vary,
        "model": model,
        "cluster": cluster,
        "strategy": strategy,
        "devices": devices,
        "global_batch": global_batch,
        "low": low or None,
        "high": high or None,
        "level": level,
        "probability": probability,
        "direction": direction,
        "base": base,
        "options": _options(option),
        "prices": _prices(price),
        "points": points,
        "tolerance": tolerance,
    }
    if dry_run:
        plan = forecast(**question)
        typer.echo(json.dumps(plan.summary(), indent=2) if as_json else str(plan))
        return
    try:
        found = solve(**question)
    except InfeasibleDesign as error:
        if as_json:
            typer.echo(json.dumps({"feasible": False, "reasons": [{"why": str(error)}]}, indent=2))
        raise
    if out is not None:
        found.export(out)
    if figure is not None:
        write_figure(found.figure(title=" and ".join(target)), figure)
    typer.echo(json.dumps(found.summary(), indent=2, default=plain) if as_json else repr(found))


def _options(given: list[str] | None) -> dict[str, Any] | None:
    from dse.cli import parse_axis

    return {a.path.removeprefix("strategy."): list(a.values) for a in map(parse_axis, given or [])} or None


def _prices(given: list[str] | None) -> dict[str, str] | None:
    """``FIELD=PRICE`` items as a mapping.

    Raises:
        SpecError: an item of another form.
    """
    found = {}
    for item in given or []:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name or not value:
            raise SpecError([Fault("price", repr(item[:60]), 'must be "FIELD=100 USD/(GB/s)"')])
        found[name] = value
    return found or None
