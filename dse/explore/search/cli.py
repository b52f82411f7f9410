"""``dse search`` on the command line."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from dse.errors import Fault, SpecError

_SPAN = re.compile(r"^\s*(lin:)?\s*([^\s.:][^:]*?)\.\.([^\s:]+)(?::(\d+))?(?:\s+(\S.*?))?\s*$")
# The same with a unit at both ends: 40 GB..160 GB:7
_END = r"([\d.eE+-]+\s*[^\W\d][^:]*?)"
_EACH = re.compile(rf"^\s*(lin:)?\s*{_END}\s*\.\.\s*{_END}(?:\s*:(\d+))?\s*()$")


def attach(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("search")(search)


def search(
    model: Annotated[str, typer.Option("--model", help="Catalogue id, YAML file, or CSV of layers.")],
    cluster: Annotated[str, typer.Option("--cluster", help="What the hardware starts from: id or YAML file.")],
    global_batch: Annotated[int, typer.Option("--global-batch", help="Samples per step.", min=1)],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help='Hardware: "cluster.devices=256,512", "cluster.memory.capacity=80..320:5 GB" (5 steps), '
            '"cluster.network.inter.bandwidth=25..400 GB/s" (continuous; evenly in the logarithm, or lin:25..400).'
        ),
    ] = None,
    devices: Annotated[int | None, typer.Option("--devices", help="Number of accelerators.", min=1)] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help='step_time, "min power", tco, "step_time@90%", "P(step_time <= 20 s)"; several: a front.'),
    ] = None,
    budget: Annotated[list[str] | None, typer.Option(help='"capital <= 100 MUSD", "peak_power <= 10 MW" ...')] = None,
    couple: Annotated[
        list[str] | None,
        typer.Option(help='"cluster.network.inter.price ~ cluster.network.inter.bandwidth at 40 USD/(GB/s)".'),
    ] = None,
    base: Annotated[str, typer.Option(help='Fixed strategy fields, e.g. "precision=fp8".')] = "",
    option: Annotated[list[str] | None, typer.Option(help='Strategy values to try: "tp=1,2,4".')] = None,
    method: Annotated[str, typer.Option(help="auto, exhaustive, bound, nsga2, nsga3, cmaes, tpe, gp, qmc.")] = "auto",
    trials: Annotated[int | None, typer.Option(help="Designs a sampler may choose, or boxes to bound.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the sampler.", min=0)] = 0,
    tolerance: Annotated[float, typer.Option(help="Of branch and bound: gap that counts as closed.", min=0)] = 0.01,
    batch: Annotated[int | None, typer.Option(help="Designs a sampler plans at a time.", min=1)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to keep the search in; interrupted, it goes on.")] = None,
    storage: Annotated[
        str | None, typer.Option(help="Share it: sqlite:///..., postgresql://..., grpc://host:port.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; by default threads of this one.", min=1)] = None,
    scheduler: Annotated[str | None, typer.Option(help="Dask scheduler, tcp://host:port.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither use nor keep known answers.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count the designs and estimate the time; no more.")
    ] = False,
    figure: Annotated[Path | None, typer.Option(help="Draw the front: .html .png .svg .pdf")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search hardware and parallelization together; the best strategies on each hardware are found exactly."""
    from dse.cli import echo_json, parse_axis
    from dse.explore.search.problem import problem
    from dse.explore.search.progress import shown
    from dse.explore.search.run import run
    from dse.view.files import check_figure

    check_figure(figure)
    options = {item.path.removeprefix("strategy."): list(item.values) for item in map(parse_axis, option or [])}
    given = problem(
        model,
        cluster,
        [parse_variable(text) for text in vary or []],
        devices=devices,
        global_batch=global_batch,
        objective=objective or "step_time",
        budget=budget,
        couplings=[parse_coupling(text) for text in couple or []],
        base=base or None,
        options=options,
    )
    if dry_run:
        report = rehearsal(given, method, trials, workers)
        echo_json(report) if as_json else typer.echo("\n".join(f"{k:<22} {v}" for k, v in report.items()))
        return
    with shown(terminal=True) as progress, going_on(out):
        found = run(
            given, method=method, trials=trials, seed=seed, batch=batch, tolerance=tolerance, folder=out,
            storage=storage, workers=workers, scheduler=scheduler, cache=not no_cache, progress=progress,
        )  # fmt: skip
    finish(found, out, figure, as_json)


