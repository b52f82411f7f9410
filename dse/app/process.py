"""A process that carries out a request, seen from its parent: what it tells, how it ended, and ending it.

It tells in frames over a pipe that nothing else writes to: one letter, the length, the content. The pipe that the
request goes through stays open as long as the parent lives.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from dse import errors
from dse.errors import StudyError

HEAD = struct.Struct("<cQ")  # kind of a frame and the length of what follows
COUNTS = struct.Struct("<QQ")  # done, total
REQUEST, PROGRESS, SCENE, ANSWERS, RESULT, ERROR = b"Q", b"P", b"S", b"A", b"R", b"E"
PATIENCE = 0.8  # s between asking a process to end and ending it
POSIX = os.name == "posix"


class Child:
    """The process, and the thread that listens to it: it only stores bytes, so that it hardly holds the interpreter.

    Attributes:
        begin, end: monotonic time; ``end`` is 0 while it runs.
        counts: when, done and total, of the first and of the last frame of progress.
        scene, answers, result: contents of the frames.
        ended: set when the process is gone and all that it told is here.
    """

    def __init__(self, request: bytes) -> None:
        self.begin, self.end = time.monotonic(), 0.0
        self.counts: tuple[tuple[float, int, int], ...] = ()
        self.answers: list[bytes] = []
        self.scene = self.result = self._fault = self._printed = b""
        self.ended = threading.Event()
        self._cancelled = False
        self._prints = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the thread
        paths = [str(path) or str(Path.cwd()) for path in sys.path]
        # A group, so that it can be ended with the workers that it starts, and Ctrl-C here does not reach it. Not a
        # session: Linux shares the processor out by session first, and by priority only within it.
        group: dict[str, Any] = {"process_group": 0} if POSIX else {}
        self._process = subprocess.Popen(
            # The safe path (-P): the folder that it is started in counts only where it counts here.
            [sys.executable, "-P", "-c", "from dse.app.work import main; main()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._prints, bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, **group,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(request,), name="job", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def state(self) -> str:
        """``running``, ``done``, ``failed`` or ``cancelled``."""
        if not self.ended.is_set():
            return "running"
        if self.result:
            return "done"
        return "cancelled" if self._cancelled and not self._fault else "failed"

    def cancel(self) -> None:
        """Ask the process and those that it started to end, and then end them."""
        for how in ("SIGTERM", "SIGKILL"):
            if not self.ended.is_set():
                self._cancelled = True
                self._signal(how)
                self.ended.wait(PATIENCE)

    def _signal(self, how: str) -> None:
        with contextlib.suppress(OSError):
            if POSIX:
                os.killpg(self._process.pid, getattr(signal, how))
            else:
                self._process.kill()

    def _listen(self, request: bytes) -> None:
        inward, outward = self._process.stdin, self._process.stdout
        with contextlib.suppress(OSError):  # it ended before it had read the request
            send(inward.fileno(), REQUEST, request)  # type: ignore[union-attr]
        while (frame := _frame(outward)) is not None:
            self._take(*frame)
        # The pipe closes when the process ends. Until it is waited for its number is not given to another one.
        self._signal("SIGKILL")
        self._process.wait()
        self.end = time.monotonic()
        with self._prints:
            self._prints.seek(0)
            self._printed = self._prints.read()[-20_000:]
        for pipe in (inward, outward):
            pipe.close()  # type: ignore[union-attr]
        self.ended.set()

    def _take(self, kind: bytes, content: bytes) -> None:
        if kind == PROGRESS:
            now = (time.monotonic(), *COUNTS.unpack(content))
            self.counts = (self.counts[0] if self.counts else now, now)
        elif kind == SCENE:
            self.scene = content
        elif kind == ANSWERS:
            self.answers.append(content)
        elif kind == RESULT:
            self.result = content
        elif kind == ERROR:
            self._fault = content

    def error(self) -> Exception:
        """Why there is no result."""
        if self._fault:
            name, content, _ = pickle.loads(self._fault)
            kind = getattr(errors, name or "StudyError", StudyError)
            return kind(content)  # type: ignore[no-any-return]
        if self._cancelled:
            return StudyError("cancelled")
        code = self._process.returncode
        if code is not None and code < 0:
            more = ": memory may have run out" if -code == 9 else ""
            return StudyError(f"the process of this job was killed ({signal.Signals(-code).name}){more}")
        last = self.trace().strip().splitlines()[-1:] or [f"exit code {code}"]
        return StudyError(f"the process of this job ended early: {last[0][:300]}")

    def trace(self) -> str:
        """Where it failed, or what it printed."""
        return str(pickle.loads(self._fault)[2]) if self._fault else self._printed.decode(errors="replace")


def send(pipe: int, kind: bytes, content: bytes) -> None:
    """Write a frame: whole or, where the writer is killed in the middle, dropped by the reader."""
    for part in (HEAD.pack(kind, len(content)), content):
        view = memoryview(part)
        while view:
            view = view[os.write(pipe, view) :]


def _frame(pipe: Any) -> tuple[bytes, bytes] | None:
    """The next whole frame; None at the end, where a frame may have been cut off."""
    head = exactly(pipe.fileno(), HEAD.size)
    if head is None:
        return None
    kind, length = HEAD.unpack(head)
    content = exactly(pipe.fileno(), length)
    return None if content is None else (kind, content)


def exactly(pipe: int, length: int) -> bytes | None:
    """So many bytes; None where the pipe ends before."""
    parts = bytearray()
    while len(parts) < length:
        part = os.read(pipe, min(length - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)
