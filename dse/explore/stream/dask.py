"""Sweeps on the workers of a Dask cluster: one of this machine, or any that a scheduler's address leads to.

Workers hold the plan (a plugin brings it to those that join later, too), so a task is only a list of part numbers and
may run again anywhere. A worker that sees the table's folder writes its parts there; others send their bytes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from distributed import Client, KilledWorker, WorkerPlugin, wait
from distributed.comm import CommClosedError

from dse.errors import DseError, StudyError
from dse.explore.cluster import connected, quietly
from dse.explore.stream.folder import Part, publish, write_part
from dse.explore.stream.parts import part_bytes
from dse.explore.stream.plan import Plan, read_plan
from dse.explore.stream.progress import Meter

RETRIES = 5  # of a task whose workers were killed, each time after as many deaths as the scheduler allows
PATIENCE = 60.0  # seconds without any worker, or without an answer from the scheduler
AHEAD = 3  # tasks for each thread of a worker: one at work, others under way to it
POLL = 2.0
GATHER = 20.0  # seconds in which the result of a finished task arrives, unless its worker has died meanwhile

_sweeps: dict[str, Sweep] = {}


class Sweep(WorkerPlugin):
    """Brings a sweep to every worker of a cluster, those included that join later."""

    def __init__(self, plan: Plan, folder: Path, token: str) -> None:
        from dse.spec import calibration

        self.id, self.name = plan.id, f"dse-{plan.id}-{token}"
        self.text, self.replace = plan.to_json(), plan.replace
        self.folder, self.token = str(folder.resolve()), token
        path = calibration.active().path
        self.calibration = path.read_bytes() if path is not None else b""

    def setup(self, worker: Any) -> None:
        """Remember the sweep in this worker's process."""
        _sweeps[self.name] = self

    def teardown(self, worker: Any) -> None:
        """Forget the sweep."""
        _sweeps.pop(self.name, None)

    def sees_folder(self) -> bool:
        """Is the folder of that name, here, the one in which the client left its token?"""
        return (Path(self.folder) / _token_file(self.token)).is_file()


def _token_file(token: str) -> str:
    return f".token-{token}.tmp"


@lru_cache(maxsize=2)
def _plan(name: str) -> Plan:
    """The plan of a sweep in this process, with the calibration that it was made with."""
    import json
    import tempfile

    from dse.spec import calibration

    sweep = _sweeps[name]
    if calibration.active().id != json.loads(sweep.text)["versions"]["calibration"]:
        path = Path(tempfile.mkdtemp(prefix="dse-")) / calibration.NAME
        path.write_bytes(sweep.calibration)
        calibration.use(path)
    return read_plan(sweep.text, sweep.replace, where="the sweep sent to this worker", sent=True)


def run_parts(name: str, numbers: Sequence[int]) -> list[Part | tuple[int, bytes]]:
    """Compute parts on a worker.

    Returns:
        For each part its record, where the worker has written it, or else its number and bytes.
    """
    plan, sweep = _plan(name), _sweeps[name]
    found: list[Part | tuple[int, bytes]] = []
    for number in numbers:
        data = part_bytes(plan, number)
        found.append(write_part(Path(sweep.folder), plan, number, data) if sweep.sees_folder() else (number, data))
    return found


def compute_there(
    plan: Plan, folder: Path, tasks: Sequence[Sequence[int]], *, workers: int, scheduler: str | None, meter: Meter
) -> Iterator[Part]:
    """Parts as the workers of a cluster finish them.

    Raises:
        StudyError: no scheduler, no workers, a lost scheduler, a task that killed too many workers, or a full disk.
    """
    token = uuid.uuid4().hex[:16]
    with ExitStack() as stack:
        client = stack.enter_context(connected(workers, scheduler))
        where = scheduler or "this machine"
        try:
            publish(folder, _token_file(token), b"")
            stack.callback((folder / _token_file(token)).unlink, missing_ok=True)
            plugin = Sweep(plan, folder, token)
            client.register_plugin(plugin)
            stack.callback(_forget, client, plugin.name)
            yield from _parts(client, plan, folder, tasks, plugin.name, meter)
        except DseError:
            raise
        except (CancelledError, CommClosedError, TimeoutError, OSError) as error:
            raise StudyError(
                f"lost the Dask scheduler at {where} ({type(error).__name__}): the parts written so far are kept, "
                f"go on with 'dse resume {folder}'"
            ) from None
        except ModuleNotFoundError as error:
            raise StudyError(f"the workers at {where} lack {error.name}: install the same dse there") from None


def _forget(client: Client, name: str) -> None:
    quietly(client.unregister_worker_plugin, name)


def _parts(
    client: Client, plan: Plan, folder: Path, tasks: Sequence[Sequence[int]], name: str, meter: Meter
) -> Iterator[Part]:
    """Keep a bounded number of tasks under way; those lost with their workers go again."""
    waiting = iter(tasks)
    under_way: dict[Any, tuple[Sequence[int], int]] = {}

    def submit(numbers: Sequence[int], tries: int = 0) -> None:
        future = client.submit(run_parts, name, list(numbers), pure=False, key=f"dse-{numbers[0]}-{uuid.uuid4().hex}")
        under_way[future] = (numbers, tries)

    while True:
        for numbers in islice(waiting, max(AHEAD * _threads(client) - len(under_way), 0)):
            submit(numbers)
        if not under_way:
            return
        for future in _finished(client, list(under_way)):
            numbers, tries = under_way.pop(future)
            try:
                found = future.result(timeout=GATHER)
            except (KilledWorker, TimeoutError):
                if client.status != "running":
                    raise
                if tries == RETRIES:
                    raise StudyError(
                        f"the workers that computed part {numbers[0]} were killed again and again; have they enough "
                        f"memory? The parts written so far are kept: go on with 'dse resume {folder}'"
                    ) from None
                submit(numbers, tries + 1)
                continue
            for item in found:
                part = item if isinstance(item, Part) else write_part(folder, plan, *item)
                meter.add(part.rows)
                yield part


def _threads(client: Client) -> int:
    """Threads of all workers, at least one."""
    return max(sum(client.nthreads().values()), 1)


def _finished(client: Client, futures: list[Any]) -> list[Any]:
    """Wait until some futures are done.

    Raises:
        StudyError: there has been no worker for a while.
    """
    alone = None
    while True:
        with suppress(TimeoutError), client.as_current():
            return list(wait(futures, timeout=POLL, return_when="FIRST_COMPLETED").done)
        if client.status not in ("running", "connecting"):
            raise CommClosedError("the scheduler is gone")
        if client.nthreads():
            alone = None
            continue
        alone = alone or time.monotonic()
        if time.monotonic() - alone > PATIENCE:
            raise StudyError("the cluster has had no worker for a minute: start some, then go on with 'dse resume'")
