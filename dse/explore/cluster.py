"""A Dask cluster to work on: processes of this machine, or any that a scheduler's address leads to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dse.errors import StudyError

if TYPE_CHECKING:
    from distributed import Client

PATIENCE = 60.0  # seconds to wait for a first worker


@contextmanager
def connected(workers: int, scheduler: str | None) -> Iterator[Client]:
    """A client of a local cluster of ``workers`` processes, or of the scheduler at an address.

    Raises:
        StudyError: there is no scheduler at the address, or no worker comes.
    """
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        target: Any = scheduler
        if scheduler is None:
            options = {"n_workers": workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
            # Blocks bound the memory, so workers need no watch on it.
            target = stack.enter_context(LocalCluster(**options, memory_limit=0, silence_logs=50))
        try:
            client = Client(target, timeout=10, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise StudyError(f"no Dask scheduler at {scheduler}: {str(error)[:200] or type(error).__name__}") from None
        stack.callback(quietly, client.close, timeout=5)
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise StudyError(f"the Dask scheduler at {scheduler} has no workers") from None
        yield client


def quietly(action: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Do something at the end of a cluster's life, which may have ended already."""
    with suppress(Exception):
        action(*arguments, **options)
