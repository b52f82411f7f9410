"""``dse vegeta``: what people type, what programs read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from dse.domains.vegeta import cli, prune
from dse.domains.vegeta.engine import engines, load_engine
from dse.domains.vegeta.workloads import layers
from dse.errors import SpecError

LISTING = """
TILE_ZERO_T  tmm7
TILE_LOAD_T  tmm0, [0]      ; B
TILE_LOAD_T  tmm4, [0x400]  ; A
TILE_GEMM    tmm7, tmm4, tmm0
TILE_GEMM    tmm7, tmm4, tmm0
TILE_STORE_T [0x800], tmm7
"""


def call(*arguments: Any, code: int = 0) -> str:
    app = typer.Typer()
    cli.attach(app)
    done = CliRunner().invoke(app, ["vegeta", *map(str, arguments)])
    if isinstance(done.exception, SpecError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.stdout


def answer(*arguments: Any) -> Any:
    return json.loads(call(*arguments, "--json"))


def test_engines_and_layers_are_listed() -> None:
    """Every shipped engine and layer is there, for people and for programs."""
    rows = answer("engines")
    assert [row["engine"] for row in rows] == engines()
    assert all(row["rows"] * row["cols"] * row["alpha"] * row["beta"] == row["macs"] for row in rows)
    assert all(id in call("engines") for id in engines())
    assert [row["name"] for row in answer("layers")] == [layer.name for layer in layers()]
    assert all(layer.name in call("layers") for layer in layers())


def test_sparser_weights_run_faster_and_are_right() -> None:
    """2:4 and 1:4 of a product gain on dense, cost less energy, and equal NumPy."""
    product = ("run", "--m", 96, "--n", 48, "--k", 256)
    found = {n: answer(*product, "--pattern", f"{n}:4", "--check") for n in (4, 2, 1)}
    assert found[4]["speedup"] == 1.0 < found[2]["speedup"] < found[1]["speedup"] <= 4.0
    joules = [sum(found[n]["energy"].values()) for n in (4, 2, 1)]
    assert joules == sorted(joules, reverse=True)
    for n, row in found.items():
        assert row["check"]["equal"] and row["check"]["error"] <= row["check"]["bound"]
        assert row["sparsity"] == 1.0 - n / 4
        waits = sum(row["stalls"].values())
        assert row["cycles"] == pytest.approx(waits + 16 * row["matrix_instructions"])
        assert row["matrix_instructions"] == 6 * 3 * 2 * n


def test_a_matrix_of_ones_own(tmp_path: Path) -> None:
    """Files of weights: auto finds N:M or rows of different N, a pattern they break is refused, --prune makes it
    fit."""
    a = prune.random(64, 128, 0.0, seed=5)
    np.save(tmp_path / "dense.npy", a)
    half = a * prune.n_of_m(a, 2)
    np.savetxt(tmp_path / "half.csv", half, delimiter=",")
    np.save(tmp_path / "uneven.npy", np.concatenate([a[:16], a[16:] * prune.n_of_m(a[16:], 1)]))
    assert answer("run", tmp_path / "half.csv", "--n", 32)["pattern"] == "2:4"
    uneven = answer("run", tmp_path / "uneven.npy", "--n", 32, "--check")
    assert uneven["pattern"] == "row-wise" and uneven["check"]["equal"] and uneven["speedup"] > 1.5
    assert answer("run", tmp_path / "dense.npy", "--n", 32)["pattern"] == "4:4"
    pruned = answer("run", tmp_path / "dense.npy", "--n", 32, "--pattern", "1:4", "--prune")
    assert pruned["pattern"] == "1:4" and pruned["sparsity"] == 0.75
    sparse = answer("run", tmp_path / "dense.npy", "--n", 32, "--sparsity", 0.9)
    assert sparse["sparsity"] == pytest.approx(0.9, abs=1e-4)
    with pytest.raises(SpecError, match="fullest block needs N = 2"):
        call("run", tmp_path / "half.csv", "--n", 32, "--pattern", "1:4")
    with pytest.raises(SpecError, match="is needed"):
        call("run", tmp_path / "half.csv")


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    """No pickle is opened; text, three axes, NaN and missing files end with the field and the rule."""
    files = {
        "pickle.npy": lambda p: np.save(p, np.array([{}]), allow_pickle=True),
        "cube.npy": lambda p: np.save(p, np.zeros((2, 2, 2))),
        "nan.npy": lambda p: np.save(p, np.full((2, 2), np.nan)),
        "words.csv": lambda p: p.write_text("one,two\n"),
        "ragged.csv": lambda p: p.write_text("1,2\n3\n"),
        "cut.npy": lambda p: p.write_bytes(b"\x93NUMPY"),
        "missing.npy": lambda p: None,
    }
    for name, write in files.items():
        write(tmp_path / name)
        with pytest.raises(SpecError) as error:
            call("run", tmp_path / name, "--n", 4)
        assert error.value.faults[0].path == "matrix", name


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("run", "nonsense"), "product"),
        (("run", "--m", 4), "m, n, k"),
        (("run", "--m", 90_000, "--n", 90_000, "--k", 90_000), "m, n, k"),
        (("run", "--m", 99_000, "--n", 16, "--k", 99_000, "--sparsity", 0.5), "matrix"),
        (("run", "--m", 4, "--n", 4, "--k", 4, "--pattern", "3:4"), "pattern"),
        (("run", "--m", 4, "--n", 4, "--k", 4, "--pattern", "2:8"), "pattern"),
        (("run", "--m", 4, "--n", 4, "--k", 4, "--pattern", "half"), "pattern"),
        (("run", "--m", 4, "--n", 4, "--k", 4, "--sparsity", 0.5, "--order", "best"), "order"),
        (("run", "--m", 4, "--n", 4, "--k", 4, "--engine", "none"), "engine"),
        (("asm", "--m", 9_000, "--n", 9_000, "--k", 9_000), "m, n, k"),
        (("asm", "missing.s"), "file"),
        (("sweep", "--alpha", "one"), "alpha.0"),
        (("sweep", "--alpha", "2,2"), "alpha"),
        (("sweep", "--beta", ""), "beta"),
        (("sweep", "--density", "half"), "density"),
        (("sweep", "--layers", "none"), "layers"),
        (("sweep", "--alpha", "3"), "sweep"),
        (("sweep", "--out", "table.txt"), "out"),
        (("sweep", "--accuracy", "1:0.7"), "accuracy"),
        (("sweep", "--accuracy", "1=nan"), "accuracy"),
        (("sweep", "--layers", "bert-2", "--alpha", "16", "--beta", "2", "--objectives", "beauty"), "objectives"),
    ],
)
def test_bad_input_names_the_field(arguments: tuple[Any, ...], field: str) -> None:
    """Every option out of range is refused by name, before anything long is computed."""
    with pytest.raises(SpecError) as error:
        call(*arguments)
    assert error.value.faults[0].path == field


def test_a_listing_is_timed_and_executed(tmp_path: Path) -> None:
    """A listing prints as one that assembles to the same; its timing is the engine's; execution adds A B twice."""
    source, data, out = tmp_path / "two.s", tmp_path / "in.bin", tmp_path / "out.bin"
    source.write_text(LISTING)
    shown = call("asm", source, "--timing")
    again = tmp_path / "again.s"
    again.write_text(shown)
    assert call("asm", again, "--timing") == shown
    engine = load_engine(cli.HEADLINE)
    first, second = (row for row in answer("asm", source, "--timing")["starts"] if row)
    assert second["start"] - first["start"] == engine.dependence == 17
    assert first["end"] - first["start"] == engine.ff + engine.fs + engine.dr

    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, shape).astype(np.float32) for shape in ((16, 32), (32, 16)))
    words = [(x.view(np.uint32) >> 16).astype("<u2").tobytes() for x in (b, a)]
    data.write_bytes(b"".join(words))
    found = answer("asm", source, "--memory", data, "--out", out)
    c = np.frombuffer(out.read_bytes(), "<f4", 256, 0x800).reshape(16, 16)
    assert np.array_equal(c, 2.0 * a @ b)
    assert 0 < found["changed"] <= 1024
    source.write_text("TILE_LOAD_T tmm0, [0]\nTILE_GEMM tmm9\n")
    with pytest.raises(SpecError, match="line 2"):
        call("asm", source)


