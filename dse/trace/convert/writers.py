"""Who wrote a piece of memory last: data dependences from the tensors that operators take and give."""

from __future__ import annotations

from collections.abc import Iterable

from dse.trace.convert.host import Tensor


class Writers:
    """The last writers of every storage, by the range of elements that each wrote."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, int], list[tuple[int, int, int]]] = {}

    def read(self, tensors: Iterable[Tensor]) -> set[int]:
        """Nodes that wrote what these tensors show."""
        found = set()
        for tensor in tensors:
            low, high = tensor.offset, tensor.offset + tensor.count
            for start, end, node in self._of.get((tensor.device, tensor.storage), ()):
                if start < high and low < end:
                    found.add(node)
        return found

    def write(self, tensors: Iterable[Tensor], nodes: Iterable[int]) -> None:
        """These nodes wrote the tensors; what others wrote there before no longer counts."""
        nodes = list(nodes)
        for tensor in tensors:
            low, high = tensor.offset, tensor.offset + tensor.count
            if not nodes or low >= high:
                continue
            kept = []
            for start, end, node in self._of.get((tensor.device, tensor.storage), ()):
                if start < low:
                    kept.append((start, min(end, low), node))
                if end > high:
                    kept.append((max(start, high), end, node))
            self._of[tensor.device, tensor.storage] = kept + [(low, high, node) for node in nodes]
