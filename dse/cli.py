"""The command line: the same calls as in Python, for people and (``--json``) for programs.

Exit codes: 0 done, 1 a reproduction fell short or no design is feasible, 2 bad input.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.accuracy import cli as accuracy_cli
from dse.app import lab_cli
from dse.collective import cli as collective_cli
from dse.domains.continuum import cli as continuum_cli
from dse.domains.sushi import cli as sushi_cli
from dse.domains.vegeta import cli as vegeta_cli
from dse.domains.xr import cli as xr_cli
from dse.errors import DseError, Fault, InfeasibleDesign, SpecError
from dse.explore.modex import cli as modex_cli
from dse.explore.require import cli as require_cli
from dse.explore.search import cli as search_cli
from dse.explore.sensitivity import cli as sensitivity_cli
from dse.explore.stream import cli as stream_cli
from dse.measure.cli import measure_app
from dse.plain import plain
from dse.simulate import cli as simulate_cli
from dse.trace import cli as trace_cli

HELP = """Design-space exploration for ML systems: which accelerator, memory, network and parallelization?

Start here:

\b
  dse catalogue list                          what hardware and models there are
  dse estimate --model gpt3-175b --cluster dgx-a100 --devices 1024 \\
      --strategy "tp=8,pp=8,micro_batch=1,global_batch=1536,zero_stage=1"
  dse best --model llama3-70b --cluster dgx-h100 --devices 512 --global-batch 1024
  dse reproduce comet-transformer-1t          rerun a published case study
  dse validate training                       how far off predictions are, run by run

Wherever an id is taken, so is your own YAML file: dse catalogue show dgx-a100 > mine.yaml
"""

_UNIT_BEHIND = re.compile(
    r"^\s*(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?P<space>\s*)(?P<unit>[A-Za-zµμ$%][^,:]*)$"
)

app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
catalogue_app = typer.Typer(help="List and show the catalogue's entries.", no_args_is_help=True)
app.add_typer(catalogue_app, name="catalogue")
app.add_typer(measure_app, name="measure")
PARTS = (
    stream_cli, search_cli, sensitivity_cli, require_cli, accuracy_cli, lab_cli, trace_cli, simulate_cli,
    collective_cli, vegeta_cli, sushi_cli, xr_cli, continuum_cli, modex_cli,
)  # fmt: skip
for part in PARTS:
    part.attach(app)

Model = Annotated[str, typer.Option("--model", help="Catalogue id, YAML file, or CSV of layers.")]
Cluster = Annotated[str, typer.Option("--cluster", help="Catalogue id or YAML file; a template for any size.")]
Devices = Annotated[int | None, typer.Option("--devices", help="Number of accelerators.")]
StrategyText = Annotated[str, typer.Option("--strategy", help='"tp=8,pp=8,...,global_batch=1536" or a YAML file.')]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Out = Annotated[Path | None, typer.Option("--out", help="Also write the table: .csv .parquet .xlsx .tex .md")]


def echo_json(value: Any) -> None:
    """Print as JSON; numbers of NumPy become plain ones."""
    typer.echo(json.dumps(value, indent=2, default=plain))


@app.command()
def estimate(
    model: Model,
    cluster: Cluster,
    strategy: StrategyText,
    devices: Devices = None,
    tokens: Annotated[str | None, typer.Option(help="Also price a whole run of this many tokens, e.g. 300e9.")] = None,
    explain: Annotated[
        str | None, typer.Option(help="Show the equations behind a quantity or term: step_time.")
    ] = None,
    depth: Annotated[int, typer.Option(help="Levels of equations to show.", min=0)] = 99,
    out: Out = None,
    fidelity: Annotated[
        str, typer.Option(help="closed; simulated: also execute its trace; flows: with every message on its links.")
    ] = "closed",
    trace: Annotated[
        Path | None, typer.Option(help="Write the step on every pipeline stage as a Chrome trace (Perfetto): .json")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Price one design: step time, memory, energy and cost, term by term."""
    import dse
    from dse.study.export import export

    result = dse.estimate(model, cluster, strategy, devices=devices, fidelity=fidelity)
    summary = result.summary()
    if tokens is not None:
        summary["run"] = result.run(tokens)
    if out is not None:
        export(result, out)
    if trace is not None:
        from dse.explore.timeline import timeline

        timeline(result).to_chrome_trace(trace)
    if as_json:
        if explain:
            summary["explanation"] = result.explain(explain).to_dict()
        echo_json(summary)
        return
    typer.echo(result.explain(explain).text(depth) if explain else str(result))
    if tokens is not None:
        _print_run(summary["run"])


