"""``dse continuum``: place stages from sensor to supercomputer, and say how far a model scales."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

app = typer.Typer(help="From the sensor to the leadership machine: what runs where, and how far.", no_args_is_help=True)

Graph = Annotated[str, typer.Argument(help="Stages, tiers and links: smoke-camera, or a YAML file.")]
Fixed = Annotated[
    list[str] | None, typer.Option("--fix", help='Keep a stage on a tier: "detect=blade"; several times.')
]
Rates = Annotated[
    list[str] | None, typer.Option("--link-rate", help='In place of a link\'s own: "uplink=5 Mbit/s"; several times.')
]
Passes = Annotated[
    list[str] | None, typer.Option("--passes", help='Share that a stage sends on: "detect=0.01"; several times.')
]
Drawn = Annotated[Path | None, typer.Option("--figure", help="Draw it: .html .svg .png .pdf")]
Out = Annotated[Path | None, typer.Option("--out", help="Keep the table: .csv or .parquet")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
METRIC = "time_to_insight node_power traffic node_hours dollars energy fidelity"
FIGURES = ("placement", "front", "played")


def attach(main: typer.Typer) -> None:
    """Add the commands to the command line."""
    main.add_typer(app, name="continuum")


@app.command()
def plan(
    graph: Graph = "smoke-camera",
    objective: Annotated[list[str] | None, typer.Option(help=f"Several times: {METRIC}")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help='"dollars <= 100 USD", "fidelity >= 0.9"; then only the best is told.')
    ] = None,
    fixed: Fixed = None, link_rate: Rates = None, passes: Passes = None,
    best: Annotated[str | None, typer.Option(help="The design told in detail: best in this; or its number.")] = None,
    method: Annotated[str, typer.Option(help="auto exhaustive milp")] = "auto",
    play: Annotated[int, typer.Option(help="Items of the fastest sensor to play that design with.", min=0)] = 0,
    arrivals: Annotated[str, typer.Option(help="Of items played: periodic poisson")] = "periodic",
    seed: Annotated[int, typer.Option(help="Of what is played.", min=0)] = 0,
    out: Out = None, figure: Drawn = None,
    kind: Annotated[str, typer.Option(help=f"Of figure: {' '.join(FIGURES)}")] = "placement", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Where each stage belongs: the designs that no other beats, one of them in detail; 1: none obeys the rules."""
    from dse.domains.continuum.placement import OBJECTIVES, solve
    from dse.domains.continuum.placement import plan as find
    from dse.view.files import check_figure

    check_figure(figure)
    _writable(out)
    _among("kind", kind, FIGURES)
    _among("arrivals", arrivals, ("periodic", "poisson"))
    if kind == "played" and figure is not None and not play:
        raise SpecError([Fault("play", "0", "must be 1 or more items to draw what was played")])
    problem, names = _fixed(graph, fixed or []), tuple(objective or OBJECTIVES)
    changes = {"link_rate": _pairs("link-rate", link_rate, "B/s"), "passes": _pairs("passes", passes, "1")}
    found, limits = None, _limits(limit or [])
    if limits:
        if kind == "front" and figure is not None:
            raise SpecError([Fault("kind", "front", "has no limits; leave them out, or draw the placement")])
        design = solve(problem, best or names[0], limits, method=method, **changes)
    else:
        found = find(problem, names, method=method, **changes)
        design = _picked(found, best or names[0])
    run = None
    if play:
        from dse.domains.continuum.queueing import simulate

        run = simulate(design, play, arrivals=arrivals, seed=seed)  # type: ignore[arg-type]
    if out is not None:
        _keep(out, found.table() if found is not None else design.stages())
    _draw(figure, kind, found, design, run)
    if as_json:
        told: dict[str, Any] = {"best": {**design.summary(), "availability": design.availability}}
        if found is not None:
            told |= {"method": found.method, "counts": found.counts, "broken": found.broken}
            told |= {"designs": found.table().to_dict("records")}
        if run is not None:
            told |= {"played": run.table().to_dict("records"), "insight": run.insight()}
        _json(told)
        return
    from dse.domains.continuum import text

    typer.echo("\n\n".join([*([text.front(found)] if found is not None else []), text.design(design),
                            *([text.played(run)] if run is not None else [])]))  # fmt: skip


