"""``dse trace``: look at execution traces, convert, generate, check, compare, synthesize and obfuscate them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

trace_app = typer.Typer(
    help="Chakra execution traces: show, convert, generate, validate, diff, synthesize, obfuscate.",
    no_args_is_help=True,
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Workload = Annotated[
    str, typer.Argument(help="PREFIX of PREFIX.0.et, PREFIX.1.et, ..., a folder of them, or one file.")
]
Groups = Annotated[Path | None, typer.Option("--groups", help='Communicator groups: JSON {"id": [ranks]}.')]
Prefix = Annotated[Path, typer.Option("--out", help="Prefix of the files to write: PREFIX.0.et, ...")]
Seed = Annotated[int, typer.Option(help="Of what is drawn at random.", min=0)]


def attach(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(trace_app, name="trace")


def _echo(value: Any) -> None:
    typer.echo(json.dumps(finite(value), indent=2))


def _saved(traces: Any, out: Path, as_json: bool, **more: Any) -> None:
    """Write the files of all ranks and say what was written."""
    from dse.trace import save

    files = save(traces, out)
    told = {"ranks": len(traces), "classes": len(traces.classes), "nodes": int(sum(len(t) for t in traces.classes)),
            "files": len(files), "prefix": str(out), **more}  # fmt: skip
    if as_json:
        _echo(told)
        return
    extra = "".join(f", {name} {value}" for name, value in more.items())
    typer.echo(f"{told['ranks']:,} ranks, {told['classes']:,} distinct traces: {out}.*.et{extra}")


@trace_app.command()
def show(
    workload: Workload,
    groups: Groups = None,
    figure: Annotated[
        str | None, typer.Option(help="Also draw: graph, timeline or volume; needs --out FILE.html/png/svg/pdf.")
    ] = None,
    perfetto: Annotated[Path | None, typer.Option(help="Write the timeline for Perfetto: .json")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the figure.")] = None,
    rank: Annotated[int, typer.Option(help="Rank whose graph, timeline and critical path are shown.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:
    """What is in a trace: nodes by kind, operators, communication by type and group, critical path."""
    from dse.trace import load
    from dse.trace.summary import summary

    traces = load(workload, groups=groups)
    if rank not in traces:
        raise SpecError([Fault("rank", str(rank), f"must be 0 to {len(traces) - 1}")])
    found = summary(traces, rank=rank)
    if figure is not None:
        from dse.view import trace as view
        from dse.view.files import write_figure

        draw = {"graph": view.graph, "timeline": view.timeline, "volume": view.volume}
        if figure not in draw or out is None:
            raise SpecError([Fault("figure", repr(figure), f"must be one of {', '.join(draw)}, with --out FILE")])
        write_figure(draw[figure](traces, rank=rank), out)
    if perfetto is not None:
        from dse.trace.perfetto import to_perfetto

        to_perfetto(traces, perfetto)
    if as_json:
        _echo(found.to_dict())
    else:
        typer.echo(str(found))


@trace_app.command()
def validate(workload: Workload, groups: Groups = None, as_json: AsJson = False) -> None:
    """Check a trace: dependences, attributes, sends against receives, collectives; exit code 1 on errors."""
    from dse.trace import load
    from dse.trace.validate import validate as check

    traces = load(workload, groups=groups)
    findings = check(traces)
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        rows = [{name: getattr(f, name) for name in ("severity", "rank", "node", "what", "rule")} for f in findings]
        _echo({"ranks": len(traces), "errors": errors, "warnings": len(findings) - errors, "findings": rows})
    else:
        typer.echo("\n".join(str(finding) for finding in findings[:100]) or "nothing is wrong")
        if len(findings) > 100:
            typer.echo(f"... and {len(findings) - 100:,} more (--json lists all)")
    if errors:
        raise typer.Exit(1)


@trace_app.command()
def diff(a: Workload, b: Workload, as_json: AsJson = False) -> None:
    """What differs between two traces; exit code 1 if anything does."""
    from dse.trace import load
    from dse.trace.diff import diff as compare

    found = compare(load(a), load(b))
    if as_json:
        _echo(found.to_dict())
    else:
        typer.echo(str(found))
    if not found.equal:
        raise typer.Exit(1)


@trace_app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Host trace (JSON), text workload, or a trace in another dialect.")],
    out: Prefix,
    kind: Annotated[str, typer.Option("--from", help="pytorch, text or chakra.")],
    kineto: Annotated[Path | None, typer.Option(help="Profiler trace (JSON) that belongs to a PyTorch trace.")] = None,
    rank: Annotated[
        int | None, typer.Option(help="Rank of a PyTorch trace; by default the one it names.", min=0)
    ] = None,
    npus: Annotated[int | None, typer.Option(help="Ranks of a text workload.", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Turn PyTorch traces, text workloads and other dialects into Chakra files."""
    if kind == "pytorch":
        from dse.trace.convert import pytorch

        _saved(pytorch(source, kineto, rank=rank), out, as_json)
    elif kind == "text":
        from dse.trace.convert import text

        if npus is None:
            raise SpecError([Fault("npus", "", "a text workload needs --npus, the number of ranks")])
        _saved(text(source, npus), out, as_json)
    elif kind == "chakra":
        from dse.trace import load

        _saved(load(source), out, as_json)
    else:
        raise SpecError([Fault("from", repr(kind[:40]), "must be pytorch, text or chakra")])


