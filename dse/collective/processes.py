"""A schedule carried out by several processes that hold their own NPUs' buffers and send each other bytes."""

from __future__ import annotations

import multiprocessing
import queue
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from dse.collective.execute import Array, Share, carried, checked, differences, events, execute, expected, inputs
from dse.collective.schedule import Schedule
from dse.errors import DseError, Fault, SpecError

ELEMENTS = 65_536  # in the result of a check, more where there are more pieces


class ExecutionError(DseError):
    """A process of an executor ended in an error or died; the message carries its own."""


def execute_in_processes(schedule: Schedule, given: Sequence[Array], processes: int = 2) -> list[Array | None]:
    """As :func:`~dse.collective.execute.execute`, by processes: node v belongs to process v modulo their number.

    Every process gets the inputs of its own NPUs only, and each load that goes to a node of another process is sent
    there as bytes through a pipe.

    Raises:
        SpecError: arrays or a number that do not fit.
        ExecutionError: a process ended in an error.
    """
    if not 1 <= processes <= 64:
        raise SpecError([Fault("processes", str(processes), "must be 1 to 64")])
    arrays, count = checked(schedule, given)
    members = schedule.members.tolist()
    context = multiprocessing.get_context("spawn")
    pipes = {(p, q): context.Pipe(duplex=False) for p in range(processes) for q in range(processes) if p != q}
    backs = [context.Pipe(duplex=False) for _ in range(processes)]
    workers = []
    results: dict[int, Array | None] = {}
    try:
        for p in range(processes):
            own = {npu: one for npu, one in zip(members, arrays, strict=True) if npu % processes == p}
            into = {q: pipes[q, p][0] for q in range(processes) if q != p}
            out = {q: pipes[p, q][1] for q in range(processes) if q != p}
            job = (schedule, own, count, arrays[0].dtype.str, p, processes, into, out, backs[p][1])
            worker = context.Process(target=_work, args=job, daemon=True)
            worker.start()
            workers.append(worker)
        for ends in [*pipes.values(), *backs]:  # the children's are copies
            ends[1].close()
        waiting = {back: p for p, (back, _) in enumerate(backs)}
        while waiting:  # whoever is ready first: one that died must not keep the others waiting
            for back in wait(list(waiting)):
                results |= _answer(waiting.pop(back), back)  # type: ignore[call-overload]
    finally:
        for worker in workers:
            if worker.is_alive() and len(results) < len(members):
                worker.terminate()
            worker.join()
        for ends in [*pipes.values(), *backs]:
            for end in ends:
                end.close()
    return [results[npu] for npu in members]


def _answer(p: int, back: Connection) -> dict[int, Array | None]:
    try:
        answer = back.recv()
    except EOFError:
        raise ExecutionError(f"process {p} died") from None
    if isinstance(answer, str):
        raise ExecutionError(f"process {p}: {answer}")
    return answer


def _work(schedule, own, count, kind, p, processes, into, out, back) -> None:  # type: ignore[no-untyped-def]
    """What one process does."""
    mail = _Mail(into, out, np.dtype(kind))
    try:
        answer = _run(schedule, own, count, p, processes, mail)
        mail.close()
        back.send(answer)
    except Exception as error:
        text = str(error) if isinstance(error, DseError) else traceback.format_exc()
        back.send(f"{type(error).__name__}: {text}"[-2000:])


def _run(schedule, own, count, p, processes, mail) -> dict[int, Any]:  # type: ignore[no-untyped-def]
    share = Share(schedule, own, count)
    passes, npus = carried(schedule), schedule.topology.npus
    kept = np.ones(schedule.transfers, bool)
    kept[[j for j in passes if j >= 0]] = False
    chunk, reduce = schedule.chunk.tolist(), schedule.reduce.tolist()
    source, destination = schedule.source.tolist(), schedule.destination.tolist()
    load: dict[int, Array] = {}
    transfer, starts = events(schedule)
    for i, begins in zip(transfer.tolist(), starts.tolist(), strict=True):
        here, there = source[i] % processes == p, destination[i] % processes == p
        if begins and here:
            data = load.pop(passes[i]) if passes[i] >= 0 else share.send(i, chunk[i], source[i])
            if there:
                load[i] = data
            else:
                mail.send(destination[i] % processes, i, data)
        elif not begins and there:
            if not here:
                load[i] = mail.receive(i)
            if kept[i]:
                data = load.pop(i)
                if destination[i] < npus:
                    share.receive(chunk[i], destination[i], data, reduce[i])
    return {npu: share.result(npu) for npu in own}


class _Mail:
    """Loads as bytes between processes.

    A thread sends, so that nobody who sends keeps anybody waiting; who waits for a load takes in whatever comes. So
    the earliest event that is not done yet can always be done, and the processes cannot wait for each other for ever.
    """

    def __init__(self, into: dict[int, Connection], out: dict[int, Connection], kind: np.dtype[Any]) -> None:
        self.into, self.out, self.kind = list(into.values()), out, kind
        self.come: dict[int, Array] = {}
        self.going: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._deliver, daemon=True)
        self.thread.start()

    def _deliver(self) -> None:
        while (item := self.going.get()) is not None:
            to, data = item
            self.out[to].send_bytes(data)

    def send(self, to: int, transfer: int, data: Array) -> None:
        self.going.put((to, transfer.to_bytes(8, "little") + data.tobytes()))

    def receive(self, transfer: int) -> Array:
        while transfer not in self.come:
            if not self.into:
                raise ExecutionError(f"transfer {transfer} never came: all other processes have ended")
            for pipe in wait(self.into):
                try:
                    data = pipe.recv_bytes()  # type: ignore[union-attr]
                except EOFError:  # it has done its part
                    self.into.remove(pipe)  # type: ignore[arg-type]
                    continue
                self.come[int.from_bytes(data[:8], "little")] = np.frombuffer(data, self.kind, offset=8)
        return self.come.pop(transfer)

    def close(self) -> None:
        """Wait until all is sent."""
        self.going.put(None)
        self.thread.join()


def check_on_data(schedule: Schedule, processes: int = 1, dtype: Any = np.int64, seed: int = 0) -> dict[str, Any]:
    """Carry out a schedule on random data and compare with NumPy: ``equal``, and how it was tried.

    Args:
        processes: how many hold the buffers; 1: this one holds all.
        dtype: of the elements; integers must agree exactly, floats within rounding.
    """
    n = len(schedule.members)
    pieces = len(np.unique(np.round(schedule.chunks.offset / schedule.nbytes, 9)))
    count = -(-max(min(ELEMENTS, (1 << 24) // n), 2 * pieces) // n) * n
    given = inputs(schedule, count, dtype, seed)
    got = execute(schedule, given) if processes == 1 else execute_in_processes(schedule, given, processes)
    equal, worst = differences(got, expected(schedule, given))
    kind = np.dtype(dtype)
    return {"equal": equal, "processes": processes, "elements": count, "dtype": kind.name, "largest_difference": worst}
