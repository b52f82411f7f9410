"""``dse modex``: measure what a decision needs; compare ways to choose what to measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

PROBLEM = (
    "A YAML file, or a ready problem with options: scream:machine=Summit,target=120; dycore:device=A100,share=0.8; "
    "xr-layers:pes=4096,bandwidth=256; training:model=Llama-13B,gpus=64; matmul:largest=512."
)


def attach(main: typer.Typer) -> None:
    """Add the command to the command line."""
    main.command("modex")(modex)


def modex(
    problem: Annotated[str, typer.Argument(help=PROBLEM)],
    budget: Annotated[float | None, typer.Option(help="Cost of measuring that may be spent.", min=0.0)] = None,
    measurements: Annotated[int | None, typer.Option(help="Measurements that may be made.", min=0)] = None,
    strategy: Annotated[str, typer.Option(help="regret variance variance-per-cost improvement random")] = "regret",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    stop: Annotated[float, typer.Option(help="Stable: another decision is less probable than this.")] = 0.05,
    reserve: Annotated[int, typer.Option(help="Every so many-th measurement is drawn at random; 0: none.")] = 4,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.9,
    file: Annotated[Path | None, typer.Option(help="Log: written after every step, gone on with if it exists.")] = None,
    resume: Annotated[Path | None, typer.Option(help="The same, of a log that must exist.")] = None,
    tell: Annotated[list[str] | None, typer.Option(help='A value measured elsewhere: "candidate=value".')] = None,
    compare: Annotated[int, typer.Option(help="Seeds of a contest of all strategies on a table.", min=0)] = 0,
    figure: Annotated[Path | None, typer.Option(help="Draw the loop: .html .svg .png .pdf")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict, measure what the decision hangs on most for its cost, correct, until the decision is stable."""
    from dse.explore.modex import modex as run
    from dse.view.files import check_figure, write_figure

    check_figure(figure)
    if resume is not None:
        if not resume.is_file():
            raise SpecError([Fault("resume", str(resume)[-80:], "is no file")])
        if file is not None:
            raise SpecError([Fault("file", str(file)[-80:], "is not for use with --resume")])
    if compare:
        _contest(problem, compare, measurements, as_json=as_json)
        return
    loop = run(
        problem, budget=budget, measurements=measurements, strategy=strategy, seed=seed, stop=stop, reserve=reserve,
        level=level, file=resume or file, tell=_told(tell or []),
    )  # fmt: skip
    if figure is not None:
        from dse.view.modex import loop_figure

        write_figure(loop_figure(loop), figure)
    typer.echo(json.dumps(finite(loop.to_dict()), indent=2) if as_json else str(loop))


def _told(entries: list[str]) -> dict[str, float]:
    found = {}
    for entry in entries:
        name, equals, value = entry.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise SpecError([Fault("tell", repr(entry)[:60], 'must be "candidate=value", the value a number')])
    return found


def _contest(problem: str, seeds: int, most: int | None, *, as_json: bool) -> None:
    from dse.explore.modex.acquire import NAMES
    from dse.explore.modex.compare import contest, summary
    from dse.explore.modex.ready import find

    posed = find(problem)
    found = summary(posed, contest(posed, NAMES, seeds, most=most), seeds)
    typer.echo(json.dumps(finite(found), indent=2) if as_json else _shown(posed.name, found))


def _shown(name: str, found: Any) -> str:
    heads = {"strategy": "strategy", "settled": "measurements", "settled_90": "in 9 of 10", "stopped": "to the stop",
             "right": "right then", "covered": "coverage"}  # fmt: skip
    table = found[list(heads)].rename(columns=heads)
    return f"{name}\nmeasurements until the decision is right and stays so\n{table.to_string(index=False)}"
