"""The learnt model: what it consists of, and its file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError
from dse.study.export import write_atomically
from dse.trace.columns import TraceSet
from dse.trace.synthesize.backoff import Backoff
from dse.trace.synthesize.layout import Layout
from dse.trace.synthesize.references import References
from dse.trace.synthesize.tokens import Token
from dse.trace.synthesize.values import Token as Values

FORMAT, VERSION = "dse-trace-model", 1
START = 2  # end marks before each text, so that what comes first has a history
DEPTH = 6  # loops within loops


@dataclass
class TraceModel:
    """A generative model of trace sets; :mod:`dse.trace.synthesize` says what it is.

    Attributes:
        tokens: the alphabet; after it come the marks that open and close a loop and end the text.
        text: P(symbol | up to ``text.order`` symbols before it, style of the layout).
        loops: P(repetitions | style, last two symbols of the body).
        plain: the same texts without loops, at order 1, to compare with.
        references: dependences.
        values: sizes and durations of each token.
        exponents: of each token: how FLOP, bytes, message bytes and seconds grow with the size of the model.
        layouts: ranks, roles and groups of the trace sets learnt from.
    """

    tokens: list[Token]
    text: Backoff
    loops: Backoff
    plain: Backoff
    references: References
    values: list[Values]
    exponents: list[tuple[float, float, float, float]]
    layouts: list[Layout]

    @property
    def opens(self) -> int:
        """Mark that opens a loop; the next two close one and end the text."""
        return len(self.tokens)

    @property
    def closes(self) -> int:
        return len(self.tokens) + 1

    @property
    def ends(self) -> int:
        return len(self.tokens) + 2

    def style_of(self, layout: Layout) -> int:
        """The style of a layout's texts: the first learnt layout with the same roles and families; -1: none."""
        return next((at for at, known in enumerate(self.layouts) if known.style == layout.style), -1)

    def code_of(self) -> dict[Token, int]:
        """Token -> symbol."""
        return {token: code for code, token in enumerate(self.tokens)}

    def sample(self, ranks: int | None = None, length: float = 1.0, model_size: float = 1.0, seed: int = 0) -> TraceSet:
        """A new trace set that can be executed: every message has a receiver, groups agree on their collectives.

        Args:
            ranks: of the new set; None: of one of those learnt from.
            length: repetitions (micro-batches, layers), times those learnt.
            model_size: FLOP per token, times those learnt (sizes follow by the learnt or stated exponents).
            seed: of all that is drawn.

        Raises:
            SpecError: a number out of range, or ranks that no learnt layout can be stretched to.
        """
        from dse.trace.synthesize.sample import sample

        return sample(self, ranks=ranks, length=length, model_size=model_size, seed=seed)

    def save(self, path: Path | str) -> Path:
        """Write one JSON file.

        Raises:
            StudyError: it cannot be written.
        """
        text = json.dumps(self.to_dict(), separators=(",", ":"))
        return write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8") and None)

    @classmethod
    def load(cls, path: Path | str) -> TraceModel:
        """Read what :meth:`save` wrote.

        Raises:
            SpecError: it cannot be read, or is no model of traces.
        """
        where = str(path)[-200:]
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise SpecError([Fault("model", "", f"cannot be read: {error.strerror or error}", where)]) from None
        except ValueError:
            raise SpecError([Fault("model", "", "is not JSON", where)]) from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise SpecError([Fault("format", "", f'must be "{FORMAT}": not a model of traces', where)])
        if data.get("version") != VERSION:
            raise SpecError([Fault("version", repr(data.get("version"))[:20], f"must be {VERSION}", where)])
        try:
            return cls.from_dict(data)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise SpecError([Fault("model", "", f"is damaged: {error!r}"[:200], where)]) from None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "tokens": [list(token) for token in self.tokens],
            "text": self.text.to_dict(),
            "loops": self.loops.to_dict(),
            "plain": self.plain.to_dict(),
            "references": self.references.to_dict(),
            "values": [values.to_dict() for values in self.values],
            "exponents": self.exponents,
            "layouts": [layout.to_dict() for layout in self.layouts],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TraceModel:
        """What :meth:`to_dict` gave, after JSON."""
        tokens = [Token(*(tuple(x) if isinstance(x, list) else x for x in row)) for row in data["tokens"]]
        values = [Values.from_dict(row) for row in data["values"]]
        parts = (Backoff.from_dict(data[name]) for name in ("text", "loops", "plain"))
        model = cls(
            tokens,
            *parts,
            References.from_dict(data["references"]),
            values,
            [tuple(row) for row in data["exponents"]],
            [Layout.from_dict(layout) for layout in data["layouts"]],
        )
        if not (len(model.values) == len(model.exponents) == len(tokens)) or not model.layouts:
            raise ValueError("tables of different lengths")
        return model

    def __str__(self) -> str:
        ranks = ", ".join(str(layout.ranks) for layout in self.layouts)
        return (
            f"model of {len(self.layouts)} trace sets ({ranks} ranks): {len(self.tokens)} tokens, "
            f"{len(self.text.counts):,} histories, {len(self.references.signatures):,} signatures of dependences"
        )
