"""The compiled cycle model of :mod:`dse.domains.vegeta.timing`: one pass over a program, in program order.

Instructions enter in order and retire in order. Loads share one path in program order. A matrix instruction that has
entered is pending until it is chosen to start; its times are known from then on. Nothing is chosen before all that
could enter by then has entered: what is left outside waits for an instruction that has not started.

Times of the core are in its cycles, those of the array in engine cycles. Each is a maximum or a sum of earlier ones:
with matrix instructions in program order, nothing that is faster can make the whole slower. In order of readiness it
can, as in any list schedule: what starts first may keep back what others wait for.

All that is known stands in a few arrays with named columns.
"""

from __future__ import annotations

import numpy as np

from dse.domains.vegeta.encode import CODE
from dse.domains.vegeta.program import Op
from dse.jit import njit

# What a bubble in FF is put down to. The first three are of the array, the others say why an operand came late.
CAUSES = (
    "weights",  # WL is not done
    "dependence",  # C of an earlier instruction
    "stages",  # FS or DR hold one instruction at a time
    "bandwidth",  # a load waited for the loads and stores before it
    "latency",  # a load began as soon as it could enter
    "run-ahead",  # it could not enter: no room in the reorder buffer
    "load buffer",  # it could not enter: no room in the load buffer
    "registers",  # it could not enter: no free register, or the old value was still needed
    "memory",  # it loads what an earlier store writes
    "issue",  # the core had not come to it
)
OPERANDS = ("none", "weights", "a", "metadata", "b", "c", "sum", "entry")  # what came last
_WEIGHTS, _DEPENDENCE, _STAGES, _BANDWIDTH, _LATENCY, _RUN_AHEAD, _BUFFER, _REGISTERS, _MEMORY, _ISSUE = range(10)
_LOAD, _LOAD_M, _LOAD_RP, _STORE, _ZERO, _GEMM, _SPMM, _SPMM_R = (int(op) for op in Op)

# design: its numbers
SETTING = ("wl", "ff", "interval", "tail", "dependence", "hold", "bypass", "ratio", "width", "run_ahead", "rate",
           "latency", "buffer", "shared", "rename", "ready")  # fmt: skip
(_WL, _FF, _INTERVAL, _TAIL, _DEP, _HOLD, _BYPASS, _RATIO, _WIDTH, _AHEAD, _RATE, _LAT, _LINES, _SHARED, _RENAME,
 _READY) = range(len(SETTING))  # fmt: skip
# Columns of the other arrays. In floating ones, whole numbers name instructions, registers and causes; -1 is none.
_OP, _DST, _SRC_A, _SRC_B, _SRC_M, _REGS, _SLOT, _MOVED, _B_REGS = range(len(CODE))  # code: see encode
_ENTERED, _DONE, _RETIRED, _LINK = range(4)  # life: core cycles; and the matrix instruction whose result a store writes
_TIME, _WHY, _PRODUCER, _VERSION, _READ = range(5)  # tile: when it is there, or what will write it; read up to
_META_READ = 4  # meta: when positions and row patterns are there, why then, read up to
_ENTRY, _A, _M, _B, _C = range(5)  # wait, of what is pending: when it entered and operands come, then the causes (+ 5)
_NUMBER, _AT, _SUM, _VERSION_A, _REG_A, _REG_M, _REG_B, _REGS_B = range(10, 18)
WAIT = 18
_WL_START, _WL_END, _FF_START, _OPERAND, _CAUSE = range(5)  # out: of matrix instructions
# one: single numbers, then engine cycles without FF by cause
(_WL_FREE, _FF_FREE, _LAST, _PATH, _STORES, _END, _PENDING, _GONE, _NEXT, _LAST_VERSION, _BLAMED, _TAKEN, _FREED,
 _FREED_AT, _ASKED, _GIVEN, _GIVEN_AT, STALLS) = range(18)  # fmt: skip

# Steps only look at arrays that ``run`` owns: without reference counts and calls they are ten times as fast.
_step = njit(error_model="numpy", forceinline=True, _nrt=False)


