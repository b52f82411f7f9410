"""Networks: shapes against recorded edge lists and counts, text, failures, files in all formats, bad input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dse.collective.faults import cables, connected, fail_links, fail_npus, vary
from dse.collective.files import from_networkx, load, reference_runs, reference_topologies, save
from dse.collective.nccl import NVLINK, from_xml
from dse.collective.shapes import REGISTRY
from dse.collective.text import parse
from dse.collective.topology import Topology
from dse.errors import SpecError

GIB, US = 2.0**30, 1e-6
THREE = "bandwidths=25GiB/s:50GiB/s:100GiB/s"
GRID = {8: "4x2", 16: "4x4", 64: "8x8", 128: "16x8", 256: "16x16", 512: "32x16", 1024: "32x32"}
CUBE = {8: "2x2x2", 16: "4x2x2", 64: "4x4x4", 128: "8x4x4", 256: "8x8x4", 512: "8x8x8", 1024: "16x8x8"}
FLY = {8: "4x2", 16: "4x4", 64: "8x8", 128: "16x8", 256: "16x16", 512: "32x16"}
MADE = {
    "ring_uni": lambda n: f"ring:{n},directions=1",
    "ring_bi": lambda n: f"ring:{n}",
    "fully_connected": lambda n: f"fully_connected:{n}",
    "hypercube": lambda n: f"hypercube:{n}",
    "mesh2d": lambda n: f"mesh:{GRID[n]}",
    "mesh3d": lambda n: f"mesh:{CUBE[n]}",
    "torus2d": lambda n: f"torus:{GRID[n]}",
    "torus3d": lambda n: f"torus:{CUBE[n]}",
    "torus3d_het": lambda n: f"torus:{CUBE[n]},bandwidth=200GiB/s:100GiB/s:50GiB/s",
    "torus2d_randhet": lambda n: f"torus:{GRID[n]},{THREE},seed=14",
    "torus2d_dirfail10": lambda n: f"torus:{GRID[n]},fail_directed=10%,seed=13",
    "mesh2d_fail10": lambda n: f"mesh:{GRID[n]},fail=10%,seed=12",
    "dragonfly": lambda n: f"dragonfly:{FLY[n]}",
    "dragonfly_het": lambda n: f"dragonfly:{FLY[n]},local_bandwidth=100GiB/s",
    "rails_8pernode": lambda n: (
        f"rails:{n // 8}x8,inside=full,rail=ring,bandwidth=30GiB/s,rail_bandwidth=25GiB/s,latency=0.5us,rail_latency=1us"
    ),
    "switch2d": lambda n: f"switch2d:{n}",
    "switch_unfold_d1": lambda n: f"unfolded:{n},degree=1,bandwidth=60GiB/s",
    "switch_unfold_d4": lambda n: f"unfolded:{n},degree=4,bandwidth=60GiB/s",
}  # torus3d_fail5: what failed there was drawn in another way


def links(topology: Topology) -> list[tuple[float, ...]]:
    rows = np.stack([topology.src, topology.dst, topology.bandwidth / GIB, topology.latency / US], 1)
    return sorted(map(tuple, np.round(rows, 6).tolist()))


def test_shapes_are_the_recorded_networks():
    known = reference_topologies()
    assert len(known) == 78 and {family for family, _ in known} == {*MADE, "torus3d_fail5"}
    for (family, npus), topology in known.items():
        if family in MADE:
            assert links(parse(MADE[family](npus))) == links(topology), (family, npus)
    runs = reference_runs()
    assert len(runs) == 1152
    for row in runs.itertuples():
        topology = known[row.family, row.n_npus]
        assert (topology.npus, topology.links) == (row.n_npus, row.n_links)


@pytest.mark.parametrize(
    ("text", "npus", "switches", "count"),
    [
        ("line:4", 4, 0, 6), ("ring:2", 2, 0, 2), ("ring:7", 7, 0, 14), ("torus:3x4x5", 60, 0, 360),
        ("hypercube:32", 32, 0, 160), ("switch:6", 6, 1, 12), ("switch:6,planes=3", 6, 3, 36), ("fat_tree:4x4", 16, 8, 64),
        ("fat_tree:4x4x2,up=1x2x2", 32, 8 + 4 + 4, 112), ("rails:4x8", 32, 12, 128), ("dgx1", 8, 0, 32),
        ("dgx_a100:2", 16, 20, 224), ("dgx_h100:1", 8, 4, 64), ("nvl72", 72, 18, 2592), ("wafer:6x4,reticle=3x2", 24, 0, 76),
        ("random_regular:20,degree=5", 20, 0, 100), ("rfs3d:4x3x2", 24, 0, 24 * (2 + 2 + 1)), ("mesh:1x1", 1, 0, 0),
    ],
)  # fmt: skip
def test_counts(text, npus, switches, count):
    made = parse(text)
    assert (made.npus, made.nodes - made.npus, made.links) == (npus, switches, count)
    assert connected(made) and made.name == text


def test_every_shape_is_built():
    sizes = {"dragonfly": "3x2", "rfs3d": "3x3x2", "wafer": "4x4", "fat_tree": "2x2", "dgx1": "", "rails": "2x4"}
    for name in REGISTRY:
        assert connected(parse(f"{name}:{sizes.get(name, '8')}".rstrip(":"))), name


def test_what_shapes_mean():
    made = parse("torus:4x2x3,bandwidth=3GB/s:2GB/s:1GB/s,latency=1us:2us:3us")
    step = np.abs(made.dst - made.src)
    assert set(made.bandwidth[np.isin(step, (1, 3))]) == {3e9} and set(made.latency[step >= 8]) == {3 * US}
    assert made.shape == (3, 2, 4)
    for text, rate in (
        ("dgx1", 150e9),
        ("dgx_a100", 300e9),
        ("nvl72", 900e9),
        ("unfolded:9,degree=3,bandwidth=90GB/s", 90e9),
    ):
        made = parse(text)
        for ends in (made.src, made.dst):
            assert np.bincount(ends, made.bandwidth)[: made.npus] == pytest.approx(rate)
    half = parse("fat_tree:8x4,oversubscription=2,bandwidth=1GB/s")
    assert half.bandwidth[(half.src >= 32) & (half.dst >= 36)].sum() == pytest.approx(4 * 4 * 1e9)
    wafer = parse("wafer:10x5")
    assert (wafer.bandwidth == 1e12).sum() == 2 * 5 and wafer.latency.max() == 0.2 * US
    regular = parse("random_regular:30,degree=3,seed=4")
    assert (np.bincount(regular.src) == 3).all() and len(set(zip(regular.src, regular.dst, strict=True))) == 90


def test_failures_and_variation():
    torus = parse("torus:6x6")
    assert len(cables(torus)) == 72 and all(len(pair) == 2 for pair in cables(torus))
    for seed in range(5):
        hurt = fail_links(torus, 0.1, seed)
        assert hurt.links == torus.links - 2 * 7 and connected(hurt)
        assert links(hurt) == links(fail_links(torus, 0.1, seed))
        assert fail_links(torus, 9, seed, directed=True).links == torus.links - 9
        lost = fail_npus(torus, 3, seed)
        assert len(lost.failed) == 3 and connected(lost) and len(lost.members) == 33
    with pytest.raises(SpecError, match="only 0 were found"):
        fail_links(parse("line:5"), 2)  # every cable there holds it together
    assert not connected(fail_links(parse("line:5"), 1, keep_connected=False))
    mixed = vary(torus, [1e9, 2e9], [US, 2 * US], 3)
    assert set(mixed.bandwidth) == {1e9, 2e9} and set(mixed.latency) == {US, 2 * US}
    assert all(len({mixed.bandwidth[i] for i in pair}) == 1 for pair in cables(mixed))
    with pytest.raises(SpecError, match="fail"):
        fail_links(torus, -0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tours:8", "did you mean torus"), ("torus", "needs dims"), ("torus:4,bandwidth=50", "needs a unit"),
        ("torus:4,bandwith=50GiB/s", "bandwidth"), ("torus:0x3", "at least 1"), ("mesh:axb", "whole number"), ("hypercube:12", "power of 2"),
        ("ring:8,fail=9", "up to 8"), ("ring:8,directions=3", "1 or 2"), ("torus:4x4,bandwidth=1GB/s:2GB/s:3GB/s", "1 value or 2"),
        ("random_regular:5,degree=3", "even"), ("dgx1:8", "sizes"), ("rails:2x2,inside=star", "full, ring, switch"), ("ring:8,latency=1GB", "dimension"),
        ("torus:100000x100000", "must not be more"), ("fully_connected:100000", "1 to"), ("fat_tree:4x4,up=1", "one a level"),
        ("ring:4,bandwidth=-1GB/s", "more than 0"), ("", "shapes are"), ("nowhere/net.txt", "cannot be read"), ("net.csv", "cannot be read"),
    ],
)  # fmt: skip
def test_bad_text_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        load(text)


@pytest.mark.parametrize("ending", [".txt", ".csv", ".json"])
def test_files_come_back(tmp_path, ending):
    for text in (
        "torus:4x3,latency=0.7us",
        "rails:2x4",
        "random_graph:9,bandwidth=1GB/s:7GB/s,latency=0us:3us",
        "switch2d:8",
    ):
        topology = load(text)
        save(topology, tmp_path / f"net{ending}")
        again = load(tmp_path / f"net{ending}")
        assert (again.npus, again.nodes) == (topology.npus, topology.nodes)
        if ending == ".csv":  # switches come back in the order of their links
            assert sorted(again.bandwidth) == sorted(topology.bandwidth)
        else:
            np.testing.assert_array_equal(again.src, topology.src)
            np.testing.assert_array_equal(again.dst, topology.dst)
        np.testing.assert_allclose(again.bandwidth, topology.bandwidth, rtol=1e-15)
        np.testing.assert_allclose(again.latency, topology.latency, rtol=1e-14)
    with pytest.raises(SpecError, match=r"\.txt, \.csv or \.json"):
        save(load("ring:3"), tmp_path / "net.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "is empty"), ("a.txt", "3\n", r"a\.txt:1: first line"), ("a.txt", "2 1\n0 2 1 1\n", r"a\.txt:2: destination = 2: must be a node, 0 to 1"),
        ("a.txt", "2 1\n0 1 fast 1\n", r"a\.txt:2: bandwidth = fast"), ("a.txt", "2 2\n0 1 1 1\n", "lines that follow, 1"), ("a.txt", "2 1\n0 1 0 1\n", "more than 0"),
        ("a.txt", "2 1\n0 1 1 -1\n", "0 or more"), ("a.txt", "2 1\n1 1 1 1\n", "another node"), ("a.txt", "2 1\n0 1 nan 1\n", "bandwidth"), ("a.txt", "0 0\n", "1 NPU"),
        ("a.csv", "src,dst\n0,1\n", "must have source"), ("a.csv", "src,dst,bandwidth,latency\n0,1,50,1us\n", r"a\.csv:2: bandwidth = 50"),
        ("a.csv", "src,dst,bandwidth,latency\n0,1,50GB,1us\n", "dimension"), ("a.csv", "src,dst,bandwidth,latency\n0,,5GB/s,1us\n", r"a\.csv:2: destination"),
        ("a.json", "{", r"a\.json:1"), ("a.json", "[]", "node-link"), ("a.json", '{"nodes": [{"id": 1}], "links": [{"source": 1, "target": 2}]}', "must have a bandwidth"),
        ("a.graphml", "<graphml>", "well-formed"), ("a.xml", "<topology/>", "must be system"), ("a.xml", "<system/>", "at least 1 gpu"), ("a.xml", "<graphml/>", "must have a graph"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(SpecError, match=message):
        load(tmp_path / name)


def test_networkx_and_graphml(tmp_path):
    nx = pytest.importorskip("networkx")
    graph = nx.Graph()
    graph.add_node("spine", kind="switch")
    for v in range(4):
        graph.add_edge(v, "spine", bandwidth=5e9, latency=1e-6)
    made = from_networkx(graph)
    assert (made.npus, made.nodes, made.links) == (4, 5, 8) and connected(made)
    assert links(load(graph)) == links(made)
    nx.write_graphml(graph, tmp_path / "star.graphml")
    assert links(load(tmp_path / "star.graphml")) == links(made)
    (tmp_path / "star.json").write_text(json.dumps(nx.node_link_data(graph, edges="edges")))
    assert links(load(tmp_path / "star.json")) == links(made)
    directed = nx.MultiDiGraph()
    directed.add_edge("a", "b", bandwidth="2 GB/s", latency="3 us")
    directed.add_edge("a", "b", bandwidth=1e9, latency=0)
    made = from_networkx(directed)
    assert (made.npus, made.links, made.bandwidth.tolist(), made.latency.tolist()) == (2, 2, [2e9, 1e9], [3 * US, 0])


def host(sm: int, gpus: int, nvlinks: str) -> str:
    """A host as NCCL writes it: two CPUs, a PCIe switch a GPU with its network card."""
    half = []
    for cpu in range(2):
        devices = "".join(
            f'<pci busid="0000:{v:02x}:00.0" class="0x060400" link_speed="16.0 GT/s PCIe" link_width="16">'
            f'<pci busid="0000:{v:02x}:01.0" class="0x030200" link_speed="16.0 GT/s PCIe" link_width="16">'
            f'<gpu dev="{v}" sm="{sm}" rank="{v}" gdr="1">{nvlinks.replace("SELF", str(v))}</gpu></pci>'
            f'<pci busid="0000:{v:02x}:02.0" class="0x020700" link_speed="16.0 GT/s PCIe" link_width="16">'
            f'<nic><net name="mlx5_{v}" dev="{v}" speed="200000" port="1" latency="0.000000"/></nic></pci></pci>'
            for v in range(cpu * gpus // 2, (cpu + 1) * gpus // 2)
        )
        half.append(f'<cpu numaid="{cpu}" affinity="ff" arch="x86_64" vendor="AuthenticAMD">{devices}</cpu>')
    return f'<system version="1">{"".join(half)}</system>'


def test_nccl_topology(tmp_path):
    text = host(80, 8, '<nvlink target="0000:f0:00.0" count="12" tclass="0x068000"/>')
    (tmp_path / "a100.xml").write_text(text)
    made = load(tmp_path / "a100.xml")
    assert made.npus == 8 and connected(made)
    best = made.bandwidth[(made.src < 8) & (made.bandwidth > 100e9)]
    assert best.tolist() == [12 * NVLINK[80]] * 8
    pcie = made.bandwidth[(made.src < 8) & (made.bandwidth < 100e9)]
    assert pcie.tolist() == [24e9] * 8
    pair = from_xml(text, tmp_path / "a100.xml", hosts=2)
    assert pair.npus == 16 and connected(pair)
    rails = [v for v in range(pair.npus, pair.nodes) if math.isclose(pair.bandwidth[pair.dst == v].sum(), 2 * 25e9)]
    assert len(rails) == 8
    with pytest.raises(SpecError, match="nvlink target"):
        from_xml(text.replace("0x068000", "0x030200"), tmp_path / "x.xml")
    with pytest.raises(SpecError, match="count = many"):
        from_xml(text.replace('count="12"', 'count="many"'), tmp_path / "x.xml")
    direct = host(70, 2, '<nvlink target="0000:0PEER:01.0" count="2" tclass="0x030200"/>')
    direct = direct.replace("PEER", "1", 1).replace("PEER", "0", 1)
    made = from_xml(direct, tmp_path / "v100.xml")
    fast = (made.src < 2) & (made.dst < 2)
    assert sorted(zip(made.src[fast], made.dst[fast], made.bandwidth[fast], strict=True)) == [
        (0, 1, 40e9),
        (1, 0, 40e9),
    ]