def _fixed(graph: str, texts: list[str]) -> Any:
    from dse.domains.continuum.graph import load_continuum

    problem = load_continuum(graph)
    for text in texts:
        stage, equals, tier = (part.strip() for part in text.partition("="))
        if not equals or not tier:
            raise SpecError([Fault("fix", repr(text[:60]), 'must be "STAGE=TIER"')])
        known = {item.name: item.tiers or tuple(t.id for t in problem.tiers) for item in problem.stages}
        _among("fix", stage, tuple(known))
        _among(f"fix.{stage}", tier, known[stage])
        problem = problem.with_stage(stage, tiers=(tier,))
    return problem


def _picked(found: Any, best: str) -> Any:
    if not best.isdigit():
        return found.best(best)
    if not 1 <= int(best) <= len(found):
        raise SpecError([Fault("best", best[:40], f"must be an objective, or 1 to {len(found)}")])
    return found[int(best) - 1]


def _limits(texts: list[str]) -> dict[str, float]:
    from dse.domains.continuum.price import MAXIMISED, METRICS

    found = {}
    for text in texts:
        sign = ">=" if ">=" in text else "<="
        name, there, value = (part.strip() for part in text.partition(sign))
        _among("limit", name, tuple(METRICS))
        if not there or (sign == ">=") != (name in MAXIMISED):
            wanted = ">=" if name in MAXIMISED else "<="
            raise SpecError([Fault("limit", repr(text[:60]), f'must be "{name} {wanted} VALUE"')])
        found[name] = _quantity("limit", value, "1" if METRICS[name] == "h" else METRICS[name])
    return found


def _draw(figure: Path | None, kind: str, found: Any, design: Any, run: Any) -> None:
    if figure is None:
        return
    from dse.view import continuum as views
    from dse.view.files import write_figure

    if kind == "front":
        x, y = (*found.objectives, *(n for n in ("time_to_insight", "node_power") if n not in found.objectives))[:2]
        write_figure(views.front(found, x, y), figure)
    else:
        write_figure(views.played(run) if kind == "played" else views.placement(design), figure)