@trace_app.command()
def generate(
    model: Annotated[str, typer.Option("--model", help="Catalogue id or YAML file.")],
    cluster: Annotated[str, typer.Option("--cluster", help="Catalogue id or YAML file.")],
    strategy: Annotated[str, typer.Option("--strategy", help='"tp=8,pp=8,...,global_batch=1536".')],
    out: Prefix,
    devices: Annotated[int | None, typer.Option("--devices", help="Number of accelerators.")] = None,
    detail: Annotated[str, typer.Option(help="operator, block or pass: what a compute node stands for.")] = "operator",
    as_json: AsJson = False,
) -> None:
    """The trace of a training step of any design, without owning the machine."""
    from dse.trace import generate as make

    traces = make(model, cluster, strategy, devices=devices, detail=detail)
    for reason in traces.result.reasons() if traces.result is not None else ():
        typer.echo(f"dse: note: the design breaks a rule: {reason['why']}", err=True)
    _saved(traces, out, as_json)


@trace_app.command()
def synthesize(
    learn: Annotated[
        list[str], typer.Option("--learn", help="Traces to learn from (repeat), or a saved model (.json).")
    ],
    out: Prefix,
    ranks: Annotated[int | None, typer.Option(help="Ranks of the new trace; by default as learnt.", min=1)] = None,
    length: Annotated[float, typer.Option(help="Times the length of those learnt from.", min=0.01)] = 1.0,
    model_size: Annotated[float, typer.Option(help="Times the size of the model.", min=1e-6)] = 1.0,
    model: Annotated[Path | None, typer.Option(help="Also write the learnt model: .json")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Learn a generative model from traces and draw a new one, larger or smaller."""
    from dse.trace import load
    from dse.trace.synthesize import TraceModel
    from dse.trace.synthesize import learn as fit

    if len(learn) == 1 and learn[0].endswith(".json"):
        learnt = TraceModel.load(learn[0])
    else:
        learnt = fit([load(item) for item in learn], seed=seed)
    if model is not None:
        learnt.save(model)
    _saved(learnt.sample(ranks=ranks, length=length, model_size=model_size, seed=seed), out, as_json, seed=seed)


@trace_app.command()
def obfuscate(
    workload: Workload,
    out: Prefix,
    groups: Groups = None,
    sizes: Annotated[float, typer.Option(help="Bound of the relative change of sizes and times.", min=0, max=1)] = 0.05,
    structure: Annotated[float, typer.Option(help="Share of nodes whose place is changed.", min=0, max=1)] = 0.1,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Take names, sizes and structure out of a private trace; says how much still leaks."""
    from dse.trace import load
    from dse.trace.synthesize import obfuscate as hide

    hidden, leakage = hide(load(workload, groups=groups), sizes=sizes, structure=structure, seed=seed)
    if as_json:
        _saved(hidden, out, True, leakage=leakage.to_dict())
        return
    _saved(hidden, out, False)
    typer.echo(str(leakage))