@_step
def _edge(time, ratio):
    """The first engine cycle that starts no earlier than a time of the core."""
    return np.ceil(time * ratio - 1e-6)


@_step
def _earliest(p, design, one, wait, out):
    """Earliest start of WL, its end, and start of FF of a pending instruction; infinite while its C is not known."""
    ratio, c = design[_RATIO], _edge(wait[p, _C], design[_RATIO])
    producer = int(wait[p, _SUM])
    if producer >= 0:
        if out[producer, _FF_START] < 0.0:
            return np.inf, np.inf, np.inf
        c = max(c, out[producer, _FF_START] + design[_DEP])
    wl = max(one[_WL_FREE], _edge(max(wait[p, _ENTRY], max(wait[p, _A], wait[p, _M])), ratio))
    same = design[_BYPASS] > 0.0 and wait[p, _VERSION_A] == one[_LAST_VERSION]
    loaded = wl if same else wl + design[_WL]
    return wl, loaded, max(max(loaded, one[_FF_FREE]), max(c, _edge(wait[p, _B], ratio)))


@_step
def _blame(p, wl, ff, design, one, wait, out):
    """What the start of FF waited for: operand and cause."""
    ratio, producer = design[_RATIO], int(wait[p, _SUM])
    if one[_LAST] < 0.0 or ff == one[_LAST] + design[_FF]:
        return 0, -1
    if producer >= 0 and ff == out[producer, _FF_START] + design[_DEP]:
        return 6, _DEPENDENCE
    if ff == _edge(wait[p, _C], ratio):
        return 5, int(wait[p, _C + 5])
    if ff == _edge(wait[p, _B], ratio):
        return 4, int(wait[p, _B + 5])
    if ff == one[_FF_FREE]:
        return 1, _STAGES
    if wl == one[_WL_FREE]:
        return 1, _WEIGHTS
    if wl == _edge(wait[p, _A], ratio):
        return 2, int(wait[p, _A + 5])
    if wl == _edge(wait[p, _M], ratio):
        return 3, int(wait[p, _M + 5])
    return 7, int(wait[p, _ENTRY + 5])


@_step
def _start(design, one, life, tile, meta, wait, out):
    """Start the pending instruction that can start first; of several, or with program order, the oldest."""
    p, ratio = 0, design[_RATIO]
    wl, loaded, ff = _earliest(0, design, one, wait, out)
    if design[_READY] > 0.0:
        for q in range(1, int(one[_PENDING])):
            if ff <= one[_FF_FREE]:
                break
            other_wl, other_loaded, other_ff = _earliest(q, design, one, wait, out)
            if other_ff < ff:
                p, wl, loaded, ff = q, other_wl, other_loaded, other_ff
    number, at = int(wait[p, _NUMBER]), int(wait[p, _AT])
    operand, cause = _blame(p, wl, ff, design, one, wait, out)
    out[number, _OPERAND], out[number, _CAUSE] = operand, cause
    if cause >= 0:
        one[STALLS + cause] += ff - one[_LAST] - design[_FF]
    out[number, _WL_START], out[number, _WL_END], out[number, _FF_START] = wl, loaded, ff
    life[at, _DONE] = (ff + design[_TAIL]) / ratio
    one[_END] = max(one[_END], life[at, _DONE])
    a, m, b = int(wait[p, _REG_A]), int(wait[p, _REG_M]), int(wait[p, _REG_B])
    tile[a, _READ] = max(tile[a, _READ], loaded / ratio)
    if m >= 0:
        meta[m, _META_READ] = max(meta[m, _META_READ], loaded / ratio)
    for r in range(b, b + int(wait[p, _REGS_B])):
        tile[r, _READ] = max(tile[r, _READ], (ff + design[_FF]) / ratio)
    one[_WL_FREE], one[_FF_FREE], one[_LAST] = ff + design[_HOLD], ff + design[_INTERVAL], ff
    one[_LAST_VERSION] = wait[p, _VERSION_A]
    one[_PENDING] -= 1.0
    for q in range(p, int(one[_PENDING])):
        for column in range(WAIT):
            wait[q, column] = wait[q + 1, column]


