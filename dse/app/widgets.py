"""The two custom pieces of the workbench: HTML that reports what is clicked, and figures that report what is brushed.

Plotly's own ``FigureWidget`` loses selections and carries the whole library in every figure; :class:`Plot` sends one
message for each brush and click, shares one copy of Plotly on the page, and always draws the latest figure only.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import anywidget
import traitlets

FRONT = Path(__file__).parent / "front"
LOG = logging.getLogger("dse")
LOG.addHandler(logging.NullHandler())  # faults are shown on the page; who wants their traces configures logging


class Html(anywidget.AnyWidget):
    """HTML whose elements with ``data-do`` call ``on_do(do, value)`` when they are clicked or changed."""

    _esm = FRONT / "html.js"
    html = traitlets.Unicode("").tag(sync=True)
    kind = traitlets.Unicode("").tag(sync=True)
    asks_theme = traitlets.Bool(False).tag(sync=True)

    def __init__(self, html: str = "", on_do: Callable[[str, Any], None] | None = None, **traits: Any) -> None:
        super().__init__(html=html, **traits)
        self._on_do = on_do
        self.on_msg(self._receive)

    def _receive(self, _widget: Any, message: Any, _buffers: Any) -> None:
        if self._on_do and isinstance(message, dict) and isinstance(message.get("do"), str):
            self._on_do(message["do"], message.get("value"))


class Plot(anywidget.AnyWidget):
    """A Plotly figure on the page; ``on_event`` gets each ``click`` and brush (``brush``, ``ranges``, ``clear``)."""

    _esm = FRONT / "plot.js"
    figure = traitlets.Unicode("").tag(sync=True)
    revision = traitlets.Int(0).tag(sync=True)
    key = traitlets.Unicode().tag(sync=True)
    seen = traitlets.Bool(True)  # is it in sight? the page says

    def __init__(self, figure: Any = None, on_event: Callable[[dict[str, Any]], None] | None = None) -> None:
        super().__init__(key=uuid.uuid4().hex)
        self._on_event = on_event
        self._seen_at = 0.0
        self.on_msg(self._receive)
        if figure is not None:
            self.show(figure)

    def show(self, figure: Any, revision: int | None = None) -> None:
        """Draw a figure (a ``go.Figure`` or its JSON); an equal one only takes the new revision."""
        text = figure if isinstance(figure, str) else figure.to_json()
        with self.hold_sync():
            self.figure = text
            self.revision = self.revision + 1 if revision is None else revision

    def _receive(self, _widget: Any, message: Any, _buffers: Any) -> None:
        if not isinstance(message, dict):
            return
        if message.get("type") == "plotly":
            self.send({"type": "plotly"}, buffers=[library()])
        elif message.get("type") == "seen":
            if message["at"] >= self._seen_at:
                self._seen_at, self.seen = message["at"], bool(message["seen"])
        elif self._on_event:
            self._on_event(message)


@lru_cache(maxsize=1)
def library() -> bytes:
    """Plotly's JavaScript, as the installed package ships it."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().encode()
