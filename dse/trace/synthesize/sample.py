"""Drawing: a text of tokens, its loops unrolled, and for each event the nodes of the roles that take part in it."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import Trace, TraceSet
from dse.trace.schema import Kind
from dse.trace.synthesize import loops, values
from dse.trace.synthesize.layout import Layout
from dse.trace.synthesize.model import DEPTH, START, TraceModel
from dse.trace.synthesize.references import Waiting
from dse.trace.synthesize.tokens import Token

MOST = 20_000_000  # nodes of all roles together
TIMES = 3  # a text is not much longer than this many times the one learnt
NEAR, TRIES = 0.2, 32  # logarithm of length within which a text is taken, and how many are tried


def sample(model: TraceModel, *, ranks: int | None, length: float, model_size: float, seed: int) -> TraceSet:
    """See :meth:`~dse.trace.synthesize.model.TraceModel.sample`."""
    if ranks is not None and not 1 <= ranks <= 1 << 24:
        raise SpecError([Fault("ranks", str(ranks), f"must be 1 to {1 << 24}")])
    for name, value in (("length", length), ("model_size", model_size)):
        if not (math.isfinite(value) and 0 < value <= 1e6):
            raise SpecError([Fault(name, repr(value), "must be more than 0 and at most 1e6")])
    rng = np.random.default_rng(seed)
    layout = _layout(model, ranks, rng)
    if layout.nodes * length > MOST:
        raise SpecError([Fault("length", repr(length), f"makes more than {MOST:,} nodes")])
    items = _text(model, layout, length, rng)
    symbols, places = loops.unfold(items)
    drawn = _Draw(model, layout, model_size, rng)
    for symbol, place in zip(symbols, places, strict=True):
        drawn.event(symbol, place)
    drawn.finish()
    classes = tuple(part.trace(model, layout) for part in drawn.parts)
    used = {label for trace in classes for label in trace.labels}
    return TraceSet(classes, layout.roles, {n: t for n, t in layout.families.items() if n in used}, f"sample {seed}")


def _layout(model: TraceModel, ranks: int | None, rng: np.random.Generator) -> Layout:
    """One that was learnt with as many ranks; else one that can be stretched to them."""
    if ranks is None:
        return model.layouts[int(rng.integers(len(model.layouts)))]
    fits = [layout for layout in model.layouts if layout.ranks == ranks]
    faults = []
    if not fits:
        for layout in model.layouts:
            try:
                fits.append(layout.resized(ranks))
            except SpecError as error:
                faults += error.faults
    if not fits:
        raise SpecError(list(dict.fromkeys(faults)))
    return fits[int(rng.integers(len(fits)))]


def _allowed(model: TraceModel, layout: Layout) -> set[int]:
    """Tokens that make sense in a layout."""
    groups = {group for group, _ in layout.spans()}
    roles = int(layout.roles.max()) + 1
    sends = {(b - a, way) for (a, b), found in layout.offsets.items() for way in range(len(found))}
    takes = {(-step, way) for step, way in sends}
    out = set()
    for code, token in enumerate(model.tokens):
        if token.kind == -1:
            fits = token.delta < roles
        elif token.kind == Kind.COLL:
            fits = token.group in groups
        elif token.kind in (Kind.SEND, Kind.RECV):
            fits = (token.delta, token.way) in (sends if token.kind == Kind.SEND else takes)
        else:
            fits = True
        if fits:
            out.add(code)
    return out


def _text(model: TraceModel, layout: Layout, length: float, rng: np.random.Generator) -> list[loops.Item]:
    """A text whose length was learnt, its outermost loops as often as ``length`` asks for.

    Texts are drawn until one is as long as the layout's, within ``NEAR``, and has all roles; of ``TRIES`` the nearest
    is taken. A text without loops cannot be repeated inside: it follows itself until the length is there, and what is
    beyond the length is cut off.
    """
    tokens = _allowed(model, layout)
    real = {code for code in tokens if model.tokens[code].kind >= 0}
    if not real:
        raise SpecError([Fault("ranks", str(layout.ranks), "no node that was learnt fits this layout")])
    marks = {code for code in tokens if model.tokens[code].kind == -1}
    best, items = math.inf, []
    for _ in range(TRIES):
        drawn = _one(model, layout, tokens, real, rng)
        symbols, _ = loops.unfold(drawn)
        far = abs(math.log(max(len(symbols), 1) / layout.nodes)) + 10 * len(marks.difference(symbols))
        if far < best:
            best, items = far, drawn
        if best < NEAR:
            break
    if any(isinstance(item, loops.Loop) for item in items):
        return [_scaled(item, length, rng) for item in items]
    wanted = max(math.ceil(length * len(items)), 1)
    return (items * math.ceil(wanted / len(items)))[:wanted]


def _scaled(item: loops.Item, length: float, rng: np.random.Generator) -> loops.Item:
    if not isinstance(item, loops.Loop) or length == 1.0:
        return item
    return loops.Loop(item.body, max(int(item.count * length + rng.random()), 1))


def _one(
    model: TraceModel, layout: Layout, tokens: set[int], real: set[int], rng: np.random.Generator
) -> list[loops.Item]:
    """One text, up to its end mark or ``TIMES`` the length learnt."""
    style, longest = model.style_of(layout), TIMES * layout.nodes
    text: list[int] = [model.ends] * START
    counts: list[int] = []
    sizes = [0]  # nodes within each open bracket, loops unrolled
    while (sum(sizes) < longest and len(text) < longest) or len(sizes) > 1:
        full = sum(sizes) >= longest or len(text) >= longest
        allowed = {model.closes} if full else tokens | {model.opens} if len(sizes) <= DEPTH else set(tokens)
        if len(sizes) > 1 and sizes[-1]:
            allowed = allowed | {model.closes}
        elif len(sizes) == 1 and sizes[-1]:
            allowed = allowed | {model.ends}
        symbol = model.text.draw(text[-model.text.order :], rng, allowed, style)
        if symbol < 0:
            symbol = model.closes if full else sorted(real)[int(rng.integers(len(real)))]
        if symbol == model.ends:
            break
        if symbol == model.closes:
            count = model.loops.draw((style, *text[-2:]), rng)
            counts.append(count if count > 1 else 1 + int(rng.geometric(0.3)))
            inner = sizes.pop() * counts[-1]
            sizes[-1] += inner
        elif symbol == model.opens:
            sizes.append(0)
        else:
            sizes[-1] += symbol in real
        text.append(symbol)
    return loops.parse(text[START:], counts, model.opens, model.closes)


@dataclass
class _Part:
    """The nodes of one role as they grow."""

    token: list[int] = field(default_factory=list)
    parents: list[list[tuple[int, int]]] = field(default_factory=list)
    exact: list[tuple[float, float, float, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peer: list[tuple[int, int, int]] = field(default_factory=list)  # source, destination, tag
    waiting: Waiting = field(default_factory=Waiting)
    last: dict[int, int] = field(default_factory=dict)

    def trace(self, model: TraceModel, layout: Layout) -> Trace:
        """As columns."""
        n = len(self.token)
        tokens = [model.tokens[code] for code in self.token]
        names = {code: f"{model.tokens[code].code}{code}" for code in dict.fromkeys(self.token)}
        labels = list(dict.fromkeys(t.group for t in tokens if t.group in layout.families))
        involved = list(dict.fromkeys(t.dims for t in tokens if t.dims))
        streams = sorted({t.stream for t in tokens if t.stream >= 0})
        kind = np.array([t.kind for t in tokens], np.int8)
        exact = np.array(self.exact, float).reshape(n, 4)
        seconds = np.array(self.seconds, float)
        sized = (kind == Kind.COLL) | (kind == Kind.SEND) | (kind == Kind.RECV)
        peer = np.array(self.peer, np.int64).reshape(n, 3)
        data_ptr, data = _rows([[p for p, control in row if not control] for row in self.parents])
        ctrl_ptr, ctrl = _rows([[p for p, control in row if control] for row in self.parents])
        tier = [t.tier if 0 <= t.tier < len(layout.tiers) else -1 for t in tokens]
        place = {code: at for at, code in enumerate(names)}
        return Trace(
            ids=np.arange(n, dtype=np.uint64),
            kind=kind,
            name=np.array([place[code] for code in self.token], np.int32),
            start=np.zeros(n, np.uint64),
            micros=np.rint(seconds * 1e6).astype(np.uint64),
            seconds=seconds,
            data_ptr=data_ptr,
            data=data,
            ctrl_ptr=ctrl_ptr,
            ctrl=ctrl,
            cpu=np.array([t.cpu for t in tokens], np.int8),
            flops=np.rint(exact[:, 0]),
            bytes=np.rint(exact[:, 1]),
            coll=np.array([t.coll for t in tokens], np.int8),
            size=np.where(sized, np.rint(exact[:, 2]), -1).astype(np.int64),
            src=peer[:, 0],
            dst=peer[:, 1],
            tag=peer[:, 2],
            priority=exact[:, 3].astype(np.int64),
            group=np.array([labels.index(t.group) if t.group in labels else -1 for t in tokens], np.int32),
            dims=np.array([involved.index(t.dims) if t.dims else -1 for t in tokens], np.int32),
            stream=np.array([streams.index(t.stream) if t.stream >= 0 else -1 for t in tokens], np.int32),
            tier=np.array(tier, np.int32),
            names=tuple(names.values()),
            labels=tuple(labels),
            involved=tuple(involved),
            streams=tuple(f"s{s}" for s in streams),
            tiers=layout.tiers,
            relative=True,
        )


def _rows(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    pointers = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(row) for row in rows], out=pointers[1:])
    return pointers, np.array([p for row in rows for p in sorted(row)], np.int64)


class _Draw:
    """Events become nodes of roles; what would not be valid is left out."""

    def __init__(self, model: TraceModel, layout: Layout, model_size: float, rng: np.random.Generator) -> None:
        self.model, self.layout, self.rng = model, layout, rng
        self.grown = [[math.log(model_size) * e for e in row] for row in model.exponents]
        self.spans = layout.spans()
        self.parts = [_Part() for _ in range(int(layout.roles.max()) + 1)]
        self.role = 0
        self.sizes: dict[int, tuple[values.Sizes, float]] = {}
        self.pending: dict[tuple[int, int, int], deque[tuple[float, int]]] = defaultdict(deque)
        self.sent: dict[tuple[int, int, int], int] = defaultdict(int)
        self.takes: dict[tuple[int, int], int] = {}
        for code, token in enumerate(model.tokens):
            if token.kind == Kind.RECV:
                self.takes.setdefault((token.delta, token.way), code)

    def event(self, symbol: int, place: int) -> None:
        """The nodes of one event."""
        token = self.model.tokens[symbol]
        if token.kind == -1:
            self.role = token.delta
        elif token.kind == Kind.COLL:
            span = self.spans.get((token.group, self.role), ())
            value = self._values(symbol, place)
            for role in span:
                self._add(role, symbol, *value)
        elif token.kind == Kind.SEND:
            self._send(symbol, token, place)
        elif token.kind == Kind.RECV:
            self._receive((self.role + token.delta, self.role, token.way), symbol)
        else:
            self._add(self.role, symbol, *self._values(symbol, place))

    def _send(self, symbol: int, token: Token, place: int) -> None:
        to = self.role + token.delta
        channel = (self.role, to, token.way)
        known = self.layout.offsets.get(channel[:2], [])
        if token.way >= len(known) or (-token.delta, token.way) not in self.takes:
            return
        exact, seconds = self._values(symbol, place)
        tag = self._tag(channel)
        self.pending[channel].append((exact[2], tag))
        self._add(self.role, symbol, exact, seconds, (-1, known[token.way], tag))

    def _tag(self, channel: tuple[int, int, int]) -> int:
        """Messages of a channel count up."""
        self.sent[channel] += 1
        return self.sent[channel] - 1

    def _receive(self, channel: tuple[int, int, int], symbol: int) -> None:
        if not self.pending[channel]:
            return
        size, tag = self.pending[channel].popleft()
        offset = self.layout.offsets[channel[:2]][channel[2]]
        self._add(channel[1], symbol, (0.0, 0.0, size, 0.0), 0.0, (-offset, -1, tag))

    def finish(self) -> None:
        """Receive what is still on its way."""
        for channel in sorted(self.pending):
            while self.pending[channel]:
                self._receive(channel, self.takes[channel[0] - channel[1], channel[2]])

    def _values(self, symbol: int, place: int) -> tuple[tuple[float, float, float, float], float]:
        """Sizes and seconds: sizes mostly as at this place before, seconds around their mean."""
        known = self.model.values[symbol]
        if place not in self.sizes or self.rng.random() < known.changes:
            self.sizes[place] = values.draw(known, self.layout.number, self.rng)
        sizes, mean = self.sizes[place]
        centres, grown = self.layout.scale.centres(self.model.tokens[symbol].group), self.grown[symbol]
        exact = [_exp(x + c + g) for x, c, g in zip(sizes[:3], centres, grown, strict=False)]
        noise = known.noise if known.noise > values.LEAST_NOISE else 0.0
        seconds = _exp(mean + centres[3] + grown[3] + noise * self.rng.standard_normal()) if mean == mean else 0.0
        return (*exact, sizes[3]), seconds

    def _add(
        self,
        role: int,
        symbol: int,
        exact: tuple[float, float, float, float],
        seconds: float,
        peer: tuple[int, int, int] = (-1, -1, 0),
    ) -> None:
        part = self.parts[role]
        signature, code = self.model.references.draw(symbol, part.last.get(symbol, -1), self.rng)
        part.last[symbol] = code
        parents = part.waiting.find(symbol, signature)
        if signature and not parents and part.token:
            parents = [(len(part.token) - 1, 0)]  # what it would wait for is not there: it waits for the last node
        part.waiting.add(symbol, len(part.token))
        part.token.append(symbol)
        part.parents.append(parents)
        part.exact.append(exact)
        part.seconds.append(seconds)
        part.peer.append(peer)


def _exp(x: float) -> float:
    """Sizes are at most 2^53, which every number here can hold."""
    return 0.0 if x == -math.inf else min(max(math.exp(min(x, 36.0)), 0.0), 2.0**53)
