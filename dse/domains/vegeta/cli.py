"""``dse vegeta``: time and check products on sparse matrix engines, assemble listings, sweep the design space."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dse.errors import Fault, SpecError
from dse.plain import finite

if TYPE_CHECKING:
    import pandas as pd

    from dse.domains.vegeta.engine import Engine

app = typer.Typer(help="Sparse matrix engines: time, check, assemble, explore.", no_args_is_help=True)

EngineName = Annotated[str, typer.Option("--engine", help="Id (see dse vegeta engines) or YAML file.")]
Rows = Annotated[int | None, typer.Option("--m", help="Rows of the weights.", min=1)]
Columns = Annotated[int | None, typer.Option("--n", help="Columns of the other operand.", min=1)]
Depth = Annotated[int | None, typer.Option("--k", help="Columns of the weights.", min=1)]
Blocking = Annotated[int, typer.Option(help="Tiles of C that share a tile of B.", min=1)]
RowOrder = Annotated[
    str,
    typer.Option(
        help="Rows of a row-wise cover: matrix (sorted once), panel (anew in each), none. The last two leave partial "
        "sums of C, whose adding up is not timed."
    ),
]
Seed = Annotated[int, typer.Option(help="Of everything random.", min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
HEADLINE = "vegeta-s-16-2-of"


def attach(main: typer.Typer) -> None:
    """Add the commands to the command line."""
    main.add_typer(app, name="vegeta")


@app.command()
def engines(as_json: AsJson = False) -> None:
    """Engines of the catalogue: geometry, latency, and what is stated or estimated of area and power."""
    rows = [_engine_row(engine) for engine in _shipped()]
    if as_json:
        _tell(rows)
        return
    head = f"{'engine':<24}{'array':>9}{'MACs':>6}{'latency':>9}{'patterns':>14}  {'area and power, of D-1-1'}"
    typer.echo(head)
    for row in rows:
        patterns = ",".join(map(str, row["patterns"])) + f":{row['block']}" + ("+R" if row["row_wise"] else "")
        stated = ", ".join(f"{name} {row[name]:g}" for name in ("area", "power") if row[name] is not None)
        line = (
            f"{row['engine']:<24}{row['rows']:>5} x {row['cols']:<2}{row['macs']:>6}{row['latency']:>9}{patterns:>14}"
        )
        typer.echo(f"{line}  {'stated: ' + stated + '; ' if stated else ''}estimated: {row['estimate']:.3f}")


def _shipped() -> list[Engine]:
    from dse.domains.vegeta.engine import engines as ids
    from dse.domains.vegeta.engine import load_engine

    return [load_engine(name) for name in ids()]


def _engine_row(engine: Engine) -> dict[str, Any]:
    from dse.domains.vegeta import cost

    names = ("alpha", "beta", "rows", "cols", "macs", "latency", "patterns", "block", "row_wise", "output_forwarding")
    stated = {"area": engine.costs.area, "power": engine.costs.power, "relative_to": engine.costs.relative_to}
    geometry = {name: getattr(engine, name) for name in names}
    return {"engine": engine.id, "name": engine.name, **geometry, **stated, "estimate": cost.of_engine(engine)}


@app.command()
def run(
    product: Annotated[
        str | None,
        typer.Argument(help="A shipped layer (see dse vegeta layers), or weights as .npy or .csv, which need --n."),
    ] = None,
    m: Rows = None,
    n: Columns = None,
    k: Depth = None,
    engine: EngineName = HEADLINE,
    pattern: Annotated[
        str,
        typer.Option(
            help="N:M such as 2:4; row-wise; or auto: the smallest N:M that keeps all weights or, where that is dense, "
            "row-wise in the --order given if that is quicker (orders are not compared)."
        ),
    ] = "auto",
    sparsity: Annotated[
        float | None, typer.Option(help="Zeros of random weights; a matrix is pruned to it by magnitude.", min=0, max=1)
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Prune a matrix to the N:M given, by magnitude.")] = False,
    order: RowOrder = "matrix",
    accumulators: Blocking = 3,
    check: Annotated[bool, typer.Option("--check", help="Also run it on the machine, and compare with NumPy.")] = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Time a product on an engine: cycles, speed-up over dense, waits, energy. Exit code 1 if --check fails.

    What the array waits for:

    - fill, drain: before the first columns of B, and after the last

    - weights: the next tile of A is still being loaded into the array

    - dependence: the sum of an earlier product is not there yet

    - stages: the engine lets one instruction at a time feed and drain

    - bandwidth: a load is behind other loads and stores

    - latency: a load could not begin earlier

    - run-ahead: the reorder buffer is full

    - load buffer: too many lines are on their way

    - registers: no free register, or an old value is still needed

    - memory: a load needs what an earlier store writes

    - issue: the core has not come to the instruction
    """
    from dse.domains.vegeta import running
    from dse.domains.vegeta.engine import load_engine

    taken = load_engine(engine)
    a, (m, n, k) = _operands(product, m, n, k)
    name = "" if product is None or a is not None else product
    if a is None:
        a = running.weights(m, k, taken, pattern, sparsity=sparsity, seed=seed)
    else:
        a = running.prune_by_magnitude(a, sparsity)
        a = running.pruned_to(a, pattern, taken) if prune else a
    found = running.run(m, n, k, taken, a=a, pattern=pattern, order=order, accumulators=accumulators, name=name)
    found = running.pruned_more(found, sparsity)
    checked = None
    if check:
        real = running.weights(m, k, taken, found.pattern, sparsity=0.0, seed=seed) if a is None else a
        checked = running.check(real, n, taken, found.pattern, order=order, seed=seed + 1)
    if as_json:
        _tell(running.to_dict(found, checked))
    else:
        typer.echo(str(found) + ("" if checked is None else f"\n{checked}"))
    if checked is not None and not checked.equal:
        raise typer.Exit(1)