def _print_run(run: dict[str, float]) -> None:
    from dse.cost.money import RUN_UNITS
    from dse.units import engineering

    text = {name: engineering(value, RUN_UNITS[name]) for name, value in run.items()}
    steps, interruptions = f"{run['run_steps']:,.0f} steps", f"{run['run_interruptions']:.3g} interruptions"
    typer.echo(f"\nthe whole run  {steps:<18} failures included ({interruptions})")
    for name in ("time", "energy", "cost", "carbon"):
        longer = "run_wall_time" if name == "time" else f"run_effective_{name}"
        typer.echo(f"  {name:<12} {text[f'run_{name}']:<18} {text[longer]}")


def parse_axis(text: str) -> Any:
    """``path=v1,v2,...`` or ``path=start:stop:count``, with an optional unit behind the last value.

    Raises:
        SpecError: the text has another form.
    """
    import numpy as np

    import dse

    path, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not path or not values:
        raise SpecError([Fault("axis", repr(text[:80]), 'must be "path=v1,v2,..." or "path=start:stop:count unit"')])
    body, unit = _without_unit(values)
    if body.count(":") == 2:
        try:
            start, stop, count = body.split(":")
            if not 2 <= int(count) <= 1_000_000:
                raise ValueError
            points = np.linspace(float(start), float(stop), int(count)).tolist()
            return dse.axis(path, points if unit else [f"{point:.12g}" for point in points], unit=unit)
        except ValueError:
            raise SpecError(
                [Fault(f"axis {path}", repr(body[:60]), "must be start:stop:count, count from 2")]
            ) from None
    items = [item.strip() for item in body.split(",") if item.strip()]
    # Without a unit the text goes on as it is: a field with a dimension then asks for one.
    return dse.axis(path, [float(item) for item in items] if unit else items, unit=unit)


def _without_unit(values: str) -> tuple[str, str]:
    """Values and the unit behind the last one, which is that of all where all are numbers: ``40,80,160GB``."""
    start = max(values.rfind(","), values.rfind(":")) + 1
    match = _UNIT_BEHIND.match(values[start:])
    others = [item for item in re.split("[,:]", values[: max(start - 1, 0)]) if item.strip()]
    numbers = all(_is_number(item) for item in others) and not _is_number(values[start:])
    # A word of its own such as 7b is a name: alone, a number and its unit are two words.
    if match is None or not numbers or not (others or match["space"]):
        return values, ""
    return values[:start] + match["number"], match["unit"].strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@app.command()
def best(
    model: Model,
    cluster: Cluster,
    devices: Annotated[int, typer.Option("--devices", help="Number of accelerators.", min=1)],
    global_batch: Annotated[int, typer.Option("--global-batch", help="Samples per step.", min=1)],
    objective: Annotated[
        str, typer.Option(help='step_time, mfu, cost, goodput, tco, "min power", "step_time@90%", ...')
    ] = "step_time",
    base: Annotated[str, typer.Option(help='Fixed strategy fields, e.g. "precision=fp8,overlap_tp=true".')] = "",
    option: Annotated[list[str] | None, typer.Option(help='Values to try: "tp=1,2,4", "recompute=none,full".')] = None,
    top: Annotated[int, typer.Option(help="How many to list.", min=1, max=1000)] = 5,
    as_json: AsJson = False,
) -> None:
    """Find the best parallelization strategy by evaluating all of them."""
    import dse

    chosen = {item.path.removeprefix("strategy."): list(item.values) for item in map(parse_axis, option or [])}
    try:
        result = dse.best(
            model,
            cluster,
            devices=devices,
            global_batch=global_batch,
            objective=objective,
            top=top,
            base=base or None,
            options=chosen,
        )
    except InfeasibleDesign as error:
        if as_json:
            echo_json({"feasible": False, "reasons": [{"why": str(error)}]})
        raise
    if as_json:
        echo_json({**result.summary(), "ranking": result.ranking})
        return
    typer.echo(str(result))
    counts = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in result.counts.items())
    typer.echo(f"\ndesigns: {counts}")
    if top > 1:
        _print_ranking(result)


