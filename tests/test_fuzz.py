"""Hostile and broken inputs: every file gives a specification or a SpecError, soon; every estimate gives numbers."""

from __future__ import annotations

import gc
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_specs import specs

import dse
from dse.errors import DseError, SpecError
from dse.explore.evaluate import RULES
from dse.spec import catalogue
from dse.spec.base import Spec
from dse.spec.hardware import Cluster
from dse.spec.strategy import Strategy

LOADERS: dict[str, Callable[[Any], Any]] = {
    "accelerator": dse.load_accelerator, "node": dse.load_node, "cluster": dse.load_cluster, "model": dse.load_model,
    "strategy": dse.load_strategy,
}  # fmt: skip
SOON = 50  # times a fixed piece of work: about a second on a quiet machine, more on a slow or busy one
STRATEGY = """\
kind: strategy
tp: 8
pp: 8
global_batch: 1536
micro_batch: 1
sequence_parallel: true
recompute: selective
overlap_efficiency: 0.9
placement: tp-cp-dp-pp
"""


def work() -> float:
    """Processor time of a fixed piece of plain Python, about 20 ms: what to measure other times by."""
    begin = time.process_time()
    sum(len(str(number)) for number in range(400_000))
    return time.process_time() - begin


def outcome(kind: str, path: Any) -> Spec | SpecError:
    """What loading gives: a specification or a SpecError that reads well; anything else fails the test."""
    gc.freeze()  # what other tests have left in memory is not to be searched for garbage meanwhile
    begin = time.process_time()
    try:
        found = LOADERS[kind](path)
    except SpecError as error:
        text = str(error)
        assert error.faults and 5 < len(text) < 100_000
        assert all(len(str(fault)) < 6000 for fault in error.faults)
        found = error
    spent = time.process_time() - begin
    gc.unfreeze()
    assert spent < 0.1 or spent < SOON * work()
    assert isinstance(found, Spec | SpecError)
    return found


# -- mutated files ------------------------------------------------------------------------------------------

VALUES = [
    "-1", "0", "1e400", "-1e400", "9" * 5000, "1" + "0" * 100_000, ".nan", ".inf", "-.inf", "NaN", "Infinity", "null",
    "~", "true", "[]", "{}", "[1, 2]", "{a: 1}", "''", "' '", "'80'", "80 GB", "80 GiB/s", "80 XB", "1e5000 GB",
    "-80 GB", "80GB", "80 GB^9^9", "1 9^9^9 B", "0x10", "0o17", "1_000", "1:30", "2024-01-01", "!!int abc", "!!float x",
    "!!str 1", "!!binary aGk=", "!!python/object/apply:os.system [true]", "!x 1", "*gone", "&a 1", "|\n  text",
    ">-\n  text", "'\\0'", '"\\0"', '"\\ud800"', '"\\x07"', "\u202e1", "\uff11\uff12", "1,5", "1 000", "0.1.2", "--1",
    "1e", "e1", "@x", "`x", "%x", "- 1", "a: b: c", "x" * 5000, "x/" * 3000 + ".yaml", "'../../../../etc/passwd'",
    "a100-80gb-sxm",
]  # fmt: skip
JUNK = ["\0", "\t", "\x1b", "\ufeff", "{", "[", "'", '"', ":", "&", "*", "!", "\r", "\x85"]
UNITS = ["GiB", "s", "kg", "Gb", "XB", "B/B"]


