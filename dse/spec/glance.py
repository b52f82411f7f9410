"""What a picker shows of a catalogue entry, without validating it: top-level lines of its file and its parents.

Reading and validating all entries takes seconds; a list of names must not. A test holds this against the full reading.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from dse.spec.catalogue import locate

LINE = re.compile(r"^(?P<key>\w+):[ \t]*(?P<value>.*)$", re.MULTILINE)
COMMENT = re.compile(r"(^|\s)#.*$")
GENERATIONS = 8  # of inheritance that are followed


def glance(kind: str, entry: str) -> dict[str, str]:
    """Top-level fields as text; those that hold other fields as the rest of their first line, which may be empty.

    Raises:
        SpecError: no such entry.
    """
    found: dict[str, str] = {}
    path = locate(kind, entry)
    for _ in range(GENERATIONS):
        own = _lines(path, path.stat().st_mtime_ns)
        found = {**own, **found}
        if "base" not in own:
            return found
        path = locate(kind, own["base"], base=path.parent)
    return found


def family(entry: str) -> str:
    """What kind of model an entry is."""
    seen = glance("model", entry)
    if seen.get("moe", "null") != "null":
        return "Mixtures of experts"
    return {"transformer": "Dense transformers", "dlrm": "Recommendation"}.get(seen.get("family", ""), "Convolution")


def vendor(cluster: str) -> str:
    """Who makes the accelerators of a cluster."""
    from dse.spec import load_cluster

    node = glance("cluster", cluster).get("node", "")
    device = glance("node", node).get("accelerator", "") if _is_id(node) else ""
    return glance("accelerator", device)["vendor"] if _is_id(device) else load_cluster(cluster).accelerator.vendor


def _is_id(text: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+", text))


@lru_cache(maxsize=1024)
def _lines(path: Path, _changed: int) -> dict[str, str]:
    matches = LINE.finditer(path.read_text(encoding="utf-8"))
    return {m["key"]: COMMENT.sub("", m["value"]).strip().strip("\"'") for m in matches}
