"""``dse measure``: measure the device at hand, look at the result, fit its constants."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dse.measure.run import Progress

measure_app = typer.Typer(invoke_without_command=True)

Folder = Annotated[Path, typer.Argument(help="What dse measure --out wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@measure_app.callback()
def measure(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables; an interrupted run goes on there.")] = None,
    size: Annotated[str, typer.Option(help="tiny, small, full; auto: full on a GPU, small on a CPU.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda (the first visible GPU).")] = "auto",
    kinds: Annotated[
        str, typer.Option(help="Of gemm, attention, elementwise, copy, launch, layer, step; all by default.")
    ] = "",
    dtypes: Annotated[str, typer.Option(help="Of bf16, fp16, tf32, fp32, fp8; the device's by default.")] = "",
    budget: Annotated[float | None, typer.Option(help="Seconds after which no further point is begun.")] = None,
    seed: Annotated[int, typer.Option(help="Of the values and the order of the points.", min=0, max=2**31)] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure this machine's device with PyTorch: GEMMs, attention, memory, a layer, a training step.

    Then: dse measure show DIR prints the rates, dse measure fit DIR writes an accelerator file of them.
    """
    if context.invoked_subcommand:
        return
    if out is None:
        raise SpecError([Fault("out", "", "is required: dse measure --out DIR, or dse measure show DIR")])
    from dse.cli import echo_json
    from dse.measure.cases import KINDS
    from dse.measure.run import measure as run

    chosen, types = _names(kinds) or KINDS, _names(dtypes)
    with _bar() as progress:
        done = run(
            out, size=size, device=device, kinds=chosen, dtypes=types, budget=budget, seed=seed, progress=progress
        )
    if as_json:
        echo_json({**vars(done), "out": str(out)})
        return
    told = f"{done.measured} points measured, {done.before} already there, {done.failed} failed"
    more = f"; {done.left} left: run the same command again to go on" if done.left else ""
    typer.echo(f"{told}{more}\n{out}: see dse measure show {out}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@contextmanager
def _bar() -> Iterator[Progress]:
    """A bar on the error stream with the point at work and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)


@measure_app.command()
def show(folder: Folder, as_json: AsJson = False) -> None:
    """Print what was measured: rates by kernel and their shares of the peaks."""
    from dse.cli import echo_json
    from dse.measure.show import summary, text

    found = summary(folder)
    echo_json(found) if as_json else typer.echo(text(found))


@measure_app.command()
def fit(folder: Folder, as_json: AsJson = False) -> None:
    """Fit the device's efficiency constants and write accelerator.yaml and cluster.yaml into the folder."""
    from dse.cli import echo_json
    from dse.measure.calibrate import fit as run

    found = run(folder)
    if as_json:
        echo_json(found)
        return
    typer.echo(_fitted(found))


def _fitted(found: dict[str, Any]) -> str:
    from dse.units import engineering

    lines = [f"{found['device']}, based on {found['base'] or 'its own peaks'}"]
    for name, value in found["efficiency"].items():
        shown = engineering(value, "s") if name == "launch" else str(value).lower()
        points = f"   {found['points'][name]} points" if name in found["points"] else ""
        lines.append(f"  {name:<19}{shown:>10}{points}")
    for dtype, error in found["errors"].items():
        lines.append(f"error of {dtype} products: median {error['median']:.1%}, P90 {error['p90']:.1%}")
    lines += [f"note: {note}" for note in found["notes"]]
    return "\n".join([*lines, *(f"wrote {file}" for file in found["files"])])
