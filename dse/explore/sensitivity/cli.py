"""``dse sensitivity``: what matters in a design, at a point, over ranges, and by regions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

if TYPE_CHECKING:
    from dse.explore.result import Result

KINDS = ("tornado", "elasticity", "shadow", "sobol", "morris", "discover", "bottleneck")


def attach(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command()(sensitivity)


def sensitivity(
    model: Annotated[str, typer.Option("--model", help="Catalogue id, YAML file, or CSV of layers.")],
    cluster: Annotated[str, typer.Option("--cluster", help="Catalogue id or YAML file; a template for any size.")],
    strategy: Annotated[str, typer.Option(help='"tp=8,pp=8,...,global_batch=1536", or the best.')] = "best",
    devices: Annotated[int | None, typer.Option(help="Number of accelerators.")] = None,
    global_batch: Annotated[int | None, typer.Option(help="Samples per step, with the best strategy.")] = None,
    kind: Annotated[str, typer.Option(help=", ".join(KINDS) + ".")] = "tornado",
    field: Annotated[
        list[str] | None, typer.Option("--input", help="tornado, elasticity, shadow: fields; by default all that act.")
    ] = None,
    by: Annotated[float, typer.Option(help="tornado: relative step to both sides.")] = 0.2,
    factor: Annotated[
        list[str] | None,
        typer.Option(help='sobol, morris, discover: "FIELD=25:400 GB/s log", "tp=1,2,4", "cluster=dgx-a100,dgx-h100".'),
    ] = None,
    axis: Annotated[list[str] | None, typer.Option(help='discover: look at all designs, "tp=1,2,4".')] = None,
    target: Annotated[list[str] | None, typer.Option(help='discover: "mfu >= 0.5"; several must all hold.')] = None,
    case: Annotated[str, typer.Option(help="discover: designs that miss or meet the target.")] = "miss",
    among: Annotated[str, typer.Option(help="discover: feasible designs, or all.")] = "feasible",
    quantity: Annotated[str, typer.Option(help="step_time, mfu, cost, energy, feasible, ...")] = "step_time",
    reoptimize: Annotated[bool, typer.Option("--reoptimize", help="The best strategy at each point.")] = False,
    objective: Annotated[str, typer.Option(help='What --reoptimize goes by: "mfu", "min power", ...')] = "step_time",
    samples: Annotated[int | None, typer.Option(help="sobol, discover: samples; morris: trajectories.")] = None,
    seed: Annotated[int, typer.Option(help="Of the samples.")] = 0,
    depth: Annotated[int, typer.Option(help="bottleneck: rungs of the ladder.")] = 4,
    out: Annotated[Path | None, typer.Option("--out", help="Write the table: .csv .parquet .xlsx .tex .md")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Write the figure: .html .svg .png .pdf")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the designs and estimate the time; no more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell what matters: which inputs, which resources are worth their price, which regions, which bottleneck."""
    from dse.explore.sensitivity import Search, forecast
    from dse.view.files import check_figure, write_figure

    if kind not in KINDS:
        raise SpecError([Fault("kind", repr(kind)[:40], f"must be one of {', '.join(KINDS)}")])
    if objective != "step_time" and not reoptimize:
        raise SpecError([Fault("objective", repr(objective)[:40], "is what --reoptimize goes by; give both")])
    check_figure(figure)
    search = Search(objective) if reoptimize else False
    design = _design(model, cluster, strategy, devices, global_batch, axis if kind == "discover" else None)
    options: dict[str, Any] = {
        "tornado": {"inputs": field, "by": by, "quantity": quantity, "reoptimize": search},
        "elasticity": {"inputs": field, "quantity": quantity},
        "shadow": {"value_of": field, "reoptimize": search},
        "sobol": {"quantity": quantity, "reoptimize": search, "seed": seed, "samples": samples},
        "morris": {"quantity": quantity, "reoptimize": search, "seed": seed, "trajectories": samples},
        "discover": {"case": case, "among": among, "reoptimize": search, "seed": seed, "samples": samples},
        "bottleneck": {"depth": depth},
    }[kind]
    analysis, arguments = _analysis(kind, factor, target)
    options = {name: v for name, v in options.items() if v not in (None, [])}
    if dry_run:
        plan = forecast(analysis, design, *arguments, **options)
        typer.echo(json.dumps({"kind": kind, **plan.summary()}, indent=2) if as_json else f"{kind}: {plan}")
        return
    if not design.axes and not design.is_feasible:
        why = "; ".join(reason["why"] for reason in design.reasons())
        typer.echo(f"dse: this design is infeasible, so read what follows with care: {why}", err=True)
    found = analysis(design, *arguments, **options)
    if out is not None:
        from dse.study.export import export
        from dse.study.provenance import provenance

        export(found.table, out, provenance=provenance(design.specs, design.axes, design.replace))
    if figure is not None:
        from dse.view import sensitivity as views

        write_figure(getattr(views, kind)(found, design=design), figure)
    typer.echo(json.dumps({"kind": kind, **finite(found)}, indent=2) if as_json else str(found))


def _design(
    model: str, cluster: str, strategy: str, devices: int | None, global_batch: int | None, axis: list[str] | None
) -> Result:
    import dse
    from dse.cli import parse_axis

    if strategy == "best":
        if devices is None or global_batch is None:
            missing = "devices" if devices is None else "global_batch"
            raise SpecError([Fault(missing, "", "is needed to find the best strategy; or give --strategy")])
        best = dse.best(model, cluster, devices=devices, global_batch=global_batch)
        if not axis:
            return best
        return dse.sweep(model, cluster, best.specs["strategy"], *map(parse_axis, axis), devices=devices)
    if global_batch is not None:
        rule = "goes with the best strategy; --strategy states its own"
        raise SpecError([Fault("global_batch", str(global_batch), rule)])
    if axis:
        return dse.sweep(model, cluster, strategy, *map(parse_axis, axis), devices=devices)
    return dse.estimate(model, cluster, strategy, devices=devices)


def _analysis(
    kind: str, factor: list[str] | None, target: list[str] | None
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function of a kind, and what it takes besides the design and its options."""
    from dse.explore import sensitivity as study

    name = {"elasticity": "elasticities", "shadow": "shadow_prices", "bottleneck": "bottlenecks"}.get(kind, kind)
    if kind in ("sobol", "morris"):
        return getattr(study, name), (factor or [],)
    return getattr(study, name), (target or (), factor or None) if kind == "discover" else ()
