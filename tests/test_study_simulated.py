"""Simulations in studies: what a block gives, what is held against it, its faults, and the ASTRA-sim 2.0 study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from dse.errors import SpecError
from dse.simulate import System, simulate
from dse.spec import load_cluster
from dse.study.pooled import through_switches
from dse.study.simulated import SimulationCheck, chosen, simulation_rows
from dse.study.simulated_plots import draw_simulated
from dse.study.simulations import Simulated, SimulationTable, run_simulations
from dse.study.study import load_study, run_study
from dse.trace.generate import generate
from dse.trace.schema import Collective, Kind

GIB, GB = 2.0**30, 1e9
DIMENSIONS = [
    {"name": "inner", "topology": "switch", "size": 4, "bandwidth": "100 GB/s", "latency": "1 us"},
    {"name": "outer", "topology": "switch", "size": 2, "bandwidth": "50 GB/s", "latency": "1 us"},
]
NODE = {"base": "dgx-h100", "id": "node", "expansion": [{"name": "far", "kind": "ddr", "capacity": "8 TB",
        "bandwidth": "100 GB/s", "shared_by": 8}]}  # fmt: skip
SMALL: dict[str, Any] = {
    "kind": "study",
    "id": "small",
    "title": "A small study",
    "question": "Does it run?",
    "simulations": [
        {
            "id": "lone",
            "systems": [
                {"id": "eight", "title": "Eight devices", "cluster": "eight.yaml"},
                {"id": "dealt", "cluster": "eight.yaml", "split": {"budget": "120 GB/s", "parts": 6}},
                {
                    "id": "astra",
                    "network": {"topology": "Ring", "npus_count": 8, "bandwidth": 50, "latency": 500},
                    "settings": {"endpoint-delay": 10, "all-reduce-implementation": ["ring"], "local-mem-bw": 1600},
                },
            ],
            "workloads": [{"id": "sum", "collective": "all_reduce", "sizes": ["1 MiB", "1 GiB"]}],
            "variants": [{"id": "plain"}, {"id": "themis", "title": "Themis", "schedule": "themis"}],
        },
        {
            "id": "steps",
            "systems": [{"id": "eight", "cluster": "eight.yaml", "x": 1, "series": "a"}],
            "workloads": [{"id": "gpt", "model": "gpt-1.7b", "strategy": {"global_batch": 16, "tp": 4}}],
        },
    ],
    "simulation_values": "values.csv",
    "simulation_checks": [
        {"check": "Themis", "simulation": "lone", "at": {"system": "eight", "variant": "themis", "size": "1 GiB"},
         "reference": {"variant": "plain"}, "at_least": 1},
        {"check": "told by others", "simulation": "lone", "at": {"system": "eight", "size": "1 GiB", "variant": "plain"},
         "published": 99, "unit": "ms", "label": "second-hand", "source": "others"},
    ],
    "figures": [
        {"id": "bars", "kind": "bars", "run": "lone", "along": "size", "by": "system, variant",
         "at": {"system": ["eight", "astra"]}, "title": "Bars"},
        {"id": "curves", "kind": "curves", "run": "lone", "along": "share_1", "by": "variant", "at": {"system": "dealt"},
         "title": "Curves"},
        {"id": "parts", "kind": "parts", "run": "steps", "title": "Parts"},
    ],
}  # fmt: skip
VALUES = """check,simulation,quantity,at,reference,published,unit,tolerance,label,source
one ring,lone,time,system=astra;size=1 GiB;variant=plain,,36.78,ms,0.01,re-derived,2 (n - 1)/n S / B in GiB
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The small study as files."""
    folder = tmp_path / "small"
    folder.mkdir()
    cluster = {"kind": "cluster", "id": "eight", "name": "Eight", "node": NODE, "devices": 8, "sources": [],
               "network": {"pipeline_chunks": 64, "dimensions": DIMENSIONS}}  # fmt: skip
    (folder / "eight.yaml").write_text(yaml.safe_dump(cluster))
    (folder / "study.yaml").write_text(yaml.safe_dump(SMALL))
    (folder / "values.csv").write_text(VALUES)
    return folder


def changed(folder: Path, **changes: Any) -> Path:
    """The small study with other blocks, checks or figures."""
    (folder / "study.yaml").write_text(yaml.safe_dump({**SMALL, "figures": [], "simulation_checks": [], **changes}))
    return folder


def block(**changes: Any) -> dict[str, Any]:
    return {**SMALL["simulations"][0], **changes}


def test_a_small_study_runs(small: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = run_study(small, tmp_path / "out", told.append, images=False)
    rows = found.simulations["lone"].rows
    assert rows["system"].tolist() == ["eight"] * 4 + ["dealt"] * 20 + ["astra"] * 4, "in the order of the file"
    verdicts = found.verdicts.set_index("check")["verdict"].to_dict()
    assert verdicts == {"one ring": "pass", "Themis": "pass", "told by others": "short"}
    assert not found.ok
    assert any("simulation lone: dealt, 20 runs" in line for line in told)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| second-hand | 1 | 0 | 1 |" in text
    assert "| lone |  | 3 systems | 28 |" in text
    assert set(found.figures) == {"bars", "curves", "parts"}
    frame = pd.read_parquet(tmp_path / "out" / "lone.parquet")
    assert {"time [s]", "size [B]", "exposed [s]", "use_1"} <= set(frame)


def test_the_same_study_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_study(small, tmp_path / name, images=False)
    for file in ("lone.csv", "steps.parquet", "verdicts.csv", "report.md", "bars.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_times_are_those_of_the_closed_forms(small: Path) -> None:
    """One dimension at a time is the limit: an all-reduce in two takes what the slower one needs, at least."""
    rows = run_simulations(load_study(small)[0].simulations[0], lambda v: _beside(v, small), print).rows
    dealt = rows[(rows.system == "dealt") & (rows["size"] == GIB) & (rows.variant == "plain")]
    for row in dealt.itertuples():
        inner = 2 * (3 / 4) * GIB / (row.share_1 * 120 * GB)
        outer = 2 * (1 / 2) * GIB / 4 / (row.share_2 * 120 * GB)
        assert max(inner, outer) <= row.time <= 1.02 * max(inner, outer) + 20e-6
        assert row.time * row.use_1 == pytest.approx(inner, rel=1e-6)
    assert np.allclose(dealt.share_1 + dealt.share_2, 1.0)
    assert sorted(dealt.share_1) == pytest.approx([part / 6 for part in range(1, 6)])
    assert dealt.algbw.to_numpy() == pytest.approx(GIB / dealt.time.to_numpy())


def _beside(value: Any, folder: Path) -> Any:
    return str(folder / value) if isinstance(value, str) and value.endswith(".yaml") else value


def test_parts_of_a_step_add_up(small: Path) -> None:
    rows = run_simulations(load_study(small)[0].simulations[1], lambda v: _beside(v, small), print).rows
    assert (rows.compute + rows.exposed + rows.idle).to_numpy() == pytest.approx(rows.time.to_numpy())
    assert (rows.exposed == rows.exposed_comm + rows.exposed_memory).all()
    assert (rows.compute > 0).all() and (rows.comm > 0).all()


# -- checks --------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]]) -> SimulationTable:
    systems = [{"id": name, "cluster": "c"} for name in ("a", "b")]
    work = [{"id": "w", "collective": "all_reduce", "sizes": ["1 MB", "2 MB"]}]
    declared = Simulated.parse({"id": "t", "systems": systems, "workloads": work})
    full = [{"series": "", "workload": "w", "variant": "plain", "x": float("nan"), **row} for row in rows]
    return SimulationTable(declared, pd.DataFrame(full))


ROWS = table([{"system": s, "size": size, "time": t} for s, size, t in
              [("a", 1e6, 4.0), ("a", 2e6, 9.0), ("b", 1e6, 2.0), ("b", 2e6, 3.0)]])  # fmt: skip


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"at": {"system": "a", "size": "2 MB"}}, 9.0),
        ({"at": {"system": "a", "size": "2 MB"}, "unit": "ms"}, 9e3),
        ({"at": {"system": "b", "size": "1 MB"}, "reference": {"system": "a"}}, 2.0),
        ({"at": {"system": "b"}, "reference": {"system": "a"}, "measure": "max"}, 3.0),
        ({"at": {"system": "b"}, "reference": {"system": "a"}, "measure": "min"}, 2.0),
        (
            {"at": {"system": "b"}, "reference": {"system": "a"}, "measure": "at_max", "column": "size", "unit": "MB"},
            2.0,
        ),
    ],
)
def test_what_a_check_measures(given: dict[str, Any], ours: float) -> None:
    check = SimulationCheck.parse({"check": "c", "simulation": "t", "at_least": 0, **given})
    assert simulation_rows([check], {"t": ROWS}, ("pass", "short"))[0]["ours"] == pytest.approx(ours)


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ({"at_least": 4.0}, "pass"), ({"at_least": 4.1}, "short"), ({"at_most": 3.9}, "short"),
        ({"published": 5.0, "tolerance": 0.2, "source": "s"}, "pass"),
        ({"published": 5.0, "tolerance": 0.19, "source": "s"}, "short"),
        ({"published": 4.001, "tolerance": 0, "absolute": 0.001, "source": "s"}, "pass"),
        ({"published": 4.0, "at_most": 3.0, "source": "s"}, "short"),
    ],
)  # fmt: skip
def test_verdicts(bounds: dict[str, Any], verdict: str) -> None:
    at = {"system": "a", "size": "1 MB"}
    check = SimulationCheck.parse({"check": "c", "simulation": "t", "at": at, **bounds})
    assert simulation_rows([check], {"t": ROWS}, ("pass", "short"))[0]["verdict"] == verdict


def test_a_missing_value_falls_short() -> None:
    broken = table([{"system": "a", "size": 1e6, "time": float("nan")}])
    check = SimulationCheck.parse({"check": "c", "simulation": "t", "at_least": 0})
    assert simulation_rows([check], {"t": broken}, ("pass", "short"))[0]["verdict"] == "short"


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ({"at": {"system": "a"}}, "leaves 2 rows"),
        ({"at": {"system": "c"}}, "must be one of a, b"),
        ({"at": {"colour": "c"}}, "colour"),
        ({"at": {"size": "2 parsecs"}}, "size"),
        ({"quantity": "tme", "at": {"system": "a", "size": "1 MB"}}, "did you mean 'time'"),
        ({"at": {"system": "a", "size": "1 MB"}, "unit": "GB"}, "unit"),
        ({"at": {"system": "a", "size": "1 MB"}, "reference": {"variant": "x"}}, "must be one of plain"),
    ],
)
def test_faults_of_checks_are_named(check: dict[str, Any], words: str) -> None:
    given = SimulationCheck.parse({"check": "c", "simulation": "t", "at_least": 0, **check})
    with pytest.raises(SpecError, match="simulation_checks") as caught:
        simulation_rows([given], {"t": ROWS}, ("pass", "short"))
    assert words in str(caught.value)


# -- faults of the file --------------------------------------------------------------------------------------

EIGHT = {"id": "e", "cluster": "eight.yaml"}
SUM = {"id": "s", "collective": "all_reduce", "sizes": ["1 MB"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"simulations": [block(systems=[{"id": "e"}])]}, "needs either a cluster"),
        ({"simulations": [block(systems=[EIGHT, EIGHT])]}, "twice among the systems"),
        ({"simulations": [block(workloads=[{"id": "s", "collective": "all_reduce"}])]}, "needs sizes"),
        ({"simulations": [block(workloads=[{"id": "s", "model": "m", "collective": "c", "sizes": ["1 B"]}])]}, "one of"),
        ({"simulations": [block(workloads=[{**SUM, "collective": "all_sum"}])]}, "workloads.0 (s) on eight: kind"),
        ({"simulations": [block(systems=[{**EIGHT, "cluster": "nine.yaml"}])]}, "systems.0 (e)"),
        ({"simulations": [block(systems=[{**EIGHT, "split": {"budget": "1 GB/s", "parts": 1}}])]}, "split.parts"),
        ({"simulations": [block(systems=[EIGHT], workloads=[{"id": "g", "model": "gpt-1.7b", "strategy": {
            "global_batch": 16, "tp": 3}}])]}, "workloads.0 (g) on e"),
        ({"figures": [{"id": "f", "kind": "bars", "run": "lnoe"}]}, "did you mean 'lone'"),
        ({"figures": [{"id": "f", "kind": "bars", "run": "lone", "along": "sizes"}]}, "figures.0.along"),
        ({"figures": [{"id": "f", "kind": "bars", "run": "lone"}]}, "several rows"),
        ({"figures": [{"id": "f", "kind": "curves", "run": "lone", "along": "system"}]}, "column of numbers"),
        ({"simulation_checks": [{"check": "c", "simulation": "lnoe", "at_least": 1}]}, "did you mean 'lone'"),
        ({"simulation_checks": [{"check": "c", "simulation": "lone"}]}, "needs published"),
        ({"simulation_checks": [{"check": "c", "simulation": "lone", "published": 1}]}, "needs its source"),
        ({"simulation_checks": [{"check": "c", "simulation": "lone", "at_least": 1, "measure": "at_min"}]}, "column"),
    ],
)  # fmt: skip
def test_faults_of_a_block_are_named(small: Path, changes: dict[str, Any], words: str) -> None:
    (small / "values.csv").write_text("check,simulation\n")
    with pytest.raises(SpecError) as caught:
        run_study(changed(small, **changes))
    assert words in str(caught.value)


# -- in-switch collectives -----------------------------------------------------------------------------------


def step(strategy: dict[str, Any]) -> Any:
    cluster = load_cluster({"id": "eight", "name": "Eight", "node": NODE, "devices": 8, "sources": [],
                            "network": {"pipeline_chunks": 64, "dimensions": DIMENSIONS}})  # fmt: skip
    return generate("gpt-1.7b", cluster, {"global_batch": 8, "stack": "ideal", **strategy}, detail="block"), cluster


OFFLOADED = {"zero_stage": 3, "offload_weights": "far", "offload_gradients": "far", "offload_optimizer": "far"}


def test_parameters_go_through_the_switches() -> None:
    traces, cluster = step(OFFLOADED)
    before, after = traces.classes[0], through_switches(traces, "far").classes[0]
    gathers = (before.kind == Kind.COLL) & (before.coll == Collective.ALL_GATHER)
    scatters = (before.kind == Kind.COLL) & (before.coll == Collective.REDUCE_SCATTER)
    assert gathers.any() and scatters.any()
    assert (after.kind[gathers] == Kind.MEM_LOAD).all() and (after.kind[scatters] == Kind.MEM_STORE).all()
    assert (after.bytes[gathers] == 8 * before.size[gathers]).all()
    assert (after.bytes[scatters] == before.size[scatters]).all()
    own = np.asarray([n.endswith((".load_weights", ".store_gradients")) for n in before.names])[before.name]
    assert own.any() and (before.bytes[own] > 0).all() and (after.bytes[own] == 0).all()
    same = ~(gathers | scatters | own)
    assert (after.kind[same] == before.kind[same]).all() and (after.bytes[same] == before.bytes[same]).all()
    done = simulate(through_switches(traces, "far"), System.of(cluster, 8))
    assert done.comm == pytest.approx(np.zeros(8), abs=1e-12), "nothing is left for the network"
    assert (done.memory > 0).all()


def test_switches_need_sharded_parameters_in_the_memory() -> None:
    for strategy in ({"zero_stage": 3}, {"offload_weights": "far"}):
        with pytest.raises(SpecError, match="ZeRO-3"):
            through_switches(step(strategy)[0], "far")


# -- the shipped study ---------------------------------------------------------------------------------------

FEW = {"recorded": None, "all-reduce": None, "memory": ("per-node", "pool-shards", "pool-copies", "switches-256-100",
                                                         "switches-256-500")}  # fmt: skip


def test_the_shipped_study_holds() -> None:
    """The blocks that take little time; the whole study is what ``dse reproduce astra-sim-2`` runs."""
    study, _, folder = load_study("astra-sim-2")
    found = {}
    for given in study.simulations:
        if given.id in FEW:
            kept = [s for s in given.systems if FEW[given.id] is None or s.id in FEW[given.id]]
            part = given.model_copy(update={"systems": tuple(kept)})
            found[given.id] = run_simulations(part, lambda v: _found(v, folder), print)
    checks = [c for c in study.simulation_checks if c.simulation in found and "links and pools" not in c.check]
    rows = simulation_rows(checks, found, ("pass", "short"))
    assert [row["check"] for row in rows if row["verdict"] != "pass"] == []
    assert sum(row["label"] == "recorded" for row in rows) >= 40
    assert {"second-hand", "re-derived", "trend"} <= {row["label"] for row in rows}
    for figure in study.figures:
        if figure.run == "all-reduce":
            assert draw_simulated(figure, found["all-reduce"]).data
    assert len(chosen(found["all-reduce"], "time", {"system": "conv-3d"})) == 12


def _found(value: Any, folder: Path) -> Any:
    return str(folder / value) if isinstance(value, str) and (folder / value).is_file() else value