@_step
def _settle(number, design, one, life, tile, meta, wait, out):
    """Start instructions until this one has; returns the core cycle at which it has drained."""
    while out[number, _FF_START] < 0.0:
        _start(design, one, life, tile, meta, wait, out)
    return (out[number, _FF_START] + design[_TAIL]) / design[_RATIO]


@_step
def _retire(code, last, design, one, life, out):
    """Retire instructions before ``last`` in order, up to the first whose end is not known."""
    width, i = int(design[_WIDTH]), int(one[_GONE])
    while i < last:
        if code[i, _OP] == _STORE:
            producer = int(life[i, _LINK])
            if producer >= 0:
                if out[producer, _FF_START] < 0.0:
                    break
                life[i, _DONE] = max(life[i, _DONE], (out[producer, _FF_START] + design[_TAIL]) / design[_RATIO])
            one[_STORES] = max(life[i, _DONE], one[_STORES]) + code[i, _MOVED] / design[_RATE]
            one[_END] = max(one[_END], one[_STORES])
        elif life[i, _DONE] < 0.0:
            break
        when = life[i, _DONE]
        if i > 0:
            when = max(when, life[i - 1, _RETIRED])
        if i >= width:
            when = max(when, life[i - width, _RETIRED] + 1.0)
        life[i, _RETIRED] = when
        i += 1
    one[_GONE] = i


@_step
def _written(code, i):
    """Tile registers that an instruction writes."""
    kind = code[i, _OP]
    if kind in (_LOAD, _ZERO, _SPMM_R):
        return code[i, _REGS]
    return 1 if kind >= _GEMM else 0


@_step
def _gate(code, i, design, one):
    """The youngest instruction that must have retired before this one enters, and why."""
    gate, why = i - int(design[_AHEAD]), _RUN_AHEAD
    if design[_RENAME] > 0.0:
        one[_TAKEN] += _written(code, i)
        at = int(one[_FREED_AT])
        while one[_FREED] < one[_TAKEN] - design[_RENAME] and at < i:
            one[_FREED] += _written(code, at)
            at += 1
        one[_FREED_AT] = at
        if at - 1 > gate:
            gate, why = at - 1, _REGISTERS
    if design[_LINES] > 0.0 and code[i, _OP] <= _LOAD_RP:
        one[_ASKED] += code[i, _MOVED]
        at = int(one[_GIVEN_AT])
        while one[_GIVEN] < one[_ASKED] - design[_LINES] and at < i:
            if code[at, _OP] <= _LOAD_RP:
                one[_GIVEN] += code[at, _MOVED]
            at += 1
        one[_GIVEN_AT] = at
        if at - 1 > gate:
            gate, why = at - 1, _BUFFER
    return gate, why


@_step
def _overwritten(code, i, design, one, life, tile, meta, wait, out):
    """Core cycle at which the old values of the registers that are to be written are there and have been read."""
    kind, first, free, p = code[i, _OP], code[i, _DST], 0.0, 0
    small = kind in (_LOAD_M, _LOAD_RP)
    last = first + (1 if small else code[i, _REGS])
    while p < int(one[_PENDING]):  # start all that read them
        reads = first <= wait[p, _REG_M] < last
        if not small:
            reads = first <= wait[p, _REG_A] < last
            reads = reads or (wait[p, _REG_B] < last and first < wait[p, _REG_B] + wait[p, _REGS_B])
        if reads:
            _settle(int(wait[p, _NUMBER]), design, one, life, tile, meta, wait, out)
            p = 0
        else:
            p += 1
    if small:
        return max(meta[first, _META_READ], meta[first, kind - _LOAD_M])
    for r in range(first, last):
        free = max(free, max(tile[r, _READ], tile[r, _TIME]))
        if tile[r, _PRODUCER] >= 0:
            free = max(free, _settle(int(tile[r, _PRODUCER]), design, one, life, tile, meta, wait, out))
    return free