@app.command("break-even")
def break_even(
    graph: Graph = "smoke-camera",
    stage: Annotated[str, typer.Option(help="The one that may be on either tier.")] = "detect",
    link: Annotated[str, typer.Option(help="Whose rate is varied.")] = "uplink",
    tiers: Annotated[str, typer.Option(help="Two of them.")] = "node,blade",
    objective: Annotated[str, typer.Option(help=METRIC)] = "time_to_insight",
    passes: Annotated[str, typer.Option(help="Trigger probabilities of the stage: 0.001,0.01,0.1")] = "",
    rates: Annotated[str, typer.Option(help="From, to: 10 kbit/s, 10 Gbit/s")] = "80 kbit/s,8 Gbit/s",
    free: Annotated[list[str] | None, typer.Option(help="Other stages that may change with it.")] = None,
    fixed: Fixed = None, out: Out = None, figure: Drawn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """At which rate of a link a stage belongs elsewhere, and why."""
    import numpy as np

    from dse.domains.continuum import breakeven, text
    from dse.view.files import check_figure, write_figure

    check_figure(figure)
    _writable(out)
    ends = [_quantity("rates", part, "B/s") for part in rates.split(",")]
    if len(ends) != 2 or not 0 < ends[0] < ends[1]:
        raise SpecError([Fault("rates", repr(rates)[:60], "must be two, the second above the first")])
    found = breakeven.break_even(
        _fixed(graph, fixed or []), stage, link, [part.strip() for part in tiers.split(",")], objective=objective,
        rates=np.geomspace(*ends, 61).tolist(), passes=_numbers("passes", passes, "1", high=1.0) or None,
        free=tuple(free or ()),
    )  # fmt: skip
    if out is not None:
        _keep(out, found.table())
    if figure is not None:
        from dse.view.continuum import break_even as drawn

        write_figure(drawn(found), figure)
    flips = found.flips.to_dict("records")
    _json({"stage": stage, "link": link, "objective": objective, "flips": flips}) if as_json else typer.echo(
        text.flips(found)
    )


@app.command()
def scale(
    machines: Annotated[list[str], typer.Argument(help="Frontier Summit Perlmutter-GPU Perlmutter-CPU Chrysalis")],
    nodes: Annotated[str, typer.Option(help="1024,2048,8192; by default sizes up to the whole machine.")] = "",
    family: Annotated[str, typer.Option(help="scream homme-main_loop homme-advection e3sm")] = "scream",
    algorithm: Annotated[str | None, typer.Option(help="One that the family was run with.")] = None,
    elements: Annotated[float | None, typer.Option(help="Of the problem, where the family has several.")] = None,
    coverage: Annotated[float, typer.Option(help="Of the intervals.")] = 0.9,
    target: Annotated[float | None, typer.Option(help="Simulated days per day to reach: fewest nodes.")] = None,
    days: Annotated[float, typer.Option(help="Simulated, for node-hours, energy and cost.")] = 365.0,
    price: Annotated[float | None, typer.Option(help="Dollars of a node-hour, your own.")] = None,
    out: Out = None, figure: Drawn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Throughput on sizes run and not yet run, with intervals, node-hours and cost; 1: not enough data for any."""
    from dse.domains.continuum import text
    from dse.domains.continuum.scaling import load_scaling
    from dse.domains.continuum.tables import sizes
    from dse.view.files import check_figure, write_figure

    check_figure(figure)
    _writable(out)
    if not 0 < days < 1e9 or (target is not None and not 0 < target < 1e9):
        raise SpecError([Fault("days, target", f"{days}, {target}", "must be above 0 and below 1e9")])
    if price is not None and not 0 <= price < 1e9:
        raise SpecError([Fault("price", f"{price:g}", "must be 0 to 1e9 dollars a node-hour")])
    model = load_scaling(_family(family))
    choice = {"algorithm": algorithm, "elements": elements, "coverage": coverage}
    given, found = _numbers("nodes", nodes, "1", high=1e9), []
    for name in machines:
        ran = model.runs.loc[model.runs["machine"] == name, "nodes"].to_numpy(float)
        found.append(model.forecast(name, given or sizes(name, ran, int(min([*ran, 256]))), **choice))
    rows = text.scaled(found, days, price)
    reach = None
    if target is not None:
        reach = {one.machine: text.fewest(model, one, target, choice) for one in found if not one.reason}
    if out is not None:
        _keep(out, rows)
    if figure is not None:
        from dse.view.continuum_scaling import forecasts

        write_figure(forecasts(found, _like(model, elements), target=target), figure)
    if as_json:
        _json({"family": family, "rows": rows.to_dict("records"), "fewest": reach})
    else:
        typer.echo(text.scaling(rows, reach, target, days))
    if all(one.reason for one in found):
        raise typer.Exit(1)


def _family(name: str) -> str:
    from dse.domains.continuum.scaling_tables import FAMILIES

    _among("family", name, tuple(FAMILIES))
    return name


def _like(model: Any, elements: float | None) -> Any:
    """The measured runs of the problem that is forecast."""
    return model.runs if elements is None else model.runs[model.runs["elements"] == elements]


@app.command()
def stream(
    volume: Annotated[str, typer.Argument(help="Of data: 1.05 TB")],
    span: Annotated[str, typer.Option(help="In which they come.")] = "1 day",
    reduction: Annotated[float, typer.Option(help="Factor by which they are made smaller first.", min=1.0)] = 1.0,
    availability: Annotated[float, typer.Option(help="Share of the time that the link is up.")] = 1.0,
    link: Annotated[str | None, typer.Option(help="Its rate: then buffer and delay too.")] = None,
    outage: Annotated[str, typer.Option(help="Mean length of its outages.")] = "1 h",
    risk: Annotated[float, typer.Option(help="Share of the time that the buffer may be too small.")] = 0.001,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """The link rate that a stream of data needs; with a link that fails now and then, the buffer and the delay."""
    from dse.domains.continuum import text
    from dse.domains.continuum.flows import Outages, needed_rate, needed_reduction

    size, length = _quantity("volume", volume, "B"), _quantity("span", span, "s")
    told: dict[str, Any] = {
        "needed_rate": float(needed_rate(size, length, reduction=reduction, availability=availability))
    }
    if link is not None:
        rate, down = _quantity("link", link, "B/s"), _quantity("outage", outage, "s")
        coming = size / length / reduction
        told |= {
            "link": rate,
            "needed_reduction": float(needed_reduction(size / length, rate, availability=availability)),
        }
        if availability < 1:
            fails = Outages(down * availability / (1 - availability), down)
            told |= {"buffer": float(fails.buffer(coming, rate, risk)), "delay": float(fails.mean_delay(coming, rate))}
    _json(told) if as_json else typer.echo(text.stream(told, risk))


@app.command()
def ensemble(
    budget: Annotated[list[float], typer.Argument(help="What may be spent, in the unit of the costs.")],
    physics_cost: Annotated[float, typer.Option(help="Of a physics member.")] = 250.0,
    emulator_cost: Annotated[float, typer.Option(help="Of an emulator member.")] = 1.0,
    correlation: Annotated[float, typer.Option(help="Of members from the same initial state.")] = 0.9,
    deviation: Annotated[float, typer.Option(help="Of physics members.")] = 1.0,
    bias: Annotated[float, typer.Option(help="Of the emulator's mean (spread: of its variance).")] = 0.0,
    statistic: Annotated[str, typer.Option(help="mean spread")] = "mean",
    figure: Drawn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Physics members, emulator members, or both: what a budget is best spent on. Correlation and bias are yours."""
    from dse.domains.continuum import text
    from dse.domains.continuum.ensemble import Members, split
    from dse.view.files import check_figure, write_figure

    check_figure(figure)
    members = Members.parse(
        {"physics_cost": physics_cost, "emulator_cost": emulator_cost, "correlation": correlation,
         "deviation": deviation, "bias" if statistic == "mean" else "spread_bias": bias}
    )  # fmt: skip
    found = split(members, sorted(budget), statistic=statistic)  # type: ignore[arg-type]
    if figure is not None:
        from dse.view.continuum import ensemble as drawn

        write_figure(drawn(found), figure)
    _json(found.table().to_dict("records")) if as_json else typer.echo(text.split(found))


def _among(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise SpecError([Fault(field, repr(value)[:60], f"must be one of {', '.join(known)}"[:300])])


def _pairs(field: str, texts: list[str] | None, unit: str) -> dict[str, float]:
    found = {}
    for text in texts or []:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise SpecError([Fault(field, repr(text[:60]), 'must be "NAME=VALUE"')])
        found[name] = _quantity(field, value, unit)
    return found


def _numbers(field: str, text: str, unit: str, *, high: float) -> list[float]:
    """Numbers with commas between them, above 0."""
    found = [_quantity(field, part, unit) for part in text.split(",") if part.strip()]
    if any(not 0 < value <= high for value in found):
        raise SpecError([Fault(field, repr(text)[:60], f"must be above 0, at most {high:g}")])
    return found


def _quantity(field: str, text: str, unit: str) -> float:
    from dse.units import UnitError, parse

    try:
        return parse(text.strip(), unit)
    except UnitError as error:
        raise SpecError([Fault(field, repr(text)[:40], str(error))]) from None


def _writable(path: Path | None) -> None:
    if path is None:
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise SpecError([Fault("out", str(path)[-80:], "must be a file in a folder that exists")])
    if path.suffix not in (".csv", ".parquet"):
        raise SpecError([Fault("out", str(path)[-80:], "must end in .csv or .parquet")])


def _keep(path: Path, table: Any) -> None:
    from dse.study.export import write_table

    write_table(path, lambda: table)


def _json(answer: Any) -> None:
    typer.echo(json.dumps(finite(answer), indent=2))
