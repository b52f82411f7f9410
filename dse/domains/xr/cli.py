"""``dse xr``: score accelerators in XR scenarios, rank them under other conditions, explain misses, and search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.xr.conditions import Conditions

app = typer.Typer(help="XR scenarios: several models at once, with deadlines, on accelerators.", no_args_is_help=True)

Scenarios = Annotated[
    list[str] | None, typer.Option("--scenario", help="An id or a YAML file; several times. All of XRBench.")
]
Systems = Annotated[
    list[str] | None, typer.Option("--system", help="4K-A ... 8K-M, 4K, 8K, or a YAML file; several times. All.")
]
Mode = Annotated[str, typer.Option("--mode", help="published, corrected, or own (corrected, without jitter).")]
Changes = Annotated[list[str] | None, typer.Option("--set", help='A condition: "qoe=once", "horizon=10 s", ...')]
Scheduler = Annotated[str | None, typer.Option("--policy", help="published fcfs edf dynamic ..., or a YAML file.")]
Priced = Annotated[
    str | None, typer.Option("--costs", help="A CSV of costs, or `model`: the cost model of layers. Recorded ones.")
]
Networks = Annotated[
    list[str] | None, typer.Option("--network", help="Layers of a model of one's own: NAME=FILE.onnx; several times.")
]
Sensors = Annotated[str | None, typer.Option("--sensors", help="`xrbench` or a YAML file; needs real periods.")]
Shared = Annotated[str | None, typer.Option("--dram", help="Bandwidth of DRAM that the parts share: 16 GB/s, ...")]
Seeds = Annotated[int, typer.Option("--seeds", help="How many, from the first on.", min=1, max=100_000)]
First = Annotated[int, typer.Option("--first-seed", help="The first seed.", min=0)]
Drawn = Annotated[Path | None, typer.Option("--figure", help="Draw it: .html .svg .png .pdf")]
Kept = Annotated[Path | None, typer.Option("--out", help="Keep it: .csv .parquet")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ROWS = 24  # of a table that are printed


def attach(main: typer.Typer) -> None:
    """Add the commands to the command line."""
    main.add_typer(app, name="xr")


@app.command()
def score(
    scenario: Scenarios = None, system: Systems = None, mode: Mode = "published", changes: Changes = None,
    policy: Scheduler = None, costs: Priced = None, networks: Networks = None, sensors: Sensors = None,
    dram: Shared = None, seeds: Seeds = 100, first: First = 1,
    by: Annotated[str, typer.Option("--by", help="system, scenario, model or seed")] = "system",
    out: Kept = None, figure: Drawn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Score systems in scenarios: means over seeds with confidence, chance to be the best, misses and power."""
    from dse.domains.xr.scored import scored
    from dse.domains.xr.tables_designs import listed
    from dse.view.files import check_figure, write_figure

    if by not in ("system", "scenario", "model", "seed"):
        raise SpecError([Fault("by", repr(by)[:40], "must be system, scenario, model or seed")])
    check_figure(figure)
    _check_table(out)
    conditions = _conditions(mode, changes)
    found = scored(
        scenario, listed(system or ()), conditions=conditions, policy_=policy, seeds=range(first, first + seeds),
        costs=_costs(costs, networks, conditions), **_extras(sensors, dram),
    )  # fmt: skip
    table = found.table(by)
    _keep(table, out)
    if figure is not None:
        from dse.view import xr_scores

        about = f"{mode}, scheduler {policy or conditions.order}, {seeds:,} seeds"
        draw = xr_scores.seeds if by == "seed" else xr_scores.breakdown
        write_figure(draw(found.seeds if by == "seed" else found.by_scenario(), about=about), figure)
    _tell(table, as_json=as_json)


