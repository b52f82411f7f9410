"""Problems that come with the workbench: layers on accelerators, an Earth-system model, its dycore on one device,
training runs, and products of matrices that are timed here.

Each pairs an analytic prior with measurements that the prior has not seen, except where its ``about`` says otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dse.errors import Fault, SpecError
from dse.explore.modex.decisions import cheapest, lowest
from dse.explore.modex.problem import Measured, Problem, Table
from dse.spec.catalogue import asset_root

if TYPE_CHECKING:
    import pandas as pd

LAYER = ["K", "C", "R", "S", "Y", "X"]
LAYOUT = ["tp", "pp", "micro_batch", "recompute", "seq_parallel"]


def find(problem: Problem | str | Path) -> Problem:
    """A problem as it is, from a YAML file, or a ready one by name: ``name:option=value,...``.

    Raises:
        SpecError: there is none, or an option is wrong.
    """
    if isinstance(problem, Problem):
        return problem
    text = str(problem)
    name, _, options = text.partition(":")
    if name in READY:
        return READY[name](**_options(READY[name], options))
    if text.endswith((".yaml", ".yml")):
        from dse.explore.modex.spec import load_problem

        return load_problem(text)
    rule = f"must be a YAML file, or one of {', '.join(READY)} (with options: scream:machine=Summit)"
    raise SpecError([Fault("problem", repr(text)[:60], rule)])


def _options(make: Callable[..., Problem], text: str) -> dict[str, Any]:
    """``key=value,...`` as the function's arguments, each of the type of its default."""
    known = inspect.signature(make).parameters
    found: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known or not equals:
            raise SpecError([Fault("problem", repr(part)[:60], f"must be option=value, of {', '.join(known)}")])
        try:
            found[key] = type(known[key].default)(value)
        except ValueError:
            rule = f"must be {'a number' if type(known[key].default) is float else 'a whole number'}"
            raise SpecError([Fault(key, repr(value)[:40], rule)]) from None
    return found


@lru_cache(maxsize=8)
def _read(path: str) -> pd.DataFrame:
    import pandas as pd

    file = asset_root("data") / path
    return pd.read_parquet(file) if path.endswith("parquet") else pd.read_csv(file)


def _one_of(name: str, value: Any, known: Any) -> None:
    if value not in known:
        raise SpecError([Fault(name, repr(value)[:60], f"must be one of {', '.join(map(str, known))}")])


def xr_layers(pes: int = 4096, bandwidth: int = 256, prior: str = "ideal", tolerance: float = 0.02) -> Problem:
    """Which dataflow suits each layer of XRBench's models on an accelerator: recorded layer latencies.

    Args:
        pes, bandwidth: of the accelerator, as recorded.
        prior: ``ideal``: multiply-adds over PEs; ``analysis``: the dataflow analysis of ``dse.domains.xr``.
        tolerance: mean regret over the layers up to which choices are the same.
    """
    table = _read("reference/xrbench/layer_costs_unique.parquet")
    machines = table[["num_pes", "noc_bw"]].drop_duplicates()
    _one_of("pes, bandwidth", (pes, bandwidth), sorted(zip(machines["num_pes"], machines["noc_bw"], strict=True)))
    _one_of("prior", prior, ("ideal", "analysis"))
    rows = table[(table["num_pes"] == pes) & (table["noc_bw"] == bandwidth)].reset_index(drop=True)
    layers = ["x".join(map(str, row)) for row in rows[LAYER].to_numpy()]
    names = [f"{layer} {flow}" for layer, flow in zip(layers, rows["dataflow"], strict=True)]
    features = {name: rows[name].tolist() for name in [*LAYER, "dataflow"]}
    predicted = _ideal(rows, pes) if prior == "ideal" else _analysed(rows, pes, bandwidth)
    return Problem(
        f"Dataflow of each layer, {pes} PEs, {bandwidth} elements a cycle", names, features, predicted,
        lowest(names, layers, tolerance=tolerance), Table(rows["latency_cycles"].tolist()), 1.0, "cycles",
        1.0 if prior == "ideal" else 0.05, 1.0 if prior == "ideal" else 0.05, 0.0,
        about=f"prior: {'multiply-adds over PEs' if prior == 'ideal' else 'dataflow analysis'}; "
        "measured: recorded runs of MAESTRO",
    )  # fmt: skip


def _ideal(rows: pd.DataFrame, pes: int) -> list[float]:
    out = np.maximum(rows["Y"] - rows["R"] + 1, 1) * np.maximum(rows["X"] - rows["S"] + 1, 1)
    return np.maximum(rows["K"] * rows["C"] * rows["R"] * rows["S"] * out / pes, 1.0).tolist()