def resume_search(folder: Path, trials: int | None, workers: int, scheduler: str | None, as_json: bool) -> None:
    """Take up the search in a folder; ``dse resume`` calls it."""
    from dse.explore.search.progress import shown
    from dse.explore.search.run import resume

    with shown(terminal=True) as progress, going_on(folder):
        found = resume(folder, trials=trials, workers=workers, scheduler=scheduler, progress=progress)
    finish(found, folder, None, as_json)


@contextmanager
def going_on(folder: Path | None) -> Iterator[None]:
    """Say how to go on with a search that is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        kept = (
            f"what is done is kept: 'dse resume {folder}' goes on"
            if folder
            else "without --out nothing is kept but the cache"
        )
        typer.echo(f"dse: interrupted; {kept}", err=True)
        raise typer.Exit(130) from None


def finish(found: Any, out: Path | None, figure: Path | None, as_json: bool) -> None:
    """Save, draw and print a search; exit code 1 where nothing is feasible."""
    from dse.cli import echo_json
    from dse.view.files import write_figure

    if out is not None:
        found.save(out)
    if figure is not None and len(found.front_rows):
        write_figure(found.figure(), figure)
    if as_json:
        echo_json({**found.summary(), "provenance": found.provenance})
    else:
        typer.echo(repr(found))
        if out is not None:
            typer.echo(
                f"\nkept in {out}: designs.parquet, front.csv, summary.json, best-cluster.yaml, best-strategy.yaml"
            )
    if not len(found.front_rows):
        raise typer.Exit(1)


def parse_variable(text: str) -> Any:
    """``path=LOW..HIGH[:STEPS] unit`` as a span (``lin:`` in front: not in the logarithm), else an axis.

    ``path=LOW unit..HIGH unit[:STEPS]`` is the same.

    Raises:
        SpecError: the text has another form.
    """
    from dse.cli import parse_axis
    from dse.explore.search.variables import span

    path, equals, values = (part.strip() for part in text.partition("="))
    if ".." not in values:
        return parse_axis(text)
    match = _EACH.match(values) or _SPAN.match(values)
    if not equals or not path or not match:
        raise SpecError(
            [Fault("vary", repr(text[:80]), 'must be "path=LOW..HIGH unit" or "path=LOW..HIGH:STEPS unit"')]
        )
    linear, low, high, steps, unit = match.groups()
    ends = [f"{end} {unit}" if unit else end for end in (low, high)]
    return span(path, *ends, log=not linear, steps=int(steps) if steps else None)


def parse_coupling(text: str) -> Any:
    """``TARGET ~ SOURCE at RATE``, or ``TARGET ~ SOURCE`` for one in proportion to the other.

    Raises:
        SpecError: the text has another form.
    """
    from dse.explore.search.variables import coupling

    target, tilde, rest = (part.strip() for part in text.partition("~"))
    source, _, rate = (part.strip() for part in rest.partition(" at "))
    if not tilde or not target or not source:
        raise SpecError([Fault("couple", repr(text[:80]), 'must be "TARGET ~ SOURCE at RATE" or "TARGET ~ SOURCE"')])
    return coupling(target, source, rate or "proportional")


def rehearsal(given: Any, method: str, trials: int | None, workers: int | None) -> dict[str, Any]:
    """What a search would do: designs, method, and the time that a few hardware designs suggest."""
    from dse.explore.search.inner import grid, solve
    from dse.explore.search.run import BOXES, MOST_HARDWARE, TRIALS, check_settings, chosen_method, designs_per_hardware

    method, per_design = chosen_method(given, method), designs_per_hardware(given)
    trials = trials or (BOXES if method == "bound" else TRIALS)
    check_settings(given, method, trials, 0, None)
    size = given.hardware_size
    count = size if method == "exhaustive" else min(trials, size or MOST_HARDWARE)
    if given.continuous:
        sample = [{v.name: (v.shown[0] if v.values else v.low) for v in given.variables}]
    else:
        sample = [point for point, _ in zip(grid(given), range(64), strict=False)]
    start = time.perf_counter()
    solve(given, sample)
    each = (time.perf_counter() - start) / len(sample)
    return {
        "method": method,
        "hardware designs": f"{count:,}" + ("" if given.hardware_size is None else f" of {given.hardware_size:,}"),
        "strategies on each": f"{per_design:,}",
        "designs": f"{count * per_design:,}",
        "estimated time": f"{count * each / max(workers or 1, 1):.1f} s of pricing (beside the sampler's own)",
        "estimated disk": f"{count * 600 / 1e6:.1f} MB",
    }
