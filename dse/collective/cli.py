"""``dse collective``: synthesize, bound, verify, export, show and compare collectives on a topology."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

app = typer.Typer(help="Collectives on real topologies: bounds, synthesis, known algorithms.", no_args_is_help=True)

NETWORK = (
    'A shape ("torus:8x8,bandwidth=50GiB/s,latency=0.5us,fail=5%"; see dse collective shapes), or a file of links: '
    "text (first line: NPUs and links; then source, destination, GiB/s and us of each), CSV (src,dst,bandwidth,latency "
    "with units), JSON, GraphML, NCCL XML."
)
Network = Annotated[str, typer.Option("--topology", help=NETWORK)]
Kind = Annotated[
    str, typer.Option("--collective", help="all_reduce all_gather reduce_scatter all_to_all broadcast reduce")
]
Size = Annotated[
    str, typer.Option("--bytes", help="Result of an all-gather, each NPU's input otherwise: 1GiB, 64KiB, ...")
]
Pieces = Annotated[str, typer.Option("--chunks", help="Pieces each NPU's shard is cut into: auto, or a number.")]
Seeds = Annotated[int, typer.Option(help="Tries of what is random.")]
Group = Annotated[str | None, typer.Option("--members", help="NPUs that take part: 0-7,16 (the others pass on).")]
Root = Annotated[int | None, typer.Option(help="Of a broadcast or reduce; by default the first member.")]
Merge = Annotated[bool, typer.Option(help="Let what waits for a link leave as one message and pay one latency.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Saved = Annotated[Path, typer.Argument(help="A schedule that `dse collective synthesize --out` wrote.")]


def attach(main: typer.Typer) -> None:
    """Add the commands to the command line."""
    main.add_typer(app, name="collective")


@app.command()
def synthesize(
    topology: Network,
    collective: Kind = "all_reduce",
    nbytes: Size = "1GiB",
    chunks: Pieces = "auto",
    seeds: Seeds = 4,
    members: Group = None,
    root: Root = None,
    merge: Merge = False,
    budget: Annotated[float | None, typer.Option(help="Seconds to go on improving for.", min=0.0)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Keep the schedule in this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find a schedule near the bound: time, bound, their ratio, and whether the verifier accepts it."""
    from dse.collective import synthesize as find

    _writable(out)
    with _improving() as progress:
        found = find(
            topology, collective, nbytes, chunks=_pieces(chunks), seeds=seeds, members=_group(members), root=root,
            merge=merge, budget=budget, progress=progress,
        )  # fmt: skip
    if out is not None:
        from dse.collective.keep import save

        save(found.schedule, out)
    _tell(found.to_dict() if as_json else found, as_json=as_json)