def _analysed(rows: pd.DataFrame, pes: int, bandwidth: int) -> list[float]:
    from dse.domains.xr.analysis import layer_costs
    from dse.domains.xr.layer import layer

    found = np.empty(len(rows))
    for flow, at in rows.groupby("dataflow").indices.items():
        part = rows.iloc[at]
        some = layer(*(part[name].to_numpy() for name in LAYER))
        found[at] = layer_costs(some, str(flow).lower(), pes, bandwidth).latency
    return found.tolist()


def scream(machine: str = "Frontier", target: float = 0.0, timer: str = "model", prior: str = "others") -> Problem:
    """The fewest nodes on which SCREAM at 3.25 km simulates so many days a day, with any software variant.

    Measuring costs the node-hours of a simulated day, as the prior has them.

    Args:
        machine: Frontier, Summit or Perlmutter-GPU.
        target: simulated days per day; 0: halfway (geometric mean) between the slowest and the fastest run.
        timer: model, atm, dycore, dirk, caar or physics.
        prior: ``others``: the scaling model fitted to the other machines; ``ideal``: throughput grows with the nodes,
            each as fast as the others' on their fewest.
    """
    table = _read("reference/continuum/scream_v1_ne1024_runs.csv")
    _one_of("machine", machine, sorted(table["machine"].unique()))
    _one_of("timer", timer, ("model", "atm", "dycore", "dirk", "caar", "physics"))
    _one_of("prior", prior, ("ideal", "others"))
    runs, rate = table[table["machine"] == machine], f"{timer}_sdpd"
    by = runs.groupby(["nodes", "software_variant"], sort=True)
    nodes, variants = [n for n, _ in by.groups], [v for _, v in by.groups]
    names = [f"{n} nodes, {v}" for n, v in zip(nodes, variants, strict=True)]
    aim = target or float(np.sqrt(runs[rate].min() * runs[rate].max()))
    others = table[table["machine"] != machine]
    predicted = _per_node(others, nodes, rate) if prior == "ideal" else _from_others(others, machine, nodes, timer)
    return Problem(
        f"Fewest nodes of {machine} for {aim:.4g} simulated days per day ({timer})", names,
        {"nodes": nodes, "variant": variants}, predicted, cheapest(names, nodes, aim, at_least=True),
        Table([part[rate].tolist() for _, part in by]), (24 * np.array(nodes) / predicted).tolist(), "SDPD", 0.3,
        1.0 if prior == "ideal" else 0.3,
        about=f"prior: {'throughput in proportion to nodes' if prior == 'ideal' else 'fitted to the other machines'}",
    )  # fmt: skip


def _per_node(others: pd.DataFrame, nodes: list[int], rate: str) -> list[float]:
    """Simulated days per day if each node gave what one of the other machines gives where it has the fewest."""
    fewest = others[others["nodes"] == others.groupby("machine")["nodes"].transform("min")]
    each = float(np.exp(np.log(fewest[rate] / fewest["nodes"]).groupby(fewest["machine"]).mean().mean()))
    return [each * n for n in nodes]


def _from_others(others: pd.DataFrame, machine: str, nodes: list[int], timer: str) -> list[float]:
    """Simulated days per day from the other machines' runs and this one's device curve."""
    from dse.domains.continuum.scaling import fit_scaling
    from dse.domains.continuum.scaling_tables import normalised

    _one_of("timer (of prior=others)", timer, ("model",))
    found = fit_scaling("scream", normalised(others)["scream"]).forecast(machine, nodes).rate
    if not np.isfinite(found).all():
        raise SpecError([Fault("prior", "others", f"does not know enough of {machine}; use prior=ideal")])
    return found.tolist()


def dycore(device: str = "A100", share: float = 0.8) -> Problem:
    """The fewest elements on one device at which the dycore runs at a share of its rate when the device is full.

    Args:
        device: A100, V100, MI250X (one of its two halves) or CPU.
        share: of the rate with the most elements.
    """
    table = _read("reference/continuum/hommexx_theta_single_device_saturation.csv")
    _one_of("device", device, tuple(DEVICES))
    if not 0 < share < 1:
        raise SpecError([Fault("share", str(share), "must be between 0 and 1")])
    known = {name: _device(table, *at) for name, at in DEVICES.items()}
    runs = known[device]
    elements, rates = runs["elements"].to_numpy(float), runs["elem_steps_per_s_per_rank"].to_numpy(float)
    others = [part for name, part in known.items() if name != device]
    half = float(np.exp(np.mean([np.log(_half(part)) for part in others])))
    height = float(np.exp(np.mean([np.log(part["elem_steps_per_s_per_rank"].max()) for part in others])))
    names = [f"{n:.0f} elements" for n in elements]
    return Problem(
        f"Fewest elements for {share:.0%} of the dycore's rate on {device}", names, {"elements": elements.tolist()},
        (height * elements / (elements + half)).tolist(),
        cheapest(names, elements.tolist(), share, at_least=True, against=len(names) - 1), Table(rates.tolist()), 1.0,
        "element-steps/s", 0.4, 1.0, 0.0,
        about=f"prior: half the rate at {half:.0f} elements, as on the other devices (geometric mean)",
    )  # fmt: skip


