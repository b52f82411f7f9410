"""Record a training step of PyTorch: ``with dse.trace.record(model, folder="run") as recording: step()``.

PyTorch's own observer and profiler do the work, on a CPU or a GPU, and :mod:`dse.trace.convert` joins what they wrote.
In a distributed run every process records itself into the same folder; ``dse.trace.load(folder)`` then reads all ranks.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dse.errors import Fault, SpecError

if TYPE_CHECKING:
    from dse.trace.columns import Trace
    from dse.trace.convert.merge import Merged

OLDEST = (2, 4)
SETTLE = 0.05  # seconds: threads of communication close their records a moment after they let go of who waits


class Recording:
    """What was recorded; filled when the block of :func:`record` ends.

    Attributes:
        rank, world: of this process, as ``torch.distributed`` numbers it; 0 and 1 without it.
        files: the written files of this rank: ``trace`` (``trace.<rank>.et``), ``host`` and ``kineto``; empty without
            a folder.
    """

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world
        self.files: dict[str, Path] = {}
        self._merged: Merged | None = None

    @property
    def trace(self) -> Trace:
        """The columns of this rank's trace.

        Raises:
            SpecError: the block has not ended, or it failed.
        """
        from dse.trace.dialects import columns

        found = self._found()
        return columns(found.nodes, found.metadata)

    @property
    def groups(self) -> dict[str, list[int]]:
        """The process groups that this rank knows, by label, in ranks of the whole run.

        Raises:
            SpecError: as :attr:`trace`.
        """
        return {label: list(ranks) for label, ranks in self._found().groups.items()}

    def _found(self) -> Merged:
        if self._merged is None:
            raise SpecError([Fault("recording", "", "there is a trace only once the block of record() has ended")])
        return self._merged

    def __repr__(self) -> str:
        what = f"{len(self._merged.nodes):,} nodes" if self._merged else "still open"
        return f"Recording(rank {self.rank} of {self.world}, {what})"


@contextmanager
def record(model: Any = None, *, folder: str | Path | None = None) -> Iterator[Recording]:
    """Record what the block runs, forward and backward passes, optimizer and communication.

    Run a step or two before the block: what happens only once (allocation, buckets of gradients) is then not in it.

    Args:
        model: the module that is trained, if any; its parameters are counted in the trace's metadata.
        folder: where to write ``trace.<rank>.et``, ``host.<rank>.json.gz`` and ``kineto.<rank>.json.gz``; made if it is
            not there. Without it nothing is kept but the trace in memory.

    Raises:
        SpecError: PyTorch is not installed or older than 2.4, ``model`` is no module, or the block recorded nothing.
    """
    torch = _torch(model)
    dist = torch.distributed
    inside = dist.is_available() and dist.is_initialized()
    recording = Recording(dist.get_rank() if inside else 0, dist.get_world_size() if inside else 1)
    with tempfile.TemporaryDirectory() as scratch:
        host, kineto = Path(scratch) / "host.json", Path(scratch) / "kineto.json"
        observer = torch.profiler.ExecutionTraceObserver()
        observer.register_callback(str(host))
        begin = time.time_ns()
        try:
            with _profiler(torch, observer) as profiler:
                yield recording
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                if inside:
                    time.sleep(SETTLE)
                    profiler.add_metadata_json("dse.collectives", json.dumps(_issued(begin)))
        finally:
            observer.unregister_callback()
        profiler.export_chrome_trace(str(kineto))
        _finish(recording, model, host, kineto, None if folder is None else Path(folder))


def _torch(model: Any) -> Any:
    """The module, if it is there and new enough."""
    try:
        import torch
        import torch.distributed
        import torch.profiler
    except ImportError as error:
        rule = "is needed to record: install dse[record]"
        raise SpecError([Fault("torch", "not installed", f"{rule} ({error})"[:200])]) from None
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST:
        raise SpecError([Fault("torch", torch.__version__, f"must be at least {OLDEST[0]}.{OLDEST[1]} to record")])
    if model is not None and not isinstance(model, torch.nn.Module):
        raise SpecError([Fault("model", repr(type(model).__name__), "must be a torch.nn.Module")])
    return torch


def _profiler(torch: Any, observer: Any) -> Any:
    """The profiler, with shapes, and with the synchronization of streams where there is a GPU."""
    kinds = torch.profiler.ProfilerActivity
    activities, more = [kinds.CPU], {}
    if torch.cuda.is_available():
        activities.append(kinds.CUDA)
        more["experimental_config"] = torch._C._profiler._ExperimentalConfig(enable_cuda_sync_events=True)
    return torch.profiler.profile(activities=activities, execution_trace_observer=observer, record_shapes=True, **more)


def _issued(begin: int) -> list[list[Any]]:
    """The collectives issued since a time, in order, with the label of their group: [name, label].

    PyTorch's flight recorder knows them; the host trace of gloo does not say which group an operator is of. Older
    versions record NCCL's only, whose group the host trace has itself.
    """
    import torch._C._distributed_c10d as c10d

    dump = getattr(c10d, "_dump_fr_trace_json", None)
    if dump is None:
        return []
    entries = json.loads(dump()).get("entries", [])
    kept = [entry for entry in entries if entry.get("time_created_ns", 0) >= begin]
    kept.sort(key=lambda entry: entry.get("record_id", 0))
    return [[entry.get("profiling_name", ""), (entry.get("process_group") or [""])[0]] for entry in kept]


def _finish(recording: Recording, model: Any, host: Path, kineto: Path, folder: Path | None) -> None:
    """Join what was written, and keep it if there is a folder."""
    from dse.study.export import write_atomically
    from dse.trace.convert.pytorch import merged
    from dse.trace.files import write
    from dse.trace.schema import Attribute

    found = merged(host, kineto, rank=recording.rank)
    if not any(node.id for node in found.nodes):
        raise SpecError([Fault("recording", "", "the block ran no operator of PyTorch")])
    if model is not None:
        counts = [(parameter.numel(), parameter.element_size()) for parameter in model.parameters()]
        amounts = {"parameters": sum(n for n, _ in counts), "parameter_bytes": sum(n * width for n, width in counts)}
        found.metadata.attrs += [Attribute(name, "uint64", value) for name, value in amounts.items()]
    recording._merged = found
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in (("host", host), ("kineto", kineto)):
        data = gzip.compress(path.read_bytes(), mtime=0)
        target = folder / f"{name}.{recording.rank}.json.gz"
        recording.files[name] = write_atomically(
            target, lambda temporary, data=data: temporary.write_bytes(data) and None
        )
    recording.files["trace"] = write(folder / f"trace.{recording.rank}.et", found.metadata, found.nodes)