def mutate(text: str, seed: int) -> bytes:
    """A file changed in one to three places."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        lines = text.split("\n")
        i = rng.randrange(len(lines))
        line, position = lines[i], rng.randrange(len(text) + 1)
        changed = {
            0: lambda line: [re.sub(r":.*", lambda _: ": " + rng.choice(VALUES), line, count=1)],
            1: lambda line: [],
            2: lambda line: [line, line],
            3: lambda line: [re.sub(r"(\w)(\w)", r"\2\1", line, count=1)],
            4: lambda line: [" " * rng.randint(1, 5) + line],
            5: lambda line: [re.sub(r"\d+(\.\d+)?", lambda _: rng.choice(VALUES), line, count=1)],
            6: lambda line: [re.sub(r"\b(GB|TB|MB|us|W|USD|TFLOP)\b", lambda _: rng.choice(UNITS), line)],
        }
        kind = rng.choice([0, 0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8])
        if kind in changed:
            text = "\n".join([*lines[:i], *changed[kind](line), *lines[i + 1 :]])
        else:
            text = text[:position] + (rng.choice(JUNK) + text[position:] if kind == 7 else "")
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if seed % 10 == 0 and data:
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


SOURCES = {
    "accelerator": ["a100-80gb-sxm", "tpu-v4", "comet-a100"], "node": ["dgx-h100", "comet-node"],
    "cluster": ["dgx-a100", "tpu-v4-pod", "comet-validation"],
    "model": ["gpt3-175b", "deepseek-v3", "dlrm-1.2t", "resnet-50", "transformer-1t"], "strategy": [""],
}  # fmt: skip
FILES = [(kind, id, seed) for kind, ids in SOURCES.items() for id in ids for seed in range(20 if id else 60)]


def test_there_are_enough_mutated_files() -> None:
    """The fuzzing below tries at least 300 files, no two alike."""
    assert len({mutate(source(kind, id), seed) for kind, id, seed in FILES}) >= 300


def source(kind: str, id: str) -> str:
    return catalogue.locate(kind, id).read_text(encoding="utf-8") if id else STRATEGY


@pytest.mark.parametrize(("kind", "id"), [(kind, id) for kind, ids in SOURCES.items() for id in ids])
def test_mutated_files(kind: str, id: str, tmp_path: Path) -> None:
    """A catalogue file changed in a few places loads, or is refused with its faults; so does its text as a mapping."""
    refused = 0
    for seed in (seed for k, i, seed in FILES if (k, i) == (kind, id)):
        path = tmp_path / f"{seed}.yaml"
        path.write_bytes(mutate(source(kind, id), seed))
        refused += isinstance(outcome(kind, path), SpecError)
    assert refused > 5


# -- hostile files ------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE: dict[str, str | bytes] = {
    "empty": "", "blank": " \n\n\t\n", "comment": "# nothing\n", "document": "---\n",
    "two documents": "a: 1\n---\nb: 2\n", "scalar": "just text", "number": "7", "list": "[1, 2, 3]", "null": "null",
    "end": "...", "directive": "%YAML 9.9\n---\na: 1\n", "bad directive": "%TAG ! tag:\n---\n!x 1",
    "brackets": "[" * 100_000, "closed brackets": "[" * 100_000 + "]" * 100_000, "braces": "{a: " * 50_000,
    "dashes": "- " * 100_000, "questions": "? " * 100_000, "colons": ":" * 100_000,
    "stairs": "".join(" " * i + "a:\n" for i in range(1200)), "billion laughs": LAUGHS + "id: *i\n",
    "laughing keys": LAUGHS + "*i : 1\n", "recursive list": "&a [*a]", "recursive map": "&a {id: *a, name: {x: *a}}",
    "recursive field": "id: &x [*x, *x]\n", "undefined alias": "id: *nothing\n", "merge": "<<: {a: 1}\nid: x\n",
    "merge alias": "x: &x {devices: 1}\ny:\n  <<: *x\n",
    "python object": "!!python/object/apply:os.system ['echo bad']",
    "python name": "id: !!python/name:os.system ''\n", "python module": "id: !!python/module:os ''\n",
    "own tag": "id: !mine x\n", "set": "!!set {a, b}", "omap": "!!omap [a: 1]", "binary": "id: !!binary AAAA\n",
    "bool tag": "id: !!bool maybe\n", "int tag": "id: !!int ''\n", "null tag": "id: !!null x\n",
    "timestamp": "id: 2001-12-14t21:59:43.10-05:00\n", "tabs": "id:\tx\n\tname: y\n", "nul": "id: a\0b\n",
    "escape": "id: \x1b[31m\n", "escaped nul": 'id: "a\\0b"\n', "surrogate": 'id: "\\ud800"\n',
    "bell": 'name: "\\a"\n', "next line": 'name: "a\\Nb"\n', "bad escape": 'id: "\\q"\n',
    "duplicate": "id: a\nid: b\n", "deep duplicate": "memory: {name: a, name: b}\n", "complex key": "? [a, b]\n: 1\n",
    "map key": "{a: 1}: 2\n", "number key": "1: 2\n", "null key": "~: 2\n", "empty key": "'': 2\n",
    "long key": "k" * 5000 + ": 1\n", "many keys": "".join(f"k{i}: {i}\n" for i in range(40_000)),
    "many items": "a: [" + "1, " * 100_000 + "1]\n", "many lines": "- 1\n" * 60_000,
    "many anchors": "".join(f"- &a{i} x\n" for i in range(30_000)), "two megabytes": "# " + "x" * 2_000_000,
    "long scalar": "id: " + "x" * 400_000, "long number": "devices: " + "9" * 100_000,
    "long float": "buffer: 0." + "3" * 100_000, "huge exponent": "buffer: 1e999999999\n",
    "huge hex": "devices: 0x" + "f" * 9000, "quote": "id: 'x\n", "double quote": 'id: "x\n',
    "half flow": "{id: x, name: [\n", "block": "id: |\n" + "  x\n" * 50_000, "utf-16": "id: x\n".encode("utf-16"),
    "latin": b"name: caf\xe9\n", "overlong": b"id: \xc0\xaf\n", "bom": b"\xef\xbb\xbfid: x\n",
    "zip": b"PK\x03\x04" + bytes(range(256)) * 20, "elf": b"\x7fELF" + bytes(1000),
    "random": random.Random(1).randbytes(5000), "zeros": bytes(5000), "own base": "base: hostile.yaml\n",
    "missing base": "base: nowhere.yaml\n", "nul base": 'base: "a\\0.yaml"\n',
    "long base": "base: " + "a" * 5000 + ".yaml\n", "surrogate base": 'base: "\\ud800.yaml"\n',
    "folder base": "base: ./\n", "list base": "base: [a]\n", "number base": "base: 7\n",
    "device base": "base: /dev/null/x.yaml\n", "wrong kind": "kind: cat\n", "list kind": "kind: [a]\n",
    "family": "family: [a]\n", "null family": "family: null\n", "unknown family": "family: cnn\n",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(name: str, tmp_path: Path) -> None:
    """Bombs, binary junk, tags, cycles and huge values are refused as SpecError by every loader, soon."""
    path = tmp_path / "hostile.yaml"
    content = HOSTILE[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    for kind in ["model"] if name.startswith("many") else LOADERS:  # what takes long is the same for all
        assert isinstance(outcome(kind, path), SpecError), kind


HEADER = "name,type,m,k,n,repeat\n"
TABLES: dict[str, str | bytes] = {
    "empty": "", "blank": "\n\n", "header only": HEADER, "no header": "a,gemm,1,2,3,1\n",
    "unknown column": "name,mm,k,n\na,1,2,3\n", "empty header": ",,,\na,1,2,3\n",
    "doubled header": "name,m,m,k,n\na,1,2,3,4\n", "short row": HEADER + "a,gemm,1\n",
    "long row": HEADER + "a,gemm,1,2,3,1,9,9\n", "later long row": HEADER + "a,gemm,1,2,3,1\nb,gemm,1,2,3,1,7\n",
    "quote": HEADER + '"a,gemm,1,2,3,1\n', "semicolons": "name;m;k;n\na;1;2;3\n",
    "text": HEADER + "a,gemm,one,2,3,1\n", "negative": HEADER + "a,gemm,-1,2,3,1\n",
    "zero": HEADER + "a,gemm,0,2,3,1\n", "nan": HEADER + "a,gemm,nan,inf,1e400,1\n",
    "huge field": HEADER + "a,gemm," + "1" * 200_000 + ",2,3,1\n", "huge": HEADER + "a,gemm,1,2,3,1\n" * 60_000,
    "nul": HEADER + "a\0,gemm,1,2,3,1\n", "latin": b"name,m,k,n\ncaf\xe9,1,2,3\n", "utf-16": HEADER.encode("utf-16"),
    "binary": bytes(range(256)) * 30, "bad type": HEADER + "a,conv,1,2,3,1\n",
    "bad name": HEADER + "a b,gemm,1,2,3,1\n", "formula": HEADER + "=1+1,gemm,1,2,3,1\n",
    "eleven megabytes": HEADER + "x" * 11_000_000,
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_hostile_tables(name: str, tmp_path: Path) -> None:
    """Layer tables with bad headers, rows or bytes are refused as SpecError, alone or named in a YAML file."""
    path, content = tmp_path / "layers.csv", TABLES[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    expected = Spec if name in ("later long row", "doubled header") else SpecError
    assert isinstance(outcome("model", path), expected)
    wrapper = tmp_path / "model.yaml"
    wrapper.write_text(f"family: layers\nid: x\ncsv: {path}\n", encoding="utf-8")
    assert isinstance(outcome("model", wrapper), expected)


REFERENCES = [
    "", " ", "\0", "a\0.yaml", "\ud800", "\ud800.yaml", "x" * 100_000, "x" * 5000 + ".yaml", "/", "..", "./",
    "/dev/null", "../../etc/passwd", "/proc/self/mem", "http://x/y.yaml", "a=b", "=", "=,=", "tp=", "tp=1,tp=2",
    "tp=8,,pp", "a=1" * 3000, 7, -1, 1.5, float("nan"), None, True, b"x", [], {}, {1: 2}, {"id": {}}, {"base": {}},
    {"base": None}, object(), [{}], (1, 2), {"base": "gpt3-175b"}, {"family": {}}, {"kind": 3},
    {"csv": "\0", "family": "layers"},
]  # fmt: skip


@pytest.mark.parametrize("kind", LOADERS)
def test_hostile_references(kind: str) -> None:
    """Anything at all passed where a specification is expected gives a specification or a SpecError."""
    for reference in REFERENCES:
        legal = kind == "model" and reference == {"base": "gpt3-175b"}
        assert isinstance(outcome(kind, reference), Spec if legal else SpecError)


# -- extreme but legal --------------------------------------------------------------------------------------

calm = settings(deadline=None, derandomize=True, max_examples=60, suppress_health_check=list(HealthCheck))
MODELS = st.sampled_from(["gpt-1.7b", "llama3-70b", "mixtral-8x7b", "deepseek-v3", "dlrm-1.2t", "resnet-50"])
CLUSTERS = st.sampled_from(["dgx-a100", "gb200-nvl72", "tpu-v4-pod", "comet-baseline"])


def check(model: Any, cluster: Any, strategy: Any, devices: int | None = None) -> None:
    """Price a design: a typed refusal, or numbers that are numbers, and times that are not negative."""
    try:
        result = dse.estimate(model, cluster, strategy, devices=devices)
        data = result.dataset
    except DseError:
        return
    for name, values in data.data_vars.items():
        found = np.asarray(values.values, dtype=float)
        assert not np.isnan(found).any(), name
        if not str(name).startswith("margin."):
            assert (found >= 0).all(), (name, found)
    assert bool(data["feasible"]) == all(float(data[f"margin.{rule}"]) >= 0 for rule in RULES) == (not result.reasons())
    assert float(data["step_time"]) > 0


@given(MODELS, specs(Cluster), st.sampled_from([1, 8, 64]))
@calm
def test_any_cluster_gives_numbers(model: str, cluster: Cluster, devices: int) -> None:
    """Any legal cluster, from bytes to exabytes a second, prices every model family without NaN or exception."""
    plan = {"global_batch": 64, "precision": "bf16"}
    tiers = [tier.name for tier in cluster.node.expansion]
    check(model, cluster, {**plan, "offload_optimizer": tiers[0], "memory_expansion": "spread"}, devices)
    check(model, cluster, {**plan, "tp": 8, "pp": 2, "execution": "comet"}, devices)


@given(MODELS, CLUSTERS, specs(Strategy))
@calm
def test_any_strategy_gives_numbers(model: str, cluster: str, strategy: Strategy) -> None:
    """Any legal strategy, however absurd, is priced and judged, or refused for a tier that does not exist."""
    local = {f"offload_{name}": "local" for name in ("weights", "gradients", "optimizer", "activations")}
    check(model, cluster, strategy)
    check(model, cluster, strategy.replace(**local, memory_expansion="none", stack=None))
    small = {name: min(getattr(strategy, name) or 1, 4) for name in ("tp", "pp", "cp", "dp", "ep", "virtual_stages")}
    check(model, cluster, strategy.replace(**local, **small, memory_expansion="none", stack=None), 64)


@pytest.mark.parametrize("family", ["transformer", "dlrm", "convnet", "layers"])
def test_any_model_gives_numbers(family: str) -> None:
    """Any legal model, up to ten thousand of everything, is priced without NaN or exception."""
    from dse.spec.workload import FAMILIES

    @given(specs(FAMILIES[family], 10_000), CLUSTERS)
    @calm
    def check_model(model: Any, cluster: str) -> None:
        check(model, cluster, {"dp": 2, "global_batch": 4, "precision": "bf16"})
        check(model, cluster, {"tp": 2, "pp": 2, "global_batch": 8, "attention": "unfused", "precision": "bf16"}, 8)

    check_model()
