"""``dse sushi``: price SubNets under cached SubGraphs, serve streams of queries, and search for accelerators."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

app = typer.Typer(help="SuperNet serving with SubGraphs that stay on the chip.", no_args_is_help=True)

Nets = Annotated[
    str, typer.Option("--supernet", help="SubNets: resnet50, mobilenetv3, a .yaml, or a .csv of layers (see below).")
]
Machine = Annotated[
    str, typer.Option("--accelerator", help="An id of `dse catalogue list subgraph-accelerator`, or a YAML file.")
]
Buffer = Annotated[str | None, typer.Option("--buffer", help="Persistent buffer in place of its own: 4 MiB, ...")]
Rate = Annotated[str | None, typer.Option("--bandwidth", help="Off-chip bandwidth of weights: 9.6 GB/s, ...")]
Count = Annotated[int, typer.Option("--candidates", help="SubGraphs that may be cached, at most.", min=1, max=10_000)]
Kinds = Annotated[
    str, typer.Option("--kinds", help="Ways to make them, joined by +: cuts orders shared average greedy.")
]
Seed = Annotated[int, typer.Option(help="Of all that is random.", min=0)]
Policy = Annotated[str, typer.Option(help="strict-accuracy or strict-latency")]
Caching = Annotated[
    str, typer.Option(help="none static random lru recent average expected discounted work-function oracle")
]
Queries = Annotated[int, typer.Option(help="How many, of a stream that is made.", min=1, max=10**8)]
Source = Annotated[
    str, typer.Option("--stream", help="random, markov, bursty, periodic, edge, or a .csv of queries (see below).")
]
Stay = Annotated[float, typer.Option(help="Of markov: probability that a query's demand is like the last one's.")]
Drawn = Annotated[Path | None, typer.Option("--figure", help="Draw it: .html .svg .png .pdf")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MODEL = ("supernet", "accelerator", "buffer", "bandwidth", "candidates", "kinds")  # what a given table stands for
EVERY = "cuts+orders+shared+average+greedy"
SUBNETS = """\b
SubNets of a .yaml (accuracy: top-1, a fraction or in %):
  supernet: ofa-resnet50            # or ofa-mobilenetv3, or a SuperNet of your own
  subnets:
    - {name: small, accuracy: 76.1 %, config: {resolution: 160, depth: 0, width: 0.65, expand: 0.2}}
    - {name: large, accuracy: 79.3 %, config: {resolution: 224, depth: 2, width: 1.0, expand: 0.35}}

\b
SubNets of a .csv, a row for each layer (k kernels, c channels, r x r kernel, x x x input; groups if grouped):
  subnet,slot,k,c,r,x,stride,accuracy
  small,0,32,3,3,160,2,76.1 %
  small,1,32,32,3,80,1,
  large,0,64,3,3,160,2,79.3 %
  large,1,64,64,3,80,1,
"""
QUERIES = """
\b
Queries of a .csv, with the unit of each column; latency is what the response may take:
  arrival [ms],accuracy [%],latency [ms]
  0,76,40
  12.5,79,60
