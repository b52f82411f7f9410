"""Schedules carried out on real arrays give what NumPy gives: by one process, by several, and with torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from collective_schedules import around, direct, full, ring, scheduled, star

from dse.collective.execute import carried, differences, execute, expected, inputs, layout
from dse.collective.processes import ExecutionError, check_on_data, execute_in_processes
from dse.collective.schedule import COLLECTIVES, Chunks, Schedule, whole_chunks
from dse.collective.topology import Topology
from dse.errors import SpecError

NETWORKS = {"ring": ring, "full": full, "star": star}


def made(collective: str, network: str, n: int = 5, pieces: int = 3) -> Schedule:
    maker = around if network == "ring" else direct
    return maker(collective, n, NETWORKS[network](n), pieces=pieces)


def relayed() -> Schedule:
    """NPU 1 passes on what NPU 0 sends, and then sends its own: two loads of one chunk, added by NPU 2 only."""
    line = Topology.of([[0, 1, 5e10, 5e-7], [1, 2, 5e10, 5e-7]], 3)
    chunks = whole_chunks("reduce", 1e6, np.arange(3), 1, root=2)
    d = float(line.times(1e6)[0])
    columns = ([0, 0, 0], [0, 1, 1], [0.0, d, 2 * d], [d, 2 * d, 3 * d], [False, True, True])
    kinds = (np.int32, np.int32, float, float, np.bool_)
    arrays = [np.array(c, k) for c, k in zip(columns, kinds, strict=True)]
    return Schedule(line, "reduce", 1e6, np.arange(3), chunks, *arrays, root=2, passes=np.array([-1, 0, -1], np.int32))


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float64, np.float32, np.float16])
def test_results_are_those_of_numpy(collective: str, network: str, dtype: type) -> None:
    schedule = made(collective, network)
    for count in (5, 40, 1235):
        given = inputs(schedule, count, dtype, seed=count)
        equal, worst = differences(execute(schedule, given), expected(schedule, given))
        assert equal and (worst == 0 or dtype not in (np.int32, np.int64))


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_any_number_of_elements_is_tiled(collective: str) -> None:
    """Sums written out by hand, for numbers that neither the members nor the pieces divide."""
    schedule = made(collective, "ring", n=3, pieces=7)
    for count in (1, 2, 17, 100, 1001):
        if collective == "all_to_all" and count % 3:
            continue
        at = layout(schedule, count)
        assert at.shards[0] == 0 and at.shards[-1] == count
        if collective != "all_to_all":
            order = np.lexsort((at.last, at.first))
            assert at.first[order[0]] == 0 and at.last[order[-1]] == count
            assert (at.first[order][1:] == at.last[order][:-1]).all()
        given = inputs(schedule, count, np.int64, seed=count)
        got = execute(schedule, given)
        if collective == "all_reduce":
            want = [sum(int(one[k]) for one in given) for k in range(count)]
            assert all(one.tolist() == want for one in got)
        assert differences(got, expected(schedule, given)) == (True, 0.0)


def test_wrong_schedules_give_wrong_data_or_none() -> None:
    schedule = made("all_reduce", "ring", n=4, pieces=1)
    given = inputs(schedule, 40)
    want = expected(schedule, given)
    flipped = replace(schedule, reduce=~schedule.reduce)
    assert not differences(execute(flipped, given), want)[0]
    gather = made("all_gather", "ring", n=4, pieces=1)
    late = np.arange(gather.transfers) != 0
    columns = {k: getattr(gather, k)[late] for k in ("chunk", "link", "start", "end", "reduce")}
    with pytest.raises(SpecError, match="holds nothing"):
        execute(replace(gather, **columns), inputs(gather, 40))
    with pytest.raises(SpecError, match="never got"):
        execute(replace(gather, **{k: v[:0] for k, v in columns.items()}), inputs(gather, 40))
    assert not differences([None], [np.zeros(2)])[0] and not differences([np.zeros(3)], [np.zeros(2)])[0]
    assert not differences([np.array([1.0])], [np.array([1.001])])[0]


def test_vectors_gathered_and_added_in_place() -> None:
    n = 4
    chunks = Chunks(np.zeros(n), np.full(n, 1e6), np.arange(n), np.full(n, -1))
    moves = [(c, c, i, False) for c in range(n) for i in range(n) if i != c]
    schedule = scheduled(full(n), "all_reduce", 1e6, chunks, moves)
    assert check_on_data(schedule)["equal"]


def test_loads_that_are_passed_on() -> None:
    schedule = relayed()
    assert carried(schedule) == [-1, 0, -1]
    assert check_on_data(schedule)["equal"]
    assert check_on_data(schedule, processes=3)["equal"]


def test_groups_are_executed_for_their_members() -> None:
    schedule = around("all_reduce", 3, full(5), members=[0, 2, 3])
    given = inputs(schedule, 10)
    got = execute(schedule, given)
    assert len(got) == 3 and all((one == sum(given)).all() for one in got)


@pytest.mark.parametrize(
    ("collective", "wrong", "rule"),
    [
        ("all_reduce", lambda a: a[:-1], "one for each member"),
        ("all_reduce", lambda a: [*a[:-1], a[-1][:-1]], "elements"),
        ("all_reduce", lambda a: [one.reshape(-1, 2) for one in a], "one dimension"),
        ("all_reduce", lambda a: [*a[:-1], a[-1].astype(float)], "one dtype"),
        ("all_to_all", lambda a: [one[:-1] for one in a], "divides"),
        ("all_gather", lambda a: [a[0][:2], *a[1:]], "elements"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(collective: str, wrong, rule: str) -> None:
    schedule = made(collective, "ring")
    given = inputs(schedule, 40)
    with pytest.raises(SpecError, match=rule):
        execute(schedule, wrong(given))


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_several_processes_that_send_each_other_bytes(collective: str) -> None:
    schedule = made(collective, "star" if collective in ("all_reduce", "all_to_all") else "ring")
    given = inputs(schedule, 1000)
    assert differences(execute_in_processes(schedule, given, 2), expected(schedule, given)) == (True, 0.0)


def test_loads_larger_than_a_pipe_do_not_block() -> None:
    """Everyone sends a megabyte to everyone at once."""
    schedule = made("all_to_all", "full", n=4, pieces=1)
    given = inputs(schedule, 1 << 19)
    assert differences(execute_in_processes(schedule, given, 3), expected(schedule, given)) == (True, 0.0)


def test_an_error_in_a_process_is_told() -> None:
    schedule = made("all_gather", "ring", n=4, pieces=1)
    late = np.arange(schedule.transfers) != 0
    columns = {k: getattr(schedule, k)[late] for k in ("chunk", "link", "start", "end", "reduce")}
    with pytest.raises(ExecutionError, match=r"holds nothing|ended"):
        execute_in_processes(replace(schedule, **columns), inputs(schedule, 40), 2)
    with pytest.raises(SpecError, match="processes"):
        execute_in_processes(schedule, inputs(schedule, 40), 0)


def returned() -> Schedule:
    """What NPU 0 sends comes back to it from the switch, and to NPU 1; NPU 2 gets its copy after that."""
    network = star(3)
    chunks = whole_chunks("broadcast", 1e6, np.arange(3), 1, root=0)
    d = float(network.times(1e6)[0])
    links = np.array([0, 1, 0, 3, 0, 5], np.int32)
    start = np.arange(6) * d
    return Schedule(network, "broadcast", 1e6, np.arange(3), chunks, np.zeros(6, np.int32), links, start, start + d,
                    np.zeros(6, bool), root=0)  # fmt: skip


JOBS = [
    ("broadcast", "back"),
    ("all_reduce", "star"),
    ("all_gather", "ring"),
    ("all_to_all", "ring"),
    ("reduce", "line"),
]


def jobs() -> list[Schedule]:
    unusual = {"line": relayed, "back": returned}
    return [unusual[network]() if network in unusual else made(c, network, n=3) for c, network in JOBS]


def one_rank(rank: int, folder: str) -> None:
    """A process of the torch test; what it gets goes to a file."""
    import torch
    import torch.distributed as dist

    from dse.collective.gloo import collective

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=3)
    for number, schedule in enumerate(jobs()):
        given = inputs(schedule, 300)
        got = collective(schedule, torch.from_numpy(given[rank]))
        np.save(f"{folder}/{number}.{rank}.npy", np.zeros(0) if got is None else got.numpy())
    try:
        collective(made("all_reduce", "ring", n=4), torch.zeros(8))
    except SpecError as error:
        assert "ranks" in str(error)
        np.save(f"{folder}/refused.{rank}.npy", np.ones(1))
    dist.destroy_process_group()


def test_torch_point_to_point(tmp_path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("PyTorch without torch.distributed")
    torch.multiprocessing.spawn(one_rank, (str(tmp_path),), nprocs=3)
    for number, schedule in enumerate(jobs()):
        want = expected(schedule, inputs(schedule, 300))
        for rank in range(3):
            got = np.load(tmp_path / f"{number}.{rank}.npy")
            assert (got == want[rank]).all() if want[rank] is not None else got.size == 0, (number, rank)
    assert len(list(tmp_path.glob("refused.*"))) == 3
