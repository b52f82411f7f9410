"""Traces that tables of recorded runs refer to by name: a folder of archives, or of what was in them."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from dse.errors import Fault, SpecError
from dse.spec.catalogue import asset_root
from dse.trace.columns import TraceSet


class Fixtures:
    """A folder of traces; archives in it are unpacked for as long as it is open."""

    def __init__(self, given: Path | str | None) -> None:
        shipped = asset_root("data") / "reference" / "astrasim" / "fixtures"
        self.given = shipped if given is None else Path(given)
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.read: dict[str, TraceSet] = {}

    def __enter__(self) -> Fixtures:
        if not self.given.exists():
            raise SpecError([Fault("fixtures", str(self.given)[-200:], "must be a folder, or an archive .tar.gz")])
        archives = [self.given] if self.given.is_file() else sorted(self.given.glob("*.tar.gz"))
        if archives:
            self.folder = tempfile.TemporaryDirectory(prefix="dse-fixtures-")
        for archive in archives:
            try:
                with tarfile.open(archive) as tar:
                    tar.extractall(Path(self.folder.name) / archive.name.split(".")[0], filter="data")
            except (OSError, tarfile.TarError, EOFError) as error:
                self.__exit__()
                raise SpecError([Fault("fixtures", archive.name, f"cannot be unpacked: {str(error)[:120]}")]) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder:
            self.folder.cleanup()

    def traces(self, name: str) -> TraceSet:
        """The traces whose rank 0 is the file of that name; each set is read once.

        Raises:
            SpecError: there is no such file, or it is not a trace.
        """
        from dse.trace import load

        if name not in self.read:
            folder = Path(self.folder.name) if self.folder else self.given
            found = sorted(path for path in folder.rglob(Path(name).name) if path.as_posix().endswith(f"/{name}"))
            if not found:
                raise SpecError([Fault("fixtures", str(self.given)[-200:], f"no file {name} in it")])
            self.read[name] = load(Path(str(found[0]).removesuffix(".0.et")))
        return self.read[name]