A column policy (the same in all rows) may say strict-accuracy or strict-latency. Without units: s and fractions.
"""


def attach(main: typer.Typer) -> None:
    """Add the commands to the command line."""
    main.add_typer(app, name="sushi")


@app.command(epilog=SUBNETS)
def table(
    supernet: Nets = "resnet50", accelerator: Machine = "zcu104-calibrated", buffer: Buffer = None,
    bandwidth: Rate = None, candidates: Count = 16, kinds: Kinds = EVERY, seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Keep it as CSV; `serve --table` reads it.")] = None,
    figure: Drawn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """The latency of every SubNet under every candidate SubGraph: what a scheduler works with."""
    from dse.view.files import write_figure

    _writable("out", out, (".csv",))
    _writable("figure", figure)
    made = _priced(supernet, accelerator, buffer, bandwidth, candidates, kinds, seed)
    if out is not None:
        made.save(out)
    if figure is not None:
        from dse.view.sushi import latency_table

        write_figure(latency_table(made), figure)
    if as_json:
        _json({"subnets": made.subnets, "subgraphs": made.subgraphs, "latency": made.latency.tolist(),
               "accuracy": made.accuracy.tolist(), "size": made.size.tolist()})  # fmt: skip
        return
    typer.echo(f"{'latency [ms]':<24}{'size MiB':>10}" + "".join(f"{name[:11]:>12}" for name in made.subnets))
    for j, name in enumerate(made.subgraphs):
        cells = "".join(f"{1e3 * value:>12.4g}" for value in made.latency[:, j])
        typer.echo(f"{name[:23]:<24}{made.size[j] / 2**20:>10.4g}{cells}")


@app.command(epilog=SUBNETS + QUERIES)
def serve(
    context: typer.Context,
    supernet: Nets = "resnet50", accelerator: Machine = "zcu104-calibrated", buffer: Buffer = None,
    bandwidth: Rate = None, candidates: Count = 32, kinds: Kinds = EVERY, seed: Seed = 0,
    source: Source = "markov", queries: Queries = 10_000, stay: Stay = 0.98,
    rate: Annotated[float | None, typer.Option(help="Arrivals a second: an open loop, with waiting.")] = None,
    loop: Annotated[
        str | None, typer.Option(help="closed: one query at a time, arrivals do not count; open: as they arrive.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="strict-accuracy or strict-latency; or as the stream says.")
    ] = None,
    caching: Caching = "average",
    window: Annotated[int, typer.Option(help="Queries between decisions of what to cache (Q).", min=1)] = 8,
    loading: Annotated[str, typer.Option(help="A new SubGraph comes in blocking or overlapped.")] = "blocking",
    replicas: Annotated[int, typer.Option(help="Accelerators that serve one line.", min=1)] = 1,
    discipline: Annotated[str, typer.Option(help="Who is next: fifo edf shortest")] = "fifo",
    slack: Annotated[bool, typer.Option("--slack", help="Count time waited against the latency asked for.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Do not serve queries whose time is over (open loop).")] = False,
    initial: Annotated[int | None, typer.Option(help="SubGraph at the start: its row of the table, 0 none.")] = None,
    given: Annotated[Path | None, typer.Option("--table", help="A latency table (CSV) in place of the model.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="A row a query, units in the headers: .csv or .parquet")
    ] = None,
    figure: Drawn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Serve a stream of queries: latencies, served accuracy, misses, energy, and what was cached."""
    from dse.domains.sushi.scheduler import POLICIES
    from dse.domains.sushi.scheduler import Caching as Rule
    from dse.domains.sushi.serve import serve as run
    from dse.domains.sushi.table import load
    from dse.study.export import write_table
    from dse.view.files import write_figure

    if given is not None:
        certain = source.endswith(".csv") and caching != "random"  # nothing is left that is random
        _no_use(context, f"the table {given.name}", (*MODEL, "seed") if certain else MODEL)
    _writable("out", out, (".csv", ".parquet"))
    _writable("figure", figure)
    made = load(given) if given is not None else _priced(
        supernet, accelerator, buffer, bandwidth, candidates, kinds, seed)  # fmt: skip
    asked = _stream(context, made, source, queries, seed, stay, rate)
    loop = loop or ("open" if rate is not None or source.endswith(".csv") else "closed")
    if not source.endswith(".csv") and loop == ("closed" if rate is not None else "open"):
        rule = "is for an open loop" if rate is not None else "is needed for an open loop, or a recorded stream"
        raise SpecError([Fault("rate", "" if rate is None else f"{rate:g}", rule)])
    if slack and (policy or asked.policy or POLICIES[0]) == "strict-accuracy":
        raise SpecError([Fault("slack", "True", "is for the policy strict-latency, and this is strict-accuracy")])
    done = run(made, asked, policy=policy, caching=Rule(caching, seed=seed), window=window, loading=loading, loop=loop,
               replicas=replicas, discipline=discipline, slack=slack, drop=drop, initial=initial)  # fmt: skip
    if out is not None:
        write_table(out, done.frame)
    if figure is not None:
        from dse.view.sushi import timeline

        write_figure(timeline(done), figure)
    told = {"policy": done.settings["policy"], "caching": caching, "loop": loop, **done.summary()}
    _json(told) if as_json else typer.echo(_summary(told))