def _print_ranking(result: Any) -> None:
    from dse.explore.objectives import objective
    from dse.units import engineering

    name, unit = result.objective, objective(result.objective).unit
    typer.echo(f"\nthe best {len(result.ranking)} by {name}")
    for place, entry in enumerate(result.ranking, 1):
        fields = ", ".join(f"{k}={str(v).lower()}" for k, v in entry.items() if k != name)
        typer.echo(f"  {place:>3}  {engineering(entry[name], unit):>12}  {fields}")


@app.command()
def reproduce(
    study: Annotated[str, typer.Argument(help="Name of a shipped study, or a folder with a study.yaml; 'list' lists.")],
    out: Annotated[Path | None, typer.Option(help="Output folder; by default out/STUDY.")] = None,
    as_json: AsJson = False,
) -> None:
    """Rerun a study and hold it against the published numbers: tables, figures and a verdict for each."""
    from dse.study.study import run_study, studies

    if study == "list":
        typer.echo("\n".join(studies()))
        return
    folder = out or Path("out") / Path(study).name
    report = run_study(study, folder, echo=(lambda line: typer.echo(line, err=as_json)))
    if as_json:
        echo_json(
            {
                "study": study,
                "ok": report.ok,
                "out": str(folder),
                "verdicts": json.loads(report.verdicts.to_json(orient="records")),
            }
        )
    if not report.ok:
        raise typer.Exit(1)


@catalogue_app.command("list")
def catalogue_list(
    kind: Annotated[
        str | None, typer.Argument(help="model, cluster, accelerator, node, stack, engine, ...; all by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the catalogue."""
    from dse.view.catalogue import catalogue_rows

    rows = catalogue_rows(kind)
    if as_json:
        echo_json(rows)
        return
    for group in dict.fromkeys(row["kind"] for row in rows):
        typer.echo(f"\n{group}s")
        for row in rows:
            if row["kind"] == group:
                typer.echo(f"  {row['id']:<22} {row['name'][:58]:<58}  {row['what']}")


@catalogue_app.command("show")
def catalogue_show(
    entry: Annotated[str, typer.Argument(help="Id of an entry.")],
    kind: Annotated[
        str | None, typer.Option(help="Where an id names several: accelerator, node, cluster, model, engine, ...")
    ] = None,
) -> None:
    """Print an entry's YAML: the start of a file of your own."""
    from dse.view.catalogue import find_entry

    path, others = find_entry(entry, kind)
    if others:
        typer.echo(f"# also of kind {', '.join(others)}: use --kind", err=True)
    typer.echo(path.read_text(encoding="utf-8"), nl=False)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check the environment: versions, browser, optional extras."""
    from dse.study.doctor import checks

    found = checks()
    if as_json:
        echo_json(found)
    else:
        for row in found:
            mark = {"ok": "ok     ", "missing": "MISSING", "optional": "absent "}[row["state"]]
            typer.echo(f"{mark}  {row['name']:<14} {row['found']:<14} {row['note']}".rstrip())
    if any(row["state"] == "missing" for row in found):
        raise typer.Exit(1)


def version(show: bool) -> None:
    """Print the version and stop."""
    if show:
        import dse

        typer.echo(f"dse {dse.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    show: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors of the user's input end with their message and exit code 2."""
    try:
        app()
    except InfeasibleDesign as error:
        _stop(str(error), 1)
    except DseError as error:
        _stop(str(error), 2)
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _stop(message: str, code: int) -> None:
    typer.echo(f"dse: {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
