"""Tables of domains in studies: makers by name, their settings, checks and figures on what they give, faults."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from dse.domains import tables
from dse.domains.tables import MAKERS, Table
from dse.errors import SpecError
from dse.spec.base import Spec
from dse.spec.fields import Count
from dse.study.simulations import SimulationTable
from dse.study.study import run_study

STUDY: dict[str, Any] = {
    "kind": "study", "id": "buffers", "title": "Buffers", "question": "How long?",
    "tables": [{"id": "times", "title": "Times", "maker": "times", "settings": {"most": 4, "file": "names.csv"}}],
    "figures": [
        {"id": "map", "kind": "grid", "run": "times", "x": "buffer", "y": "policy", "at": {"bandwidth": "2 GB/s"}},
        {"id": "lines", "kind": "curves", "run": "times", "along": "buffer", "by": "bandwidth, policy"},
    ],
    "simulation_checks": [
        {"check": "known", "simulation": "times", "unit": "ms", "published": 8, "tolerance": 0, "source": "the formula",
         "at": {"buffer": "2 MiB", "bandwidth": "4 GB/s", "policy": "none"}},
        {"check": "gain", "simulation": "times", "at": {"policy": "all"}, "reference": {"policy": "none"},
         "measure": "min", "at_least": 2, "at_most": 2},
    ],
}  # fmt: skip


class Times(Spec):
    """Times of buffers and bandwidths: their product."""

    most: Count = 3
    file: str = ""

    def table(self, say: Any) -> Table:
        rows = [
            {"buffer": b * 2.0**20, "bandwidth": w * 1e9, "policy": policy, "time": 1e-3 * b * w / (1 + (policy == "all"))}
            for b in range(1, self.most + 1) for w in (1, 2, 4) for policy in ("none", "all")
        ]  # fmt: skip
        say(f"read {Path(self.file).name}" if Path(self.file).is_file() else "no file")
        units = {"buffer": "B", "bandwidth": "B/s", "time": "s"}
        return Table(pd.DataFrame(rows), ("buffer", "bandwidth", "policy"), units, {"policy": {"none": "No caching"}})


@pytest.fixture(autouse=True)
def maker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAKERS, "times", "times_of_tests:Times")
    monkeypatch.setitem(sys.modules, "times_of_tests", sys.modules[__name__])


def written(folder: Path, **changes: Any) -> Path:
    (folder / "names.csv").write_text("a\n")
    (folder / "study.yaml").write_text(yaml.safe_dump({**STUDY, **changes}))
    return folder


def test_a_table_is_made_checked_drawn_and_kept(tmp_path: Path) -> None:
    said: list[str] = []
    found = run_study(written(tmp_path), tmp_path / "out", echo=said.append, images=False)
    assert found.verdicts["verdict"].tolist() == ["pass", "pass"]
    assert found.verdicts["ours"].tolist() == [8.0, 2.0]
    assert "read names.csv" in said and "table times: 24 rows" in said, "files beside the study are found"
    kept = pd.read_csv(tmp_path / "out" / "times.csv")
    assert list(kept) == ["buffer [B]", "bandwidth [B/s]", "policy", "time [s]"] and len(kept) == 24
    heat = found.figures["map"].data[0]
    assert list(heat.x) == ["1 MiB", "2 MiB", "3 MiB", "4 MiB"] and list(heat.y) == ["No caching", "all"]
    assert np.asarray(heat.z) == pytest.approx(np.array([[2, 4, 6, 8], [1, 2, 3, 4]]))
    assert heat.zmid is None, "nothing is below zero"
    assert len(found.figures["lines"].data) == 6
    assert "| times | Times | times | 24 |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tables": [{"id": "times", "maker": "tims"}]}, "did you mean 'times'"),
        ({"tables": [{"id": "times", "maker": "times", "settings": {"most": 0}}]}, "tables.0 (times): settings.most"),
        ({"tables": [{"id": "times", "maker": "times", "settings": {"least": 1}}]}, "settings.least"),
        ({"tables": [STUDY["tables"][0], STUDY["tables"][0]]}, "given twice"),
        ({"figures": [{"id": "m", "kind": "grid", "run": "times", "x": "buffer"}]}, "is required for a grid"),
        ({"figures": [{"id": "m", "kind": "grid", "run": "times", "x": "buffer", "y": "policy"}]}, "several rows"),
        ({"figures": [{"id": "m", "kind": "grid", "run": "times", "x": "buffer", "y": "colour"}]}, "figures.0.y"),
        ({"figures": [{"id": "m", "kind": "bars", "run": "tmes"}]}, "did you mean 'times'"),
        ({"simulation_checks": [{"check": "c", "simulation": "times", "at": {"time": 1}, "at_least": 1}]}, ": at"),
    ],
)
def test_faults_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        run_study(written(tmp_path, **changes))
    assert words in str(caught.value)


def test_every_maker_is_there() -> None:
    """Each name stands for a specification that makes a table and says what it is; what it needs it asks for."""
    for name in MAKERS:
        module, kind = MAKERS[name].split(":")
        made = getattr(import_module(module), kind)
        assert issubclass(made, Spec) and made.__doc__ and callable(made.table), name
        with pytest.raises(SpecError, match="colour") as caught:
            tables.maker(name, {"colour": 1})
        assert {fault.rule for fault in caught.value.faults if fault.path != "colour"} <= {"is required"}


def test_a_table_of_a_block_without_titles() -> None:
    """Numbers are read as numbers and names as names, whatever the columns are called."""
    from dse.study.simulated import chosen

    rows = pd.DataFrame({"size": ["small", "large"], "price": [1.0, 2.0], "value of it": [3.0, 4.0]})
    table = SimulationTable(None, rows, ("size", "price"), {"price": "USD"}, {})
    assert chosen(table, "value of it", {"size": "large", "price": "2 USD"})["value"].tolist() == [4.0]
