"""``dse sweep``, ``dse resume`` and ``dse export``: tables of any size, printed, written or streamed to a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import plain

if TYPE_CHECKING:
    from dse.explore.stream.forecast import Forecast
    from dse.explore.stream.plan import Plan
    from dse.explore.stream.table import StreamedTable

TABLE_ROWS = 5_000_000  # rows of a table that is held in memory
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Workers = Annotated[int, typer.Option(help="Processes; more than one are a local Dask cluster.", min=1, max=1024)]
Threads = Annotated[int | None, typer.Option(help="Threads of a single process; one a core.", min=1, max=1024)]
Scheduler = Annotated[str | None, typer.Option(help="Dask scheduler whose workers do the work: tcp://HOST:8786")]
Chunk = Annotated[int | None, typer.Option(help="Designs that a worker is given at once.", min=1)]


def attach(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command()(sweep)
    app.command()(resume)
    app.command()(export)


def sweep(
    model: Annotated[str, typer.Option("--model", help="Catalogue id, YAML file, or CSV of layers.")],
    cluster: Annotated[str, typer.Option("--cluster", help="Catalogue id or YAML file; a template for any size.")],
    strategy: Annotated[str, typer.Option(help='"tp=8,pp=8,...,global_batch=1536" or a YAML file.')] = "",
    axis: Annotated[
        list[str] | None, typer.Option(help='"tp=1,2,4" or "cluster.network.inter.bandwidth=25:100:4 GB/s".')
    ] = None,
    devices: Annotated[int | None, typer.Option("--devices", help="Number of accelerators.")] = None,
    all_strategies: Annotated[
        bool, typer.Option("--all-strategies", help="Every strategy besides: fields that --strategy states stay fixed.")
    ] = False,
    global_batch: Annotated[
        int | None, typer.Option("--global-batch", help="Samples per step (as in --strategy).", min=1)
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="A file (.csv .parquet .xlsx .tex .md), or a folder (no ending) for any size."),
    ] = None,
    columns: Annotated[str, typer.Option(help="Columns of a folder's table: step_time,mfu,time.forward")] = "",
    workers: Workers = 1,
    threads: Threads = None,
    scheduler: Scheduler = None,
    chunk: Chunk = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the designs, estimate time and disk, write nothing.")
    ] = False,
    rows: Annotated[int, typer.Option(help="Rows to print.", min=1, max=100_000)] = 40,
    as_json: AsJson = False,
) -> None:
    """Price every combination of some axes; infeasible designs stay in the table with their reasons.

    With --out FOLDER the table may have any size: it is streamed to Parquet files, and a sweep that was stopped or
    killed goes on with the same command or with 'dse resume FOLDER'.
    """
    from dse.explore.stream import plan_of, with_strategies

    text = ",".join(filter(None, [strategy, f"global_batch={global_batch}" if global_batch is not None else ""]))
    if not text:
        raise SpecError([Fault("strategy", "", "give --strategy, or --global-batch where nothing else is fixed")])
    axes = [_parse_axis(item) for item in axis or []]
    _refuse_twice(text, axes)
    if not axes and not all_strategies:
        raise SpecError([Fault("axis", "", "give at least one --axis, or --all-strategies")])
    streamed = out is not None and _is_folder(out)
    chosen = [name.strip() for name in columns.split(",") if name.strip()] or None
    if not streamed and not dry_run and (workers > 1 or scheduler or chunk or threads or chosen):
        rule = "a folder (no ending) is needed with --workers, --threads, --scheduler, --chunk and --columns"
        raise SpecError([Fault("out", out or "", rule)])
    if streamed or dry_run:
        plan = plan_of(model, cluster, text, *axes, devices=devices, all_strategies=all_strategies, columns=chosen)
        cores = workers if workers > 1 else threads or os.cpu_count() or 1
        if dry_run:
            _print_forecast(plan, Path(out or "."), cores, as_json)
        else:
            _print_table(_carried_out(plan, str(out), workers, threads, scheduler, chunk), as_json)
        return
    if all_strategies:
        axes = list(with_strategies(model, cluster, text, axes, devices))
    _small(model, cluster, text, axes, devices, out, rows, as_json)


def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep or search that was stopped or killed.")],
    workers: Workers = 1,
    threads: Threads = None,
    scheduler: Scheduler = None,
    chunk: Chunk = None,
    trials: Annotated[int | None, typer.Option(help="Of a search: extend it to so many.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a sweep or a search: only what is missing is computed."""
    from dse.explore.search.cli import resume_search
    from dse.explore.search.saved import INPUTS as SEARCH
    from dse.explore.stream.run import saved_plan

    if (folder / SEARCH).is_file():
        resume_search(folder, trials, workers, scheduler, as_json)
        return
    plan = saved_plan(folder)
    _print_table(_carried_out(plan, str(folder), workers, threads, scheduler, chunk), as_json)