@_step
def _enter(code, i, stored, design, one, life, tile, meta, wait, out):
    """Core cycle at which an instruction enters; ``one[_BLAMED]`` keeps what the stream last waited for."""
    width = int(design[_WIDTH])
    gate, why = _gate(code, i, design, one)
    while one[_GONE] <= gate:
        _retire(code, i, design, one, life, out)
        if one[_GONE] <= gate:
            _start(design, one, life, tile, meta, wait, out)
    time = life[i - 1, _ENTERED] if i > 0 else 0.0
    if i >= width:
        time = max(time, life[i - width, _ENTERED] + 1.0)
    if gate >= 0 and life[gate, _RETIRED] > time:
        time, one[_BLAMED] = life[gate, _RETIRED], why
    kind = code[i, _OP]
    if design[_RENAME] == 0.0 and (kind <= _LOAD_RP or kind == _ZERO):
        free = _overwritten(code, i, design, one, life, tile, meta, wait, out)
        if free > time:
            time, one[_BLAMED] = free, _REGISTERS
    if kind == _LOAD and stored[code[i, _SLOT]] >= 0:
        store = stored[code[i, _SLOT]]
        there, producer = life[store, _DONE], int(life[store, _LINK])
        if producer >= 0:
            there = max(there, _settle(producer, design, one, life, tile, meta, wait, out))
        if there > time:
            time, one[_BLAMED] = there, _MEMORY
    life[i, _ENTERED] = time
    return time


@_step
def _hold(tile, first, width, time, why, producer, version):
    """What tile registers hold from now on."""
    for r in range(first, first + width):
        tile[r, _TIME], tile[r, _WHY], tile[r, _PRODUCER], tile[r, _VERSION] = time, why, producer, version


@_step
def _load(code, i, time, design, one, life, tile, meta):
    """A load on the path after all earlier ones."""
    why, kind, first = one[_BLAMED], code[i, _OP], code[i, _DST]
    if one[_PATH] > time:
        time, why = one[_PATH], float(_BANDWIDTH)
    elif why == _ISSUE:
        why = float(_LATENCY)
    one[_PATH] = time + code[i, _MOVED] / design[_RATE]
    there = one[_PATH] + design[_LAT]
    life[i, _DONE] = there
    one[_END] = max(one[_END], there)
    if kind == _LOAD:
        _hold(tile, first, code[i, _REGS], there, why, -1, i)
    else:
        meta[first, kind - _LOAD_M], meta[first, kind - _LOAD_M + 2] = there, why


@_step
def _ready(first, width, keep, design, one, life, tile, meta, wait, out):
    """When tile registers are there, why then, and the youngest producer of theirs, which is left out if ``keep``.

    Where C has several producers, all but the youngest are settled: kernels never come to that.
    """
    youngest, time, why = -1, 0.0, float(_ISSUE)
    if keep:
        for r in range(first, first + width):
            youngest = max(youngest, int(tile[r, _PRODUCER]))
    for r in range(first, first + width):
        there, late, producer = tile[r, _TIME], tile[r, _WHY], int(tile[r, _PRODUCER])
        if producer >= 0 and producer != youngest:
            there, late = _settle(producer, design, one, life, tile, meta, wait, out), float(_DEPENDENCE)
        if there > time:
            time, why = there, late
    return time, why, youngest


@_step
def _store(code, i, time, stored, design, one, life, tile, meta, wait, out):
    """A store: its data may still be in the array."""
    there, _, producer = _ready(code[i, _SRC_A], code[i, _REGS], True, design, one, life, tile, meta, wait, out)
    life[i, _DONE], life[i, _LINK] = max(there, time), producer
    stored[code[i, _SLOT]] = i
    if design[_SHARED] > 0.0:
        one[_PATH] = max(one[_PATH], time) + code[i, _MOVED] / design[_RATE]