@app.command()
def bound(
    topology: Network, collective: Kind = "all_reduce", nbytes: Size = "1GiB", members: Group = None,
    root: Root = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """What no schedule can beat, and the cut that proves it."""
    from dse.collective.bounds import bound as find
    from dse.collective.synthesis import checked

    task = checked(topology, collective, nbytes, members=_group(members), root=root)
    found = find(task.topology, collective, task.nbytes, members=task.members, root=task.root)
    _tell(found.to_dict() if as_json else found.text(), as_json=as_json)


@app.command()
def verify(
    file: Saved, execute: Annotated[bool, typer.Option(help="Also run it on real arrays.")] = False,
    processes: Annotated[int, typer.Option(help="Processes to run it in.", min=1, max=64)] = 1, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Replay a schedule: causality, links, and that every NPU ends with the right data. Exit code 1 if it is wrong."""
    from dse.collective.keep import load
    from dse.collective.verifier import verify as check

    schedule = load(file)
    report = check(schedule)
    answer = report.to_dict()
    if execute and report.valid:
        from dse.collective.processes import check_on_data

        answer["data"] = check_on_data(schedule, processes=processes)
    shown = str(report) + (f"\n{answer['data']}" if "data" in answer else "")
    _tell(answer if as_json else shown, as_json=as_json)
    if not report.valid or not answer.get("data", {"equal": True})["equal"]:
        raise typer.Exit(1)


@app.command()
def export(
    file: Saved,
    out: Annotated[Path, typer.Argument(help="What to write; a Chakra trace: a PREFIX of PREFIX.0.et, ...")],
    form: Annotated[str, typer.Option("--format", help="msccl, mscclpp, chakra, csv or json")] = "msccl",
) -> None:
    """Write a schedule for a runtime: MSCCL XML, MSCCL++ JSON, Chakra traces; or as a table."""
    from dse.collective.formats import FORMATS
    from dse.collective.keep import load

    if form not in FORMATS:
        raise SpecError([Fault("format", repr(form[:40]), f"must be one of {', '.join(FORMATS)}")])
    _writable(out)
    FORMATS[form](load(file), out)
    typer.echo(f"written: {out}")


@app.command()
def show(
    file: Saved,
    figure: Annotated[
        str | None, typer.Option(help="Draw: network, heat, utilization, gantt or animation; needs --figure-out.")
    ] = None,
    figure_out: Annotated[Path | None, typer.Option(help="Where to: .html, .png, .svg or .pdf")] = None,
    as_json: AsJson = False,
) -> None:
    """A schedule's statistics: use of the links, the busiest of them, and what the finish waits for."""
    from dse.collective.keep import load
    from dse.collective.stats import statistics

    schedule = load(file)
    if figure is not None or figure_out is not None:
        _draw(schedule, figure, figure_out)
    found = statistics(schedule)
    _tell(found.to_dict() if as_json else found, as_json=as_json)


def _draw(schedule: Any, figure: str | None, out: Path | None) -> None:
    from dse.view import collective as view
    from dse.view.files import FIGURES, write_figure

    if figure not in view.FIGURES:
        raise SpecError([Fault("figure", repr((figure or "")[:40]), f"must be one of {', '.join(view.FIGURES)}")])
    if out is None or out.suffix.lower() not in FIGURES:
        rule = f"must be a file that ends in {', '.join(FIGURES)}"
        raise SpecError([Fault("figure-out", str(out or "")[-80:], rule)])
    _writable(out)
    write_figure(view.FIGURES[figure](schedule), out)


@app.command()
def compare(
    topology: Network, collective: Kind = "all_reduce", nbytes: Size = "1GiB", chunks: Pieces = "auto",
    seeds: Seeds = 4, members: Group = None, root: Root = None, merge: Merge = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Synthesized against every known algorithm that this network and group can run."""
    from dse.collective.synthesis import compared

    rows = compared(
        topology, collective, nbytes, chunks=_pieces(chunks), seeds=seeds, members=_group(members), root=root,
        merge=merge,
    )  # fmt: skip
    if as_json:
        _tell(rows, as_json=True)
        return
    typer.echo(f"{'algorithm':<34}{'time us':>14}{'/ bound':>10}{'transfers':>12}{'made in s':>11}")
    for row in rows:
        line = f"{row['algorithm'][:33]:<34}{row['time_us']:>14,.4g}{row['ratio']:>10.3f}"
        typer.echo(f"{line}{row['transfers']:>12,}{row['synthesis_s']:>11.3g}")


@app.command()
def shapes(as_json: AsJson = False) -> None:
    """Networks that can be named in one line, and what each takes."""
    from dse.collective.text import AFTER, listing

    rows = listing()
    if as_json:
        _tell(rows, as_json=True)
        return
    for row in rows:
        typer.echo(f"{row['shape']:<18}{row['does']}\n{'':<18}{row['takes']}")
    typer.echo(f"after those of the shape: {', '.join(AFTER)}")


def _tell(answer: Any, *, as_json: bool) -> None:
    typer.echo(json.dumps(finite(answer), indent=2) if as_json else str(answer))


def _pieces(text: str) -> Any:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise SpecError([Fault("chunks", repr(text[:40]), "must be auto, or a whole number of at least 1")]) from None


def _group(text: str | None) -> list[int] | None:
    """NPUs of ``"0-7,16"``."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(first + last) > 14:
            raise SpecError([Fault("members", repr(part[:40]), "must be numbers and ranges such as 0-7,16")])
        if dash and not 0 <= int(last) - int(first) <= 1_000_000:
            rule = "must run from a number to a higher one, over at most a million NPUs"
            raise SpecError([Fault("members", repr(part[:40]), rule)])
        found.extend(range(int(first), int(last or first) + 1))
    return found


def _writable(path: Path | None) -> None:
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise SpecError([Fault("out", str(path)[-80:], "must be a file in a folder that exists")])


@contextmanager
def _improving() -> Iterator[Any]:
    """The best so far and its gap, on the error stream where that is a terminal."""
    import sys

    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.status import Status

    with Status("synthesizing", console=Console(stderr=True)) as status:
        yield lambda s: status.update(
            f"{s.seconds:.1f} s: {s.time * 1e6:,.4g} us, {(s.ratio - 1) * 100:.1f} % above the bound"
        )
