"""The storages that a search can be kept in and shared through, opened so that crashes and races do no harm.

| storage | what it is | who can share it |
|---|---|---|
| ``journal`` | a file of operations, ``search.journal`` in the search's folder | processes that see the file |
| ``sqlite:///file.db`` | SQLite | processes of one machine |
| ``postgresql://user@host/db`` | PostgreSQL through psycopg 3 | anyone who reaches the server |
| ``grpc://host:port`` | Optuna's gRPC proxy in front of any of these | anyone who reaches the proxy |
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dse.errors import Fault, SpecError, StudyError
from dse.explore.search.streams import quiet

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

JOURNAL = "search.journal"
CONNECT = 10.0  # s to wait for a server
BUSY = 120.0  # s to wait for SQLite's lock
ADVISORY = 0x647365  # the key of PostgreSQL's lock around the creation of tables: "dse"


class JournalLock:
    """The lock of a journal file, freed by the operating system when its holder dies; taking it repairs the file.

    Whoever holds the lock is alone in writing, so a last line without its end was torn by a crash and is cut off then.
    It is kept in ``<journal>.torn``. Optuna's own lock outlives a killed process by 30 seconds and repairs nothing.
    """

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._path = journal.with_name(journal.name + ".flock")

    def acquire(self) -> bool:
        import fcntl

        self._handle = self._path.open("ab")
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        _cut_torn_tail(self._journal)
        return True

    def release(self) -> None:
        import fcntl

        # Unlocked by name: a forked child may hold a copy of the handle, and closing ours would leave it locked.
        fcntl.flock(self._handle, fcntl.LOCK_UN)
        self._handle.close()


def _cut_torn_tail(journal: Path, *, last_line: bool = False) -> None:
    """Cut what follows the last line end (and with ``last_line`` the last line) off into ``<journal>.torn``."""
    with journal.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n" and not last_line:
            return
        file.seek(0)
        content = file.read()
        keep = content.rstrip(b"\n").rfind(b"\n") + 1 if last_line else content.rfind(b"\n") + 1
        with journal.with_name(journal.name + ".torn").open("ab") as torn:
            torn.write(content[keep:] + (b"" if content.endswith(b"\n") else b"\n"))
            os.fsync(torn.fileno())
        file.truncate(keep)
        os.fsync(file.fileno())


def check_journal(journal: Path) -> None:
    """Repair the end of a journal and refuse one that is damaged elsewhere. The caller holds the lock.

    Raises:
        StudyError: a line before the last is not an operation; says which.
    """
    _cut_torn_tail(journal)
    bad = 0
    with journal.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if bad:
                raise StudyError(
                    f"{journal}, line {bad}: damaged in the middle, so the trials after it cannot be trusted. "
                    f"Keep the first {bad - 1} lines to go on from there, or start in another folder"
                )
            if not _is_operation(line):
                bad = number
    if bad:
        _cut_torn_tail(journal, last_line=True)


def _is_operation(line: bytes) -> bool:
    try:
        operation = json.loads(line)
    except ValueError:
        return False
    return isinstance(operation, dict) and {"op_code", "worker_id"} <= operation.keys()


@contextmanager
def open_storage(storage: str, folder: Path | None) -> Iterator[BaseStorage]:
    """The Optuna storage at an address, closed in the end; made when it is not there yet, by one process alone.

    Args:
        storage: see the module.
        folder: where the journal is.

    Raises:
        SpecError: not an address, or a journal without a folder.
        StudyError: the server, file or driver is not to be had.
    """
    opened = _open(storage, folder)
    try:
        yield opened
    finally:
        opened.remove_session()
        if hasattr(opened, "engine"):
            opened.engine.dispose()
        if hasattr(opened, "close"):
            opened.close()


def _open(storage: str, folder: Path | None) -> Any:
    scheme = storage.partition("://")[0].partition("+")[0]
    if storage == "journal":
        if folder is None:
            raise SpecError([Fault("search.storage", "journal", "needs a folder to stand in")])
        return _open_journal(folder / JOURNAL)
    if scheme == "sqlite":
        return _open_sqlite(storage)
    if scheme in ("postgresql", "postgres"):
        return _open_postgresql("postgresql+psycopg://" + storage.partition("://")[2])
    if scheme == "grpc":
        return _open_grpc(storage)
    rule = "must be journal, sqlite:///file, postgresql://user@host/database or grpc://host:port"
    raise SpecError([Fault("search.storage", shown(storage), rule)])


def _open_journal(journal: Path) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    with storage_errors(str(journal)):
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.touch()
        if os.name == "nt":
            # Windows has no flock: Optuna's lock file there, and the journal is repaired when it is opened.
            lock: Any = JournalFileOpenLock(str(journal))
        else:
            lock = JournalLock(journal)
        lock.acquire()
        try:
            check_journal(journal)
        finally:
            lock.release()
        with quiet():
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=lock))


def _open_sqlite(url: str) -> BaseStorage:
    path = Path(url.partition(":///")[2].partition("?")[0])
    if not path.name or ":memory:" in url:
        raise SpecError([Fault("search.storage", url, "names a file: sqlite:///relative.db or sqlite:////absolute.db")])
    with storage_errors(shown(url)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _file_lock(path.with_name(path.name + ".flock")):
            return _rdb(url, {"connect_args": {"timeout": BUSY}})


def _open_postgresql(url: str) -> BaseStorage:
    import sqlalchemy

    # Without an encoding psycopg gives bytes for the text of a database made in the C locale.
    connection_options = {"connect_timeout": int(CONNECT), "client_encoding": "utf8"}
    with storage_errors(shown(url)):
        try:
            engine = sqlalchemy.create_engine(url, connect_args=connection_options)
        except ImportError as error:
            raise StudyError(f"PostgreSQL needs psycopg: pip install 'psycopg[binary]' ({error})") from None
        try:
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_lock({ADVISORY})"))
                storage = _rdb(url, {"pool_pre_ping": True, "connect_args": connection_options})
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_unlock({ADVISORY})"))
                return storage
        finally:
            engine.dispose()


def _rdb(url: str, engine: dict[str, Any]) -> BaseStorage:
    from optuna.storages import RDBStorage

    with quiet():
        return RDBStorage(url, engine_kwargs=engine)


def _open_grpc(url: str) -> BaseStorage:
    from optuna.storages import GrpcStorageProxy

    try:
        host, port = urlsplit(url).hostname, urlsplit(url).port
    except ValueError:
        host = port = None
    if not host or not port:
        raise SpecError([Fault("search.storage", url, "must be grpc://host:port")])
    try:
        with quiet():
            proxy = GrpcStorageProxy(host=host, port=port)
            proxy.wait_server_ready(timeout=CONNECT)
    except ConnectionError:
        raise StudyError(f"no gRPC proxy of a storage answers at {url} (waited {CONNECT:g} s)") from None
    except ImportError as error:
        raise StudyError(f"the gRPC proxy needs grpcio and protobuf: pip install grpcio protobuf ({error})") from None
    return proxy


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    with path.open("ab") as handle:
        if os.name != "nt":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Failures of a storage as a ``StudyError`` that says which storage, and that nothing told is lost."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise StudyError(_explained(where, error)) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "grpc", "optuna", "psycopg", "sqlite3"):
            raise
        raise StudyError(_explained(where, error)) from error


def _explained(where: str, error: Exception) -> str:
    reason = str(getattr(error, "orig", None) or error.__cause__ or error).strip().splitlines()
    what = reason[0][:200] if reason else type(error).__name__
    return f"the search's storage {where}: {what}. Trials already told are kept; the same search goes on from them"


def shown(storage: str) -> str:
    """An address without its password."""
    head, at, tail = storage.rpartition("@")
    user = head.rpartition(":")[0] if head.count(":") > 1 else head
    return f"{user}{at}{tail}"[:200]