def export(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished sweep or search.")],
    out: Annotated[Path, typer.Argument(help="File: .csv .parquet .xlsx .tex .md, or .html for a report.")],
    where: Annotated[str, typer.Option(help='SQL condition: "feasible and step_time < 10".')] = "",
    columns: Annotated[str, typer.Option(help="Columns by plain names: tp,pp,step_time")] = "",
    order_by: Annotated[str, typer.Option("--order-by", help='SQL order: "step_time desc".')] = "",
    limit: Annotated[int | None, typer.Option(help="Rows at most.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Export a table of designs, or what a query leaves of it, with units and a manifest; .html is a report."""
    from dse.explore.search.report import export_search
    from dse.explore.search.saved import INPUTS as SEARCH
    from dse.explore.stream import open_table

    chosen = [name.strip() for name in columns.split(",") if name.strip()]
    if (folder / SEARCH).is_file():
        path, count = export_search(folder, out, where=where, columns=chosen, order_by=order_by, limit=limit)
        typer.echo(json.dumps({"file": str(path), "rows": count}) if as_json else f"{path}: {count:,} rows")
        return
    path = open_table(folder).export(out, where=where, columns=chosen, order_by=order_by, limit=limit)
    manifest = json.loads(path.with_name(path.name + ".manifest.json").read_text(encoding="utf-8"))
    found = {"file": str(path), "rows": manifest["rows"], "sha256": manifest["sha256"]}
    typer.echo(json.dumps(found, indent=2) if as_json else f"{path}: {manifest['rows']:,} rows")


def _is_folder(out: str) -> bool:
    return out.endswith(("/", os.sep)) or Path(out).is_dir() or not Path(out).suffix


def _parse_axis(text: str) -> Any:
    from dse.cli import parse_axis

    return parse_axis(text)


def _refuse_twice(strategy: str, axes: list[Any]) -> None:
    """A field has its value in the strategy's text, or its values on an axis.

    Raises:
        SpecError: a field has both.
    """
    from dse.spec import parse_strategy

    given = parse_strategy(strategy) if "=" in strategy else {}
    both = [item.path for item in axes if item.path.removeprefix("strategy.") in given]
    if both:
        name = both[0].removeprefix("strategy.")
        raise SpecError([Fault(f"axis {name}", "", f"strategy gives {name}={given[name]} too; name it once")])


def _carried_out(
    plan: Plan, out: str, workers: int, threads: int | None, scheduler: str | None, chunk: int | None
) -> StreamedTable:
    from dse.explore.stream import open_table
    from dse.explore.stream.run import carry_out

    options: dict[str, Any] = {"workers": workers, "threads": threads, "scheduler": scheduler, "chunk": chunk}
    try:
        carry_out(plan, Path(out), **options, progress=True)
    except KeyboardInterrupt:
        typer.echo(f"dse: interrupted: what is done is kept; 'dse resume {out}' goes on", err=True)
        raise typer.Exit(130) from None
    return open_table(out)


def _print_table(table: StreamedTable, as_json: bool) -> None:
    """What was written, how many designs are feasible, which rules the others break, and the best."""
    from dse.explore.stream.text import described

    good, broken = table.feasible_rows(), table.infeasible()
    first = next((name for name in ("step_time", "mfu", "tokens_per_s", "cost") if name in table.headers), None)
    best = table.best(first).iloc[0].to_dict() if good and first else {}
    if as_json:
        found = {
            "out": str(table.path),
            "rows": table.rows,
            "feasible": good,
            "infeasible_by_rule": broken,
            "bytes": table.manifest["bytes"],
            "parts": len(table.files),
            "sha256": table.manifest["sha256"],
            "best": best,
        }
        typer.echo(json.dumps(found, indent=2, default=plain))
        return
    typer.echo(str(table))
    typer.echo(f"{good:,} feasible; rules broken: {', '.join(f'{r} {n:,}' for r, n in broken.items()) or 'none'}")
    if best:
        design, numbers = described(table, best)
        typer.echo(f"best by {first}: {design}\n  {numbers}")


def _print_forecast(plan: Plan, folder: Path, cores: int, as_json: bool) -> None:
    from dse.explore.stream.forecast import forecast

    found = forecast(plan, folder)
    if as_json:
        axes = {b.name: len(b.values) for b in plan.axes}
        typer.echo(
            json.dumps(
                {"rows": found.rows, "parts": found.parts, "axes": axes, "seconds": found.seconds(cores),
                 "core_seconds": found.core_seconds, "bytes": found.bytes, "free_bytes": found.free}, indent=2
            )
        )  # fmt: skip
        return
    axes = " x ".join(f"{len(b.values)} {b.name}" for b in plan.axes)
    typer.echo(f"{found.rows:,} designs: {axes}\n{found.parts:,} parts, {_duration(found, cores)}, {_disk(found)}")


def _duration(found: Forecast, cores: int) -> str:
    seconds = found.seconds(cores)
    unit, name = next(
        (u, n) for u, n in ((86400, "days"), (3600, "hours"), (60, "minutes"), (0, "")) if seconds > 2 * u
    )
    shown = f"{seconds / unit:.1f} {name}" if unit else f"{seconds:.1f} seconds"
    return f"about {shown} on {cores} core{'s' if cores > 1 else ''}"


def _disk(found: Forecast) -> str:
    from dse.units import engineering

    warning = "" if found.bytes < found.free else ": NOT ENOUGH"
    return f"about {engineering(found.bytes, 'B')} on disk ({engineering(float(found.free), 'B')} free{warning})"


# -- tables that fit in memory ---------------------------------------------------------------------------------


def _small(
    model: str,
    cluster: str,
    strategy: str,
    axes: list[Any],
    devices: int | None,
    out: str | None,
    rows: int,
    as_json: bool,
) -> None:
    import dse
    from dse.study.export import export as write

    size = 1
    for item in axes:
        size *= len(item.values)
    if size > TABLE_ROWS:
        rule = f"more than {TABLE_ROWS:,} rows: stream them to a folder with --out FOLDER"
        raise SpecError([Fault("axis", f"{size:,} designs", rule)])
    result = dse.sweep(model, cluster, strategy, *axes, devices=devices)
    if out is not None:
        write(result, out)
    frame = result.to_dataframe()
    if as_json:
        typer.echo(json.dumps(json.loads(frame.to_json(orient="records")), indent=2))
        return
    _print_rows(result, frame, rows)


def _print_rows(result: Any, frame: Any, rows: int) -> None:
    from dse.units import engineering

    names = [b.name for b in result.axes]
    shown = ("step_time", "mfu", "memory_bytes", "cost")
    header = [*names, *shown, "feasible", "reasons"]
    columns = {c.partition(" [")[0]: c for c in frame.columns}
    table = []
    for record in frame.head(rows).to_dict("records"):
        cells = [_axis_text(record[columns[b.name]], b.unit) for b in result.axes]
        cells += [engineering(record[columns[n]], result.unit(n)) for n in shown]
        table.append([*cells, "yes" if record["feasible"] else "no", record["reasons"][:60]])
    widths = [max(len(str(row[i])) for row in [header, *table]) for i in range(len(header))]
    for row in [header, *table]:
        typer.echo("  ".join(f"{cell!s:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    if len(frame) > rows:
        typer.echo(f"... {len(frame) - rows:,} more designs; --rows N or --out FILE for all of them")


def _axis_text(value: Any, unit: str) -> str:
    from dse.units import engineering

    return engineering(value, unit) if unit not in ("", "1") and not isinstance(value, str) else str(value)