@_step
def _matrix(code, i, time, design, one, life, tile, meta, wait, out):
    """A matrix instruction becomes pending."""
    first, width, a, m = code[i, _DST], _written(code, i), code[i, _SRC_A], code[i, _SRC_M]
    b, b_width = code[i, _SRC_B], code[i, _B_REGS]
    at_a, why_a, _ = _ready(a, 1, False, design, one, life, tile, meta, wait, out)
    at_b, why_b, _ = _ready(b, b_width, False, design, one, life, tile, meta, wait, out)
    at_c, why_c, producer = _ready(first, width, True, design, one, life, tile, meta, wait, out)
    at_m, why_m = 0.0, float(_ISSUE)
    if m >= 0:
        at_m, why_m = meta[m, 0], meta[m, 2]
        if code[i, _OP] == _SPMM_R and meta[m, 1] > at_m:
            at_m, why_m = meta[m, 1], meta[m, 3]
    p, number = int(one[_PENDING]), one[_NEXT]
    wait[p, _ENTRY], wait[p, _A], wait[p, _M], wait[p, _B], wait[p, _C] = time, at_a, at_m, at_b, at_c
    wait[p, _ENTRY + 5], wait[p, _A + 5], wait[p, _M + 5], wait[p, _B + 5] = one[_BLAMED], why_a, why_m, why_b
    wait[p, _C + 5], wait[p, _NUMBER], wait[p, _AT], wait[p, _SUM] = why_c, number, i, producer
    wait[p, _VERSION_A], wait[p, _REG_A], wait[p, _REG_M] = tile[a, _VERSION], a, m
    wait[p, _REG_B], wait[p, _REGS_B] = b, b_width
    _hold(tile, first, width, 0.0, float(_DEPENDENCE), number, i)
    one[_NEXT] += 1.0
    one[_PENDING] += 1.0
    if design[_READY] == 0.0:
        _start(design, one, life, tile, meta, wait, out)


@njit(cache=True, error_model="numpy")
def run(code, design, registers, meta_registers, slots, matrix):
    """Run one design.

    Args:
        code: the program, see :func:`~dse.domains.vegeta.encode.encode`.
        design: its numbers [``SETTING``].
        registers, meta_registers, slots, matrix: how many tile and metadata registers, addresses and matrix
            instructions there are.

    Returns:
        Engine cycles until all is done; start and end of WL, start of FF, operand and cause [matrix instruction, 5];
        engine cycles without FF [cause].
    """
    n = code.shape[0]
    one = np.zeros(STALLS + len(CAUSES))
    one[_LAST], one[_LAST_VERSION], one[_BLAMED] = -1.0, -1.0, _ISSUE
    life, tile, meta = np.full((n, 4), -1.0), np.zeros((registers, 5)), np.zeros((meta_registers, 5))
    for r in range(registers):
        _hold(tile, r, 1, 0.0, float(_ISSUE), -1, -2 - r)
    meta[:, 2:4] = _ISSUE
    wait = np.zeros((int(design[_AHEAD]) if design[_READY] > 0.0 else 1, WAIT))
    out, stored = np.full((matrix, 5), -1.0), np.full(slots, -1)
    for i in range(n):
        time = _enter(code, i, stored, design, one, life, tile, meta, wait, out)
        kind = code[i, _OP]
        if kind <= _LOAD_RP:
            _load(code, i, time, design, one, life, tile, meta)
        elif kind == _STORE:
            _store(code, i, time, stored, design, one, life, tile, meta, wait, out)
        elif kind == _ZERO:
            life[i, _DONE] = time
            _hold(tile, code[i, _DST], code[i, _REGS], time, one[_BLAMED], -1, i)
        else:
            _matrix(code, i, time, design, one, life, tile, meta, wait, out)
    while one[_PENDING] > 0.0:
        _start(design, one, life, tile, meta, wait, out)
    _retire(code, n, design, one, life, out)
    return _edge(one[_END], design[_RATIO]), out, one[STALLS:]