def test_the_kernel_of_a_product_is_listed() -> None:
    """Six instructions multiply 48 x 16 by 128 deep at 2:4; each tile of C is stored once."""
    lines = answer("asm", "--m", 48, "--n", 16, "--k", 128, "--pattern", "2:4")["listing"]
    assert sum(line.startswith("TILE_SPMM_U") for line in lines) == 6
    assert sum(line.startswith("TILE_STORE") for line in lines) == 3


def test_sweep_writes_a_table_and_tells_the_front(tmp_path: Path) -> None:
    """All designs go to the file; the front is theirs, and nothing in it is beaten by another design."""
    out = tmp_path / "designs.parquet"
    space = ("sweep", "--layers", "bert-2", "--alpha", "1,16", "--beta", "2", "--density", "1,0.5")
    found = answer(*space, "--out", out)
    table = pd.read_parquet(out)
    assert found["designs"] == len(table) == 8
    for row in found["front"]:
        same = table[table.density == row["density"]]
        better = (same.time <= row["time"]) & (same.area <= row["area"])
        better &= (same.time < row["time"]) | (same.area < row["area"])
        assert not better.any()
    assert "best by time, area" in call(*space)
    both = answer(*space, "--accuracy", "1=0.76,0.5=0.75")
    assert {row["density"] for row in both["front"]} == {1.0, 0.5}
    assert all(row["accuracy"] == {1.0: 0.76, 0.5: 0.75}[row["density"]] for row in both["front"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sweep", "--accuracy", "0.3=0.5"), "accuracy = 0.3=0.5: must be of a density that is swept"),
        (("sweep", "--accuracy", "1=2"), "fraction from 0 to 1"),
        (("sweep", "--accuracy", "1=0.7,1=0.8"), "each density once"),
        (("sweep", "--objectives", "time,time"), "each once"),
        (("sweep", "--layers", ","), "layers = ',': must be values"),
        (("sweep", "--clock", "0"), "clock = 0: must be 0.001 to 1,000 times"),
        (("run", "--m", 4, "--n", 4, "--k", 4, "--order", "x"), "order = 'x': must be one of"),
        (("asm", "--m", 4, "--n", 4, "--k", 4, "--pattern", "2:4", "--order", "x"), "order = 'x'"),
    ],
)
def test_a_refusal_says_what_may_be_given(arguments: tuple[Any, ...], words: str) -> None:
    """The message has the field, the value and what is allowed, before anything is timed."""
    with pytest.raises(SpecError) as error:
        call(*arguments)
    assert words in str(error.value)