def _operands(product: str | None, m: int | None, n: int | None, k: int | None) -> tuple[Any, tuple[int, int, int]]:
    """Weights, if a file holds them, and m, n, k."""
    from dse.domains.vegeta.running import read_matrix
    from dse.domains.vegeta.workloads import layers

    if product is not None and product.lower().endswith((".npy", ".csv")):
        a = read_matrix(Path(product))
        if n is None or (m or a.shape[0], k or a.shape[1]) != a.shape:
            raise SpecError([Fault("n", str(n or ""), f"is needed; m and k are those of the weights, {a.shape}")])
        return a, (a.shape[0], n, a.shape[1])
    if product is not None:
        known = {layer.name: layer for layer in layers()}
        if product not in known:
            rule = f"must be a .npy or .csv file, or one of {', '.join(known)}"
            raise SpecError([Fault("product", repr(product[:60]), rule)])
        layer = known[product]
        return None, (m or layer.m, n or layer.n, k or layer.k)
    if m is None or n is None or k is None:
        raise SpecError([Fault("m, n, k", "", "give all three, or a layer, or a file of weights")])
    return None, (m, n, k)


@app.command()
def layers(as_json: AsJson = False) -> None:
    """Layers that ship: shapes, and how far they are to be trusted."""
    from dse.domains.vegeta.workloads import layers as shipped

    names = ("name", "m", "n", "k", "kind", "confidence")
    rows = [{name: getattr(layer, name) for name in names} for layer in shipped()]
    if as_json:
        _tell(rows)
        return
    typer.echo(f"{'layer':<16}{'m':>7}{'n':>7}{'k':>7}  kind, confidence in the shape")
    for row in rows:
        typer.echo(
            f"{row['name']:<16}{row['m']:>7}{row['n']:>7}{row['k']:>7}  {row['kind']}, {row['confidence']} confidence"
        )


