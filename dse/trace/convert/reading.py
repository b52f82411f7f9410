"""JSON files of other tools, plain or compressed."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError

LARGEST = 4 << 30  # bytes of a file once decompressed
WIDEST = 1 << 62  # numbers are below this on either side


def integer(value: Any, otherwise: int = -1) -> int:
    """A number of a file as an integer; ``otherwise`` for what is none, or too large to be meant."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return otherwise
    return number if -WIDEST < number < WIDEST else otherwise


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object that a JSON file holds; ``what`` names the file in messages.

    Raises:
        SpecError: the file cannot be read, is damaged, larger than 4 GiB, or holds no object.
    """
    where = str(path)[-200:]
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            data = (gzip.GzipFile(fileobj=raw) if packed else raw).read(LARGEST + 1)
        if len(data) > LARGEST:
            raise SpecError([Fault(what, "", f"is larger than {LARGEST} bytes", where)])
        # Escapes of single bytes, which some versions write in names, are no JSON but harmless.
        found = json.loads(data.decode("utf-8", errors="replace"), strict=False)
    except OSError as error:
        rule = f"cannot be read: {error.strerror or error}"
        raise SpecError([Fault(what, where, rule)]) from None
    except (ValueError, EOFError, zlib.error, RecursionError) as error:
        raise SpecError([Fault(what, "", f"is not JSON: {error}"[:200], where)]) from None
    if not isinstance(found, dict):
        raise SpecError([Fault(what, repr(found)[:60], "must be a JSON object", where)])
    return found