def test_listings_of_random_weights(tmp_path: Path) -> None:
    """Row-wise kernels are listed and assemble again to the same time; auto takes no longer than either kernel."""
    product = ("asm", "--m", 64, "--n", 32, "--k", 128, "--sparsity", 0.9)
    found = {name: answer(*product, "--pattern", name) for name in ("row-wise", "auto")}
    rows = found["row-wise"]
    assert any(line.startswith("TILE_SPMM_R") for line in rows["listing"])
    dense = answer(*product[:-2], "--pattern", "4:4")
    assert found["auto"]["cycles"] == min(rows["cycles"], dense["cycles"])
    (tmp_path / "again.s").write_text("\n".join(rows["listing"]))
    assert answer("asm", tmp_path / "again.s")["cycles"] == rows["cycles"]


def test_listings_that_are_empty_or_wrong(tmp_path: Path) -> None:
    """Nothing takes no cycles; a register that there is not is named with its file and line."""
    file = tmp_path / "short.s"
    file.write_text("; nothing\n")
    assert ": 0 engine cycles" in call("asm", file)
    file.write_text("; comment\n\nTILE_ZERO_T tmm1\nTILE_ZERO_T tmm9\n")
    with pytest.raises(SpecError, match=r"short\.s, line 4: dst = 9"):
        call("asm", file)


def test_what_was_changed_is_said(tmp_path: Path) -> None:
    """Pruning beyond the sparsity, fewer accumulators and partial sums are noted; nothing else is."""
    product = ("run", "--m", 64, "--n", 64, "--k", 128)
    assert answer(*product, "--pattern", "4:4", "--sparsity", 0.2)["notes"] == []
    (note,) = answer(*product, "--pattern", "2:4", "--sparsity", 0.2)["notes"]
    assert note.startswith("20.0% zeros asked for; 2:4 prunes to 5")
    many = answer(*product, "--pattern", "1:4", "--accumulators", 9)
    assert many["accumulators"] == 3 and "9 accumulators asked for, 3 taken" in many["notes"][0]
    rows = answer(*product, "--pattern", "row-wise", "--sparsity", 0.9, "--order", "panel")
    assert "stay in L2" in rows["notes"][-1]
    assert "bert-2: " in call("run", "bert-2")
    dense = tmp_path / "dense.npy"
    np.save(dense, np.ones((8, 8), np.float32))
    with pytest.raises(SpecError, match="nothing to prune to"):
        call("run", dense, "--n", 4, "--prune")
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    with pytest.raises(SpecError, match="matrix"):
        call("run", empty, "--n", 4)