@app.command()
def asm(
    file: Annotated[Path | None, typer.Argument(help="A listing; without one, that of a product --m --n --k.")] = None,
    m: Rows = None,
    n: Columns = None,
    k: Depth = None,
    engine: EngineName = HEADLINE,
    pattern: Annotated[
        str, typer.Option(help="Of the product's weights: N:M (dense by default), row-wise, or auto, as in run.")
    ] = "",
    sparsity: Annotated[float | None, typer.Option(help="Zeros of random weights.", min=0, max=1)] = None,
    order: RowOrder = "matrix",
    accumulators: Blocking = 3,
    seed: Seed = 0,
    timing: Annotated[bool, typer.Option("--timing", help="When each product of tiles starts, and its wait.")] = False,
    memory: Annotated[Path | None, typer.Option(help="Execute the listing on the bytes of this file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the memory after execution to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Assemble a listing, or list a product's kernel; time it, or execute it on bytes."""
    from dse.domains.vegeta import listing
    from dse.domains.vegeta.engine import load_engine
    from dse.study.export import write_atomically

    taken = load_engine(engine)
    if file is not None:
        if (m, n, k, pattern, sparsity) != (None, None, None, "", None):
            raise SpecError([Fault("m, n, k, pattern, sparsity", "", "belong to a product; a listing has none")])
        program, places = listing.read(file)
    else:
        _, (m, n, k) = _operands(None, m, n, k)
        places: list[str] = []
        pattern = pattern or ("auto" if sparsity is not None else f"{taken.block}:{taken.block}")
        program = listing.of_product(
            m, n, k, taken, pattern, sparsity=sparsity, seed=seed, order=order, accumulators=accumulators
        )
    found = listing.describe(program, taken, timing=timing, places=places)
    if memory is not None or out is not None:
        held, found["changed"] = listing.execute(program, taken, memory)
    if out is not None:
        write_atomically(out, lambda temporary: temporary.write_bytes(held.tobytes()) and None)
    _tell(found) if as_json else typer.echo(listing.text(found))


@app.command()
def sweep(
    engine: Annotated[str, typer.Option(help="Engine that the designs start from.")] = "vegeta-s-16-2",
    layer: Annotated[str, typer.Option("--layers", help="Names, separated by commas; all by default.")] = "",
    density: Annotated[str, typer.Option(help="N/M of the weights.")] = "1,0.5,0.25",
    block: Annotated[str, typer.Option(help="M of N:M.")] = "4",
    tile_k: Annotated[str, typer.Option(help="Multiply-adds of a column of the array.")] = "32",
    accumulators: Annotated[str, typer.Option(help="Tiles of C that share a tile of B.")] = "3",
    alpha: Annotated[str, typer.Option(help="Broadcast factor.")] = "1,2,4,8,16",
    beta: Annotated[str, typer.Option(help="Reduction factor.")] = "1,2,4",
    forwarding: Annotated[str, typer.Option(help="Of outputs.")] = "false,true",
    clock: Annotated[str, typer.Option(help="Of the engine, multiples of its own.")] = "1",
    accuracy: Annotated[
        str, typer.Option(help="Of your network by density: 1=0.761,0.5=0.758,0.25=0.74; it joins the objectives.")
    ] = "",
    objectives: Annotated[
        str, typer.Option(help="Of the Pareto front: time energy power area accuracy.")
    ] = "time,area",
    out: Annotated[Path | None, typer.Option("--out", help="Write all designs to .csv or .parquet.")] = None,
    as_json: AsJson = False,
) -> None:
    """Sweep engine designs on all layers; print the Pareto front of each density (of all, if accuracy is given)."""
    from dse.domains.vegeta import sweep as designs
    from dse.study.export import write_table

    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise SpecError([Fault("out", str(out)[-80:], "must end in .csv or .parquet")])
    axes = {
        "density": density, "block": block, "tile_k": tile_k, "accumulators": accumulators, "alpha": alpha,
        "beta": beta, "forwarding": forwarding, "clock": clock,
    }  # fmt: skip
    wanted = _list("objectives", objectives)
    if not wanted or set(wanted) - set(designs.OBJECTIVES) or len(set(wanted)) < len(wanted):
        rule = f"must be of {', '.join(designs.OBJECTIVES)}, each once"
        raise SpecError([Fault("objectives", repr(objectives[:60]), rule)])
    numbers = {name: [float(x) if name in ("density", "clock") else x for x in _list(name, text)]
               for name, text in axes.items()}  # fmt: skip
    space = designs.Space.parse({"engine": engine, "layers": _list("layers", layer), **numbers})
    known = _accuracy(accuracy)
    wanted += ["accuracy"] if known and "accuracy" not in wanted else []
    data = designs.sweep(space, accuracy=known)
    table = designs.overall(data)
    if table.empty:
        reasons = sorted({str(reason) for reason in data["reason"].values.ravel()} - {""})
        raise SpecError([Fault("sweep", "", f"has no feasible design: {'; '.join(reasons)}"[:400])])
    if out is not None:
        write_table(out, lambda: table)
    best = _fronts(table, wanted)
    if as_json:
        _tell({"designs": len(table), "objectives": wanted, "front": best})
        return
    typer.echo(f"{len(table):,} designs; best by {', '.join(wanted)}:\n")
    typer.echo(best.rename(columns=_titles(best)).to_string(index=False, float_format=lambda x: f"{x:.4g}"))
    typer.echo(
        f"\nTime and energy are sums over the layers ({data.sizes['layer']}). over_dense: against dense weights on the "
        "same design.\nspeedup: against the slowest design at the largest density. area: our estimate, D-1-1 is 1."
    )


def _fronts(table: pd.DataFrame, objectives: Sequence[str]) -> pd.DataFrame:
    import pandas as pd

    from dse.domains.vegeta.sweep import front

    if "accuracy" in objectives:
        return front(table, objectives)
    return pd.concat([front(part, objectives) for _, part in table.groupby("density", sort=False)], ignore_index=True)


def _titles(table: pd.DataFrame) -> dict[str, str]:
    """Heads of the columns of a sweep with their units."""
    units = {"time": "s", "energy": "J", "power": "W", "area": "of D-1-1", "clock": "of base"}
    return {name: f"{name} [{units[name]}]" if name in units else name for name in table}


def _list(name: str, text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if text and not parts:
        raise SpecError([Fault(name, repr(text[:40]), "must be values separated by commas")])
    if name in ("density", "clock"):
        for part in parts:
            _number(name, part)
            if name == "clock" and not 1e-3 <= float(part) <= 1e3:
                raise SpecError([Fault(name, part, "must be 0.001 to 1,000 times the clock of the engine")])
    return parts


def _accuracy(text: str) -> dict[float, float] | None:
    if not text:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    found = {_number("accuracy", density): _number("accuracy", value) for density, _, value in pairs}
    if len(found) < len(pairs):
        raise SpecError([Fault("accuracy", text[:60], "must have each density once")])
    return found


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SpecError([Fault(name, repr(text[:40]), "must be a finite number")])
    return value


def _tell(answer: Any) -> None:
    typer.echo(json.dumps(finite(answer), indent=2))