@app.command()
def rank(
    scenario: Scenarios = None, system: Systems = None,
    effect: Annotated[list[str] | None, typer.Option("--effect", help="Several times; by default all.")] = None,
    costs: Annotated[Path | None, typer.Option("--costs", help="A CSV of costs, for all effects alike.")] = None,
    seeds: Seeds = 30, first: First = 1, out: Kept = None, figure: Drawn = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Rank systems as published and with each thing put right that the benchmark gets wrong or hides."""
    from dse.domains.xr.corrected import CORRECTED, PUBLISHED, compare
    from dse.domains.xr.costs import from_csv
    from dse.domains.xr.tables_designs import listed
    from dse.view.files import check_figure, write_figure

    check_figure(figure)
    _check_table(out)
    with _progress() as progress:
        found = compare(effect or None, systems_=listed(system or ()), scenarios=scenario or None,
                        costs=from_csv(costs) if costs else None, seeds=range(first, first + seeds),
                        say=progress)  # fmt: skip
    table = found.table()
    _keep(table, out)
    if figure is not None:
        from dse.view import xr_scores

        ends = (found.effects[0], found.effects[-1]) if effect else (PUBLISHED, CORRECTED)
        write_figure(xr_scores.ranking(table, *ends), figure)
    if as_json:
        _tell(table, as_json=True)
        return
    for size, part in table.groupby("size"):
        wide = part.pivot(index="effect", columns="system", values="rank").loc[list(found.effects)]
        typer.echo(f"rank of the mean over {seeds:,} seeds, {size:,} PEs\n{wide.to_string()}\n")


@app.command()
def explain(
    scenario: Annotated[str, typer.Argument(help="An id or a YAML file.")],
    system: Annotated[str, typer.Argument(help="An id or a YAML file.")],
    mode: Mode = "published", changes: Changes = None, policy: Scheduler = "published", costs: Priced = None,
    networks: Networks = None, sensors: Sensors = None, dram: Shared = None,
    seed: Annotated[int, typer.Option(help="Of the run.", min=0)] = 1,
    frame: Annotated[str | None, typer.Option("--frame", help='What held it up, link by link: "GE 12".')] = None,
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Models and parts a little faster; other schedulers.")
    ] = False,
    faster: Annotated[float, typer.Option(help="Of --what-if: share of time saved.")] = 0.05,
    variants: Annotated[Path | None, typer.Option("--variants", help="A CSV of cheaper variants of models.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The timeline: .csv .parquet")] = None,
    figure: Drawn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Why frames of a run were dropped or late: causes, what was in the way, what would help; and the timeline."""
    from dse.domains.xr.explain import CAUSES, blocking_chain, misses
    from dse.domains.xr.explain import what_if as tried
    from dse.domains.xr.runtime import run, timeline
    from dse.view.files import check_figure, write_figure

    check_figure(figure)
    _check_table(out)
    conditions = _conditions(mode, changes)
    settings = {"policy_": policy, "costs": _costs(costs, networks, conditions), "conditions": conditions,
                **_extras(sensors, dram)}  # fmt: skip
    done = run(scenario, system, seed=seed, **settings)
    lost = misses(done)
    _keep(timeline(done), out)
    if figure is not None:
        from dse.view import xr

        write_figure(xr.gantt(done), figure)
    told: dict[str, Any] = {"frames": len(timeline(done)), "missed": len(lost),
                            "score": float(done.scores().overall[0, 0]), "misses": lost}  # fmt: skip
    if frame is not None:
        told["chain"] = blocking_chain(done, *_frame(frame))
    if what_if:
        told["what_if"] = tried(scenario, system, faster=faster, **settings)
    if variants is not None:
        from dse.domains.xr.variants import read_variants, trade_off

        told["variants"] = trade_off(scenario, system, read_variants(variants), policy_=policy, costs=settings["costs"],
                                     conditions=conditions)  # fmt: skip
    if as_json:
        typer.echo(json.dumps(finite(told), indent=2))
        return
    lines = [f"{told['frames']} frames, {len(lost)} dropped or late; score {told['score']:.4f}"]
    for cause, part in lost.groupby("cause", sort=False):
        lines.append(f"  {len(part):>4}  {cause}: {CAUSES[str(cause)]} ({_models(part['model'])})")
    lines += told.get("chain", [])
    typer.echo(_short("\n".join(lines)))
    if len(lost):
        typer.echo(_text(lost.drop(columns=["root", "blockers"]).assign(behind=lost["blockers"])))
    for name in ("what_if", "variants"):
        if name in told:
            typer.echo(_text(told[name]))


@app.command()
def search(
    scenario: Scenarios = None,
    vary: Annotated[list[str] | None, typer.Option(help='"pes=4096, 8192", "dataflows=WS, WS+OS", ...')] = None,
    objective: Annotated[list[str] | None, typer.Option(help="score energy power area; several times")] = None,
    budget: Annotated[list[str] | None, typer.Option(help='"area <= 8 mm^2", "power <= 5 W", "score >= 0.8"')] = None,
    mode: Annotated[str, typer.Option("--mode", help="own, corrected or published.")] = "own",
    changes: Changes = None, seeds: Seeds = 20,
    compare: Annotated[bool, typer.Option("--compare", help="Also score each design as published.")] = False,
    trials: Annotated[int, typer.Option(help="Designs to try, those of earlier runs included.", min=1)] = 200,
    method: Annotated[str, typer.Option(help="auto nsga2 nsga3 tpe gp cmaes random qmc grid")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the search.", min=0)] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder that keeps it; the same call goes on.")] = None,
    storage: Annotated[str | None, typer.Option(help="journal, sqlite:///file, postgresql://..., grpc://...")] = None,
    figure: Drawn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Search parts, split, bandwidth, dataflows and scheduler under budgets; exit code 1 where nothing keeps within."""
    from dse.domains.xr import search as searches
    from dse.domains.xr.scenarios import scenario_ids
    from dse.study.export import write_table
    from dse.view.files import check_figure, write_figure

    check_figure(figure)
    conditions = _conditions(mode, ["memory=counted", *(changes or ())] if mode == "own" else changes)
    problem = searches.Problem(
        scenarios=scenario or scenario_ids(), objectives=tuple(objective or ("score", "energy", "area")),
        budgets=searches.budgets(budget or []), seeds=range(1, seeds + 1), conditions=conditions, compare=compare,
    )  # fmt: skip
    with _progress() as progress:
        found = searches.search(problem, vary=_varied(vary or []), trials=trials, seed=seed, method=method, folder=out,
                                storage=storage, progress=progress)  # fmt: skip
    if out is not None:
        write_table(out / "designs.csv", lambda: found.frame)
        write_table(out / "front.csv", lambda: found.front)
    if figure is not None and len(found.front):
        from dse.view.xr_scores import search_front

        x, y = (*problem.objectives, "area")[:2]
        write_figure(search_front(found.frame, y, x), figure)
    told = {"designs": len(found.frame), "stopped": found.stopped, "front": found.front}
    if compare:
        told["agreement"] = found.agreement()
    typer.echo(json.dumps(finite(told), indent=2) if as_json else str(found))
    if compare and not as_json:
        typer.echo(f"Rank correlation (Kendall) with the published score: {told['agreement']:.3f}")
    if not len(found.front):
        raise typer.Exit(1)
    if found.stopped.startswith("interrupted"):
        raise typer.Exit(130)


def _varied(texts: list[str]) -> dict[str, tuple[Any, ...]]:
    """Values of variables in words."""
    from dse.domains.xr.search import UNITS
    from dse.units import UnitError, parse

    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        parts = [part.strip() for part in values.split(",") if part.strip()]
        if not equals or not parts:
            raise SpecError([Fault("vary", repr(text[:60]), 'must be "NAME=VALUE, VALUE, ..."')])
        if name not in ("pes", "parts", "noc", "l2"):
            found[name] = tuple(parts)
            continue
        try:
            numbers = [parse(part, UNITS.get(name, "1")) for part in parts]
        except UnitError as error:
            raise SpecError([Fault(f"vary.{name}", repr(values)[:40], str(error))]) from None
        rule = "must be whole numbers above 0"
        if any(number < 1 or number != int(number) for number in numbers):
            raise SpecError([Fault(f"vary.{name}", repr(values)[:40], rule)])
        found[name] = tuple(int(number) for number in numbers)
    return found


def _models(names: pd.Series) -> str:
    return ", ".join(f"{name} {count}" for name, count in names.value_counts().items())


def _short(text: Any) -> Any:
    """Codes of models in place of their names, in a text; anything else stays."""
    from dse.domains.xr.models import CODES

    for name, short in CODES.items() if isinstance(text, str) else ():
        text = text.replace(name, short)
    return text


def _frame(text: str) -> tuple[str, int]:
    model, _, number = text.strip().rpartition(" ")
    if not model or not number.isdigit():
        raise SpecError([Fault("frame", repr(text)[:60], 'must be "MODEL NUMBER", like "GE 12"')])
    return model, int(number)


def _conditions(mode: str, changes: list[str] | None) -> Conditions:
    from dse.domains.xr.tables_designs import mode as named

    pairs = [text.partition("=") for text in changes or ()]
    faults = [
        Fault("set", repr("".join(p))[:60], 'must be "NAME=VALUE"') for p in pairs if not p[1] or not p[2].strip()
    ]
    if faults:
        raise SpecError(faults)
    return named(mode, {name.strip(): value.strip() for name, _, value in pairs})


def _costs(text: str | None, networks: list[str] | None, conditions: Conditions) -> Any:
    """Costs from a file, or of the cost model; none: recorded ones where there are."""
    from dse.domains.xr.costs import LayerModel, from_csv
    from dse.domains.xr.onnx_import import read_onnx

    pairs = [text.partition("=") for text in networks or ()]
    faults = [Fault("network", repr("".join(p))[:60], "must be NAME=FILE.onnx") for p in pairs if not (p[0] and p[2])]
    if pairs and text not in (None, "model"):
        faults.append(
            Fault("costs", str(text)[-80:], "must be left out, or model: networks need the cost model of layers")
        )
    if faults:
        raise SpecError(faults)
    if pairs or text == "model":
        layers = {name.strip(): read_onnx(file.strip()).layers for name, _, file in pairs}
        return LayerModel(conditions.depthwise, layers, dram=conditions.memory == "counted")
    return None if text is None else from_csv(text)


def _extras(sensors: str | None, dram: str | None) -> dict[str, Any]:
    from dse.domains.xr.sensors import sensing
    from dse.domains.xr.work import Memory

    return {
        **({} if sensors is None else {"sensors": sensing(None if sensors == "xrbench" else sensors)}),
        **({} if dram is None else {"memory": Memory.parse({"bandwidth": dram})}),
    }


def _check_table(path: Path | None) -> None:
    if path is not None and path.suffix not in (".csv", ".parquet"):
        raise SpecError([Fault("out", str(path)[-80:], "must end in .csv or .parquet")])


def _keep(table: pd.DataFrame, path: Path | None) -> None:
    from dse.study.export import write_table

    if path is not None:
        write_table(path, lambda: table)


def _tell(table: pd.DataFrame, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(finite(table), indent=2))
    else:
        typer.echo(_text(table))


def _text(table: pd.DataFrame) -> str:
    shown = (
        table.head(ROWS)
        .map(_short)
        .rename(columns=_short)
        .to_string(index=False, float_format=lambda v: f"{v:.4g}", max_colwidth=48)
    )
    more = len(table) - ROWS
    return shown + (f"\n... {more:,} more rows; --out keeps them" if more > 0 else "")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], object] | None]:
    """A bar on the error stream where that is a terminal."""
    from dse.explore.search.progress import shown

    with shown(terminal=True) as report:
        yield report
