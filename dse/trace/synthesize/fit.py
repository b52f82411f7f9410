"""Learning: trace sets become texts of tokens with loops, and the texts, dependences and values are counted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dse.errors import Fault, SpecError
from dse.trace.columns import TraceSet
from dse.trace.schema import Kind
from dse.trace.synthesize import loops, values
from dse.trace.synthesize.backoff import Backoff
from dse.trace.synthesize.events import joint
from dse.trace.synthesize.job import Job, describe
from dse.trace.synthesize.layout import Layout
from dse.trace.synthesize.model import START, TraceModel
from dse.trace.synthesize.references import References, Signature, Waiting
from dse.trace.synthesize.tokens import NO_BIN, Token, role_mark

ORDER = 24  # symbols of history
HALF = ("norm", "activation", "elementwise", "copy", "reduction", "embedding", "loss")
WEIGHTS = ("gradient", "optimizer")
APART = 0.2  # logarithm of size from which trace sets of one layout tell how things grow


@dataclass
class Reading:
    """A job in the symbols of an alphabet.

    Attributes:
        plain: symbols in order, marks of roles included.
        text, counts: the same with loops, and their repetitions; without the end mark.
        streams: of each role, the token and the signature of each node in order.
        leaves: nodes by place in the text.
        depth: length of the longest chain of dependences that ends at each node.
        degree: dependences of each node.
    """

    job: Job
    plain: list[int]
    text: list[int]
    counts: list[int]
    streams: list[list[tuple[int, Signature]]]
    leaves: list[values.Leaf]
    depth: list[int]
    degree: list[int]


def read(job: Job, code_of: dict[Token, int], *, grow: bool, number: int = -1) -> Reading:
    """A job (of that number) as symbols. Tokens that are not in the alphabet are added to it if it may ``grow``; else
    they are the last symbol."""
    unknown = len(code_of)

    def code(token: Token) -> int:
        if grow:
            return code_of.setdefault(token, len(code_of))
        return code_of.get(token, unknown + 3)

    plain: list[int] = []
    nodes: list[tuple[int, int] | None] = []
    role = 0
    for at, row in job.events:
        if at != role:
            plain.append(code(role_mark(at)))
            nodes.append(None)
            role = at
        plain.append(code(job.programs[at].tokens[row]))
        nodes.append((at, row))
    items = loops.fold(plain)
    _, places = loops.unfold(items)
    opens = -1
    text, counts = loops.write(items, opens, opens - 1)
    streams, depth, degree = _streams(job, code)
    return Reading(job, plain, text, counts, streams, _leaves(job, plain, nodes, places, number), depth, degree)


def _streams(job: Job, code) -> tuple[list[list[tuple[int, Signature]]], list[int], list[int]]:  # type: ignore[no-untyped-def]
    """Dependences of each role's nodes in order, by name; with each node's depth and degree."""
    order: list[dict[int, int]] = [{} for _ in job.programs]
    for role, rows in enumerate(_rows(job)):
        order[role] = {row: at for at, row in enumerate(rows)}
    streams, depths, degrees = [], [], []
    for role, program in enumerate(job.programs):
        pointers, parents, control = (part.tolist() for part in program.parents)
        waiting, stream, depth = Waiting(), [], {}
        for row, at in order[role].items():
            token = code(program.tokens[row])
            here = range(pointers[row], pointers[row + 1])
            found = [(order[role][parents[i]], code(program.tokens[parents[i]]), control[i]) for i in here]
            stream.append((token, waiting.name(token, found)))
            waiting.add(token, at)
            depth[at] = 1 + max((depth[p] for p, _, _ in found), default=0)
            degrees.append(len(found))
        streams.append(stream)
        depths += depth.values()
    return streams, depths, degrees


def _rows(job: Job) -> list[list[int]]:
    """Rows of each role in the order of events; collectives of several roles are in each of them."""
    together = joint(job)
    rows: list[list[int]] = [[] for _ in job.programs]
    for event in job.events:
        for role, row in together.get(event, (event,)):
            rows[role].append(row)
    return rows


def _leaves(
    job: Job, plain: list[int], nodes: list[tuple[int, int] | None], places: list[int], number: int
) -> list[values.Leaf]:
    centres = [np.array([job.scale.centres(group) for group in program.groups]) for program in job.programs]
    relative = [
        values.relative(program.exact, program.seconds, centre)
        for program, centre in zip(job.programs, centres, strict=True)
    ]
    by_place: dict[int, list[tuple[int, int]]] = defaultdict(list)
    token_at: dict[int, int] = {}
    for node, token, place in zip(nodes, plain, places, strict=True):
        if node is not None:
            by_place[place].append(node)
            token_at[place] = token
    out = []
    for place, members in by_place.items():
        for role in sorted({role for role, _ in members}):
            rows = [row for r, row in members if r == role]
            sizes, seconds = relative[role]
            centre = tuple(centres[role][rows[0]].tolist())
            out.append(values.Leaf(token_at[place], number, sizes[rows], seconds[rows], centre))
    return out


def learn(trace_sets: Sequence[TraceSet], *, order: int = ORDER, seed: int = 0) -> TraceModel:
    """Learn a model from trace sets.

    Args:
        trace_sets: at least one.
        order: symbols of history that the next is predicted from, 1 to 64.
        seed: without effect, since counting draws nothing; there so that all calls look alike.

    Raises:
        SpecError: no trace sets, one without nodes, or one that cannot be executed.
    """
    trace_sets = list(trace_sets)
    if not trace_sets:
        raise SpecError([Fault("trace_sets", "", "at least one is needed to learn from")])
    if not 1 <= order <= 64:
        raise SpecError([Fault("order", str(order), "must be 1 to 64")])
    jobs = [describe(traces) for traces in trace_sets]
    code_of: dict[Token, int] = {}
    readings = [read(job, code_of, grow=True, number=number) for number, job in enumerate(jobs)]
    tokens = list(code_of)
    opens, closes, ends = len(tokens), len(tokens) + 1, len(tokens) + 2
    marks = {-1: opens, -2: closes}
    texts = [[ends] * START + [marks.get(symbol, symbol) for symbol in reading.text] + [ends] for reading in readings]
    leaves = [leaf for reading in readings for leaf in reading.leaves]
    tiers = [tuple(dict.fromkeys(name for trace in traces.classes for name in trace.tiers)) for traces in trace_sets]
    layouts = [Layout.of(job, names, at) for at, (job, names) in enumerate(zip(jobs, tiers, strict=True))]
    known = [layout.style for layout in layouts]
    styles = [known.index(style) for style in known]
    found = zip(texts, readings, styles, strict=True)
    pairs = [pair for text, reading, style in found for pair in closings(text, reading.counts, closes, style)]
    return TraceModel(
        tokens,
        Backoff.fit(texts, order, len(tokens) + 3, styles),
        Backoff.of_pairs(pairs, 3, 0),
        Backoff.fit([[*reading.plain, ends] for reading in readings], 1, len(tokens) + 3),
        References.fit([stream for reading in readings for stream in reading.streams], len(tokens)),
        values.fit(leaves, len(tokens)),
        exponents(tokens, readings, layouts),
        layouts,
    )


def closings(text: list[int], counts: list[int], closes: int, style: int) -> list[tuple[tuple[int, ...], int]]:
    """What each loop's repetitions are predicted from (style, last two symbols of the body), and the repetitions."""
    ends = [at for at, symbol in enumerate(text) if symbol == closes]
    return [((style, *text[at - 2 : at]), count) for at, count in zip(ends, counts, strict=True)]