def _no_use(context: typer.Context, what: str, names: Sequence[str]) -> None:
    """Refuse options that were given and would change nothing."""
    given = [name for name in names if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if given:
        raise SpecError([Fault(name, str(context.params[name])[:60], f"is of no use with {what}") for name in given])


def _stream(
    context: typer.Context, made: Any, source: str, queries: int, seed: int, stay: float, rate: float | None
) -> Any:
    """The queries; options that their stream does not know are refused."""
    from dse.domains.sushi.problem import stream
    from dse.domains.sushi.recorded import from_csv

    if source.endswith(".csv"):
        _no_use(context, "a recorded stream", ("rate", "stay", "queries"))
        return from_csv(source)
    if source in ("random", "edge"):
        _no_use(context, f"the stream {source}", ("stay",))
    if rate is None and source in ("bursty", "periodic"):
        raise SpecError([Fault("rate", "", f"a {source} stream needs the arrivals a second")])
    if rate is not None and source == "edge":
        raise SpecError([Fault("rate", f"{rate:g}", "is not for edge, whose queries come one after the other")])
    if rate is not None and not 1e-9 <= rate <= 1e12:
        raise SpecError([Fault("rate", f"{rate:g}", "must be from 1e-09 to 1e+12")])
    settings = {
        "random": {"rate": rate}, "markov": {"rate": rate, "stay": stay}, "bursty": {"rate": rate, "stay": stay},
        "periodic": {"period": rate and 1 / rate, "stay": stay},
    }.get(source, {})  # fmt: skip
    return stream(made, source, queries, seed=seed, **settings)


SHOWN = (
    ("response", ("response_mean", "response_p50", "response_p95", "response_p99"), "s"),
    ("latency", ("latency_mean", "latency_p50", "latency_p95", "latency_p99"), "s"),
)


def _summary(told: dict[str, Any]) -> str:
    """The answer for people."""
    from dse.units import engineering

    count = max(told["queries"], 1)
    lines = [f"{told['queries']:,} queries, {told['dropped']:,} dropped; {told['policy']}, caching {told['caching']}, "
             f"{told['loop']} loop"]  # fmt: skip
    for words, names, unit in SHOWN:
        values = (f"{name.partition('_')[2]} {engineering(told[name], unit, 4)}" for name in names)
        lines.append(f"{words:<14}{',  '.join(values)}")
    lines += [
        f"{'accuracy':<14}{told['accuracy']:.3%} served; less than asked for: {told['accuracy_missed']:.2%}",
        f"{'deadlines':<14}{told['deadline_missed']:.2%} missed",
        f"{'cache':<14}{told['hit']:.2%} of the weights' bytes hit, hit ratio {told['hit_ratio']:.2%}, "
        f"{told['loads']:,} loads of a SubGraph",
        f"{'energy':<14}{engineering(told['energy'] / count, 'J', 4)} a query, "
        f"{engineering(told['off_chip'] / count, 'B', 4)} off chip a query",
        f"{'throughput':<14}{told['throughput']:,.4g} queries/s at {told['utilisation']:.1%} utilisation",
    ]
    return "\n".join(lines)


@app.command(epilog=SUBNETS)
def search(
    context: typer.Context,
    supernet: Nets = "resnet50", accelerator: Machine = "zcu104",
    vary: Annotated[list[str] | None, typer.Option(help='"buffer=0, 2 MiB, 4 MiB", "kernels=16, 32", ...')] = None,
    objective: Annotated[list[str] | None, typer.Option(help="latency p99 accuracy energy area; several times")] = None,
    budget: Annotated[list[str] | None, typer.Option(help='"area <= 12 mm^2", "accuracy >= 78 %", ...')] = None,
    source: Annotated[str, typer.Option("--stream", help="random, markov or edge")] = "markov",
    queries: Queries = 2000, stay: Stay = 0.98, policy: Policy = "strict-accuracy", caching: Caching = "average",
    trials: Annotated[int, typer.Option(help="Designs to try, those of earlier runs included.", min=1)] = 200,
    method: Annotated[str, typer.Option(help="auto nsga2 nsga3 tpe gp cmaes random qmc grid")] = "auto", seed: Seed = 0,
    out: Annotated[Path | None, typer.Option("--out", help="Folder that keeps it; the same call goes on.")] = None,
    storage: Annotated[str | None, typer.Option(help="journal, sqlite:///file, postgresql://..., grpc://...")] = None,
    figure: Drawn = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Search buffer, bandwidth, array, Q and candidates under budgets; exit code 1 where nothing keeps within them."""
    from dse.domains.sushi.search import budgets, problem
    from dse.domains.sushi.search import search as find
    from dse.domains.sushi.subnets import load_subnets
    from dse.study.export import write_table
    from dse.view.files import write_figure

    if out is not None and out.exists() and not out.is_dir():
        raise SpecError([Fault("out", str(out)[-80:], "must be a folder")])
    _writable("figure", figure)
    if source != "markov":
        _no_use(context, f"the stream {source}", ("stay",))
    objectives = tuple(objective or ("latency", "energy", "area"))
    given = problem(
        load_subnets(supernet), accelerator, kind=source, queries=queries, seed=seed, stay=stay, policy=policy,
        caching=caching, objectives=objectives, budgets=budgets(budget or []),
    )  # fmt: skip
    with _progress() as progress:
        found = find(given, vary=_varied(vary or []), trials=trials, seed=seed, method=method, folder=out,
                     storage=storage, progress=progress)  # fmt: skip
    if out is not None:
        write_table(out / "designs.csv", lambda: found.frame)
        write_table(out / "front.csv", lambda: found.front)
    if figure is not None and len(found.front):
        from dse.view.sushi_maps import search_front

        write_figure(search_front(found.frame, *_axes(objectives)), figure)
    told = {"designs": len(found.frame), "stopped": found.stopped, "exceeded": found.exceeded,
            "front": found.front}  # fmt: skip
    _json(told) if as_json else typer.echo(str(found))
    if not len(found.front):
        raise typer.Exit(1)
    if found.stopped.startswith("interrupted"):
        raise typer.Exit(130)


def _axes(objectives: tuple[str, ...]) -> tuple[str, str]:
    return (objectives[0], objectives[1]) if len(objectives) > 1 else ("area", objectives[0])


def _varied(texts: list[str]) -> dict[str, tuple[Any, ...]]:
    """Values of variables in words."""
    from dse.domains.sushi.search import UNITS
    from dse.units import UnitError, parse

    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        parts = [part.strip() for part in values.split(",") if part.strip()]
        if not equals or not parts:
            raise SpecError([Fault("vary", repr(text[:60]), 'must be "NAME=VALUE, VALUE, ..."')])
        try:
            numbers = parts if name == "kinds" else [parse(part, UNITS.get(name, "1")) for part in parts]
        except UnitError as error:
            raise SpecError([Fault(f"vary.{name[:40]}", repr(values)[:40], str(error))]) from None
        if name in ("window", "count", "kernels", "channels"):
            if wrong := [part for part, n in zip(parts, numbers, strict=True) if not float(n).is_integer()]:
                raise SpecError([Fault(f"vary.{name}", wrong[0][:40], "must be a whole number")])
            numbers = [int(n) for n in numbers]
        if name in found:
            raise SpecError([Fault(f"vary.{name[:40]}", repr(values)[:40], "is given twice; put all values in one")])
        found[name] = tuple(numbers)
    return found


def _priced(
    supernet: str, accelerator: str, buffer: str | None, bandwidth: str | None, count: int, kinds: str, seed: int
) -> Any:
    from dse.domains.sushi.problem import machine, priced
    from dse.domains.sushi.subnets import load_subnets

    built = machine(
        accelerator, buffer=_quantity("buffer", buffer, "B"), bandwidth=_quantity("bandwidth", bandwidth, "B/s")
    )
    return priced(built, load_subnets(supernet), count=count, kinds=kinds.split("+"), seed=seed)


def _quantity(name: str, text: str | None, unit: str) -> float | None:
    from dse.units import UnitError, parse

    if text is None:
        return None
    try:
        return parse(text, unit)
    except UnitError as error:
        raise SpecError([Fault(name, repr(text)[:40], str(error))]) from None


def _writable(name: str, path: Path | None, endings: Sequence[str] = ()) -> None:
    """Refuse a file that could not be written, before the work; without endings it is a figure."""
    from dse.view.files import check_figure

    if path is None:
        return
    if not endings:
        check_figure(path)
    elif path.suffix not in endings:
        raise SpecError([Fault(name, str(path)[-80:], f"must end in {' or '.join(endings)}")])
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir():
        raise SpecError([Fault(name, str(path)[-80:], "must be a file in a folder that exists")])
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SpecError([Fault(name, str(path)[-80:], "must be in a folder that may be written")])


def _json(answer: Any) -> None:
    typer.echo(json.dumps(finite(answer), indent=2))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], object] | None]:
    """A bar on the error stream where that is a terminal."""
    from dse.explore.search.progress import shown

    with shown(terminal=True) as report:
        yield report