DEVICES = {"A100": ("pm-gpu", "default"), "V100": ("weaver", "default"), "MI250X": ("frontier", "1rank"),
           "CPU": ("blake", "default")}  # fmt: skip


def _device(table: pd.DataFrame, machine: str, variant: str) -> pd.DataFrame:
    return table[(table["machine"] == machine) & (table["variant"] == variant)].sort_values("elements")


def _half(runs: pd.DataFrame) -> float:
    """Elements at which half the saturated rate is reached: time = fixed + elements / rate, by least squares."""
    elements, time = runs["elements"].to_numpy(float), runs["prim_main_loop_s"].to_numpy(float)
    fixed, each = np.linalg.lstsq(np.stack([1 / time, elements / time], 1), np.ones(len(time)), rcond=None)[0]
    return float(fixed / each)


def training(model: str = "Llama-13B", gpus: int = 64, sequence: int = 2048) -> Problem:
    """Which parallel layout trains a language model fastest: published sweeps of layouts.

    Args:
        model: start of the name in the table of measured runs.
        gpus, sequence: of the runs.
    """
    from dse.accuracy.corpus import measured
    from dse.accuracy.predict import predictions

    table = measured("training")
    some = table[
        table["model"].astype(str).str.startswith(model) & (table["n_gpus"] == gpus)
        & (table["seq_len"] == sequence) & (table["source_key"] == "layouts") & (table["iter_time_s"] > 0)
    ]  # fmt: skip
    sweep = some[some["global_batch"] == some["global_batch"].mode().iloc[0]] if len(some) else some
    if len(sweep) < 4:
        rule = "must name a model, GPUs and a sequence with at least 4 layouts that were measured"
        raise SpecError([Fault("model, gpus, sequence", f"{model}, {gpus}, {sequence}"[:60], rule)])
    found, _ = predictions(sweep)
    sweep = sweep.set_index("id").loc[found.index]
    sweep = sweep.assign(predicted=found["time"], **{k: sweep[k].astype(str) for k in ("recompute", "seq_parallel")})
    by = sweep.groupby(LAYOUT, sort=True, dropna=False)
    names = [" ".join(f"{k}={_number(v)}" for k, v in zip(LAYOUT, key, strict=True)) for key, _ in by]
    features = {name: [key[i] for key, _ in by] for i, name in enumerate(LAYOUT)}
    return Problem(
        f"Fastest layout of {model} on {gpus} GPUs, sequences of {sequence}", names, features,
        [float(np.exp(np.log(part["predicted"]).mean())) for _, part in by], lowest(names, tolerance=0.02),
        Table([part["iter_time_s"].astype(float).tolist() for _, part in by]), 1.0, "s", 0.1, 0.1, 0.005,
        about="prior: the calibrated cost model, whose constants were fitted to a part of these runs among others",
    )  # fmt: skip


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def matmul(largest: int = 512, share: float = 0.8) -> Problem:
    """The smallest square product of matrices that reaches a share of the largest one's rate: timed on this machine.

    Args:
        largest: rows of the largest matrices, 64 to 4096.
        share: of its rate.
    """
    if not (64 <= largest <= 4096 and 0 < share < 1):
        raise SpecError([Fault("largest, share", f"{largest}, {share}", "must be 64 to 4096, and between 0 and 1")])
    sizes = np.unique(np.geomspace(16, largest, 12).round().astype(int))
    names = [f"{n} x {n}" for n in sizes]
    predicted = (1e10 * sizes / (sizes + 32.0)).tolist()  # loops over blocks of some tens of rows
    rates = cheapest(names, sizes.tolist(), share, at_least=True, against=len(sizes) - 1, tolerance=0.05)
    return Problem(
        f"Smallest product with {share:.0%} of the rate of {largest} x {largest}", names, {"size": sizes.tolist()},
        predicted, rates, Measured(lambda row: _rate(int(sizes[row]))), (sizes.astype(float) ** 3).tolist(), "FLOP/s",
        0.4, 3.0, about="prior: half the rate at 32 rows; measured: NumPy on this machine",
    )  # fmt: skip


def _rate(size: int, floor: float = 2e7) -> float:
    """FLOP/s of a product, the best of three after one to warm up; small ones are repeated."""
    import time

    left = np.random.default_rng(0).random((size, size))
    repeats = max(1, int(floor / (2 * size**3)))
    left @ left
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(repeats):
            left @ left
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 * repeats / best


READY: dict[str, Callable[..., Problem]] = {
    "xr-layers": xr_layers, "scream": scream, "dycore": dycore, "training": training, "matmul": matmul,
}  # fmt: skip