def assumed(token: Token) -> tuple[float, float, float, float]:
    """How FLOP, bytes, message bytes and seconds grow with FLOP per token, where traces do not say: the model becomes
    wider, so that products of matrices and weights grow by 1 and what is done with each activation by 1/2."""
    if token.kind == Kind.COLL or token.kind in (Kind.SEND, Kind.RECV):
        weights = 1.0 if token.group.startswith("sparse") else 0.5
        return 0.0, 0.0, weights, weights
    if token.family in HALF or token.kind in (Kind.MEM_LOAD, Kind.MEM_STORE):
        return 0.5, 0.5, 0.0, 0.5
    return 1.0, 1.0 if token.family in WEIGHTS else 0.5, 0.0, 1.0


def exponents(
    tokens: list[Token], readings: list[Reading], layouts: list[Layout]
) -> list[tuple[float, float, float, float]]:
    """How each token's FLOP, bytes, message bytes and seconds grow with the mean FLOP of its trace set.

    The slope of logarithms (least squares within sets of one layout, since a layout changes sizes too, kept within
    0 ... 2) where a layout was learnt at two sizes that differ by 20 % or more; else :func:`assumed`.
    """
    plain = [token._replace(work=NO_BIN) for token in tokens]  # work relative to others changes with the size
    points: dict[tuple[Token, int, object], list[tuple[float, float]]] = defaultdict(list)
    for reading, layout in zip(readings, layouts, strict=True):
        scale = reading.job.scale
        size = scale.work or scale.seconds
        means: dict[tuple[Token, int], list[float]] = defaultdict(list)
        for leaf in reading.leaves:
            logs = np.concatenate([leaf.sizes[:, :3], np.mean(leaf.seconds, axis=1)[:, None]], axis=1)
            for at, add in enumerate(leaf.centres):
                means[plain[leaf.token], at] += (logs[:, at] + add).tolist()
        for (token, at), found in means.items():
            kept = [x for x in found if x == x]
            if kept:
                points[token, at, layout.shape].append((size, float(np.mean(kept))))
    sums: dict[tuple[Token, int], np.ndarray] = defaultdict(lambda: np.zeros(2))
    for (token, at, _), found in points.items():
        x, y = np.array(found).T
        if np.ptp(x) >= APART:
            sums[token, at] += [np.sum((x - x.mean()) * (y - y.mean())), np.sum((x - x.mean()) ** 2)]
    out = []
    for token in plain:
        row = list(assumed(token))
        for at in range(4):
            if (token, at) in sums:
                row[at] = round(min(max(float(sums[token, at][0] / sums[token, at][1]), 0.0), 2.0), 6)
        out.append(tuple(row))
    return out
