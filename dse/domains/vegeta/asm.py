"""Assembler and disassembler of short listings, one instruction a line.

    TILE_ZERO_T  tmm7
    TILE_LOAD_U  ureg0, [0x800]          ; 32 rows of 64 bytes, one after the other
    TILE_LOAD_T  tmm2, [0x0], 128        ; rows 128 bytes apart
    TILE_LOAD_M  mreg0, [0x400]
    TILE_SPMM_U  tmm7, tmm2, ureg0, mreg0
    TILE_STORE_T [0x1000], tmm7

Operands are C, A, B and the metadata register (TILE_SPMM_R also reads the row-pattern register ``rpreg`` of its
number). ``ureg1`` is tmm2 and tmm3, ``vreg1`` is tmm4 to tmm7; ``tmm2:3`` is three registers from tmm2 on, for widths
without a name, whose mnemonics end with X. Opcodes and the metadata operand of the real instructions are not published.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from dse.domains.vegeta.program import Op, Program
from dse.domains.vegeta.registers import ROW
from dse.errors import Fault, SpecError

_LETTERS = {1: "T", 2: "U", 4: "V"}
_WIDTHS = {letter: width for width, letter in _LETTERS.items()}
_FAMILIES = {"tmm": 1, "ureg": 2, "vreg": 4}
_NAMES = {width: name for name, width in _FAMILIES.items()}
_SIZED = {"TILE_LOAD": Op.LOAD, "TILE_STORE": Op.STORE, "TILE_ZERO": Op.ZERO, "TILE_SPMM": Op.SPMM}
_FIXED = {"TILE_LOAD_M": Op.LOAD_M, "TILE_LOAD_RP": Op.LOAD_RP, "TILE_GEMM": Op.GEMM, "TILE_SPMM_R": Op.SPMM_R}
_OPERANDS = {
    Op.LOAD: "a tile register, [address] and perhaps a stride",
    Op.LOAD_M: "a metadata register (mreg) and [address]",
    Op.LOAD_RP: "a row-pattern register (rpreg) and [address]",
    Op.STORE: "[address], a tile register and perhaps a stride",
    Op.ZERO: "a tile register",
    Op.GEMM: "tile registers of C, A and B",
    Op.SPMM: "tile registers of C, A and B, and a metadata register (mreg)",
    Op.SPMM_R: "tile registers of C, A and B, and a metadata register (mreg)",
}
_BLANK = {"dst": -1, "a": -1, "b": -1, "m": -1, "width": 1, "address": -1, "stride": 0}
_NUMBER = r"(0[xX][0-9a-fA-F]+|\d+)"


class _WrongOperand(Exception):
    """An operand and the rule that it breaks."""


def assemble(text: str, name: str = "listing") -> Program:
    """The program of a listing.

    Args:
        text: instructions; from a ``;`` or ``#`` to the end of a line is comment.
        name: what messages call the listing, such as its file.

    Raises:
        SpecError: with every fault and its line.
    """
    columns: dict[str, list[int]] = {field: [] for field in Program._fields}
    faults = []
    for number, code in instructions(text):
        mnemonic, _, rest = code.replace("\t", " ").partition(" ")
        operands = [part.strip() for part in rest.split(",")] if rest.strip() else []
        try:
            found = _instruction(mnemonic.upper(), operands)
        except _WrongOperand as error:
            value, rule = error.args
            faults.append(Fault(mnemonic, value, rule, f"{name}, line {number}"))
            continue
        for field, values in columns.items():
            values.append(found[field])
    if faults:
        raise SpecError(faults)
    return Program.of(**{field: np.array(values, np.int64) for field, values in columns.items()})


def instructions(text: str) -> Iterator[tuple[int, str]]:
    """Lines of a listing that hold an instruction: number, from 1, and text without comment."""
    for number, line in enumerate(text.splitlines(), 1):
        code = re.split(r"[;#]", line, maxsplit=1)[0].strip()
        if code:
            yield number, code


def disassemble(program: Program, *, block: int = 4) -> str:
    """A listing that :func:`assemble` turns into the same program.

    Loads of metadata and of row patterns read one run of bytes: they have no stride, and read back with that of a row.

    Args:
        program: instructions.
        block: the M of N:M, which says how wide the B of a SPMM_R is.
    """
    return "".join(line + "\n" for line in _lines(program, max(block // 2, 1)))


def _lines(program: Program, span_width: int) -> Iterator[str]:
    for op, dst, a, b, m, width, address, stride in zip(*(column.tolist() for column in program), strict=True):
        letter = _LETTERS.get(width, "X")
        apart = f", {stride}" if stride != ROW else ""
        match Op(op):
            case Op.LOAD:
                yield f"TILE_LOAD_{letter} {_shown(dst, width)}, [{address:#x}]{apart}"
            case Op.LOAD_M:
                yield f"TILE_LOAD_M mreg{dst}, [{address:#x}]"
            case Op.LOAD_RP:
                yield f"TILE_LOAD_RP rpreg{dst}, [{address:#x}]"
            case Op.STORE:
                yield f"TILE_STORE_{letter} [{address:#x}], {_shown(a, width)}{apart}"
            case Op.ZERO:
                yield f"TILE_ZERO_{letter} {_shown(dst, width)}"
            case Op.GEMM:
                yield f"TILE_GEMM tmm{dst}, tmm{a}, tmm{b}"
            case Op.SPMM:
                metadata = f", mreg{m}" if m >= 0 else ""
                yield f"TILE_SPMM_{letter} tmm{dst}, tmm{a}, {_shown(b, width)}{metadata}"
            case Op.SPMM_R:
                yield f"TILE_SPMM_R {_shown(dst, width)}, tmm{a}, {_shown(b, span_width)}, mreg{m}"


def _shown(first: int, width: int) -> str:
    if width in _NAMES and first % width == 0:
        return f"{_NAMES[width]}{first // width}"
    return f"tmm{first}:{width}"


def _instruction(mnemonic: str, operands: list[str]) -> dict[str, int]:
    op, wanted = _operation(mnemonic)
    count = len(operands)
    least = {Op.LOAD: 2, Op.LOAD_M: 2, Op.LOAD_RP: 2, Op.STORE: 2, Op.ZERO: 1, Op.GEMM: 3, Op.SPMM: 3, Op.SPMM_R: 4}[op]
    most = {Op.LOAD: 3, Op.STORE: 3, Op.SPMM: 4}.get(op, least)
    if not least <= count <= most or (op == Op.SPMM and wanted != 1 and count < 4):
        raise _WrongOperand(", ".join(operands), f"takes {_OPERANDS[op]}")
    found = {**_BLANK, "op": int(op)}
    match op:
        case Op.LOAD | Op.STORE:
            tile, place, field = (0, 1, "dst") if op == Op.LOAD else (1, 0, "a")
            found[field], found["width"] = _tile(operands[tile], wanted)
            found["address"] = _address(operands[place])
            found["stride"] = _number(operands[2]) if count == 3 else ROW
        case Op.LOAD_M | Op.LOAD_RP:
            found["dst"] = _small(operands[0], "mreg" if op == Op.LOAD_M else "rpreg")
            found["address"], found["stride"] = _address(operands[1]), ROW
        case Op.ZERO:
            found["dst"], found["width"] = _tile(operands[0], wanted)
        case _:
            found["dst"], c_width = _tile(operands[0], None if op == Op.SPMM_R else 1)
            found["a"], _ = _tile(operands[1], 1)
            found["b"], b_width = _tile(operands[2], wanted)
            found["m"] = _small(operands[3], "mreg") if count == 4 else -1
            found["width"] = c_width if op == Op.SPMM_R else b_width
    return found


def _operation(mnemonic: str) -> tuple[Op, int | None]:
    """The instruction, and the tregs that its sized operand must have; None: as many as that says."""
    if mnemonic in _FIXED:
        return _FIXED[mnemonic], 1 if mnemonic == "TILE_GEMM" else None
    stem, _, letter = mnemonic.rpartition("_")
    if stem not in _SIZED or letter not in (*_WIDTHS, "X"):
        known = ", ".join([*(f"{stem}_T/U/V/X" for stem in _SIZED), *_FIXED])
        raise _WrongOperand("", f"is no instruction; there are {known}")
    return _SIZED[stem], _WIDTHS.get(letter)


def _tile(text: str, wanted: int | None) -> tuple[int, int]:
    """First treg and width of an operand."""
    found = re.fullmatch(r"(tmm|ureg|vreg)(\d{1,4})(?::(\d{1,4}))?", text, re.IGNORECASE)
    if not found or (found[3] and found[1].lower() != "tmm"):
        raise _WrongOperand(text, "must be a tile register: tmm0, ureg0, vreg0 or tmm0:2")
    family = _FAMILIES[found[1].lower()]
    first, width = int(found[2]) * family, int(found[3] or family)
    if width < 1 or (wanted is not None and width != wanted):
        raise _WrongOperand(text, f"must be {wanted or 1} tile register{'s' if (wanted or 1) > 1 else ''} wide")
    return first, width


def _small(text: str, family: str) -> int:
    found = re.fullmatch(family + r"(\d{1,4})", text, re.IGNORECASE)
    if not found:
        raise _WrongOperand(text, f"must be a register {family}0, {family}1, ...")
    return int(found[1])


def _address(text: str) -> int:
    found = re.fullmatch(r"\[\s*" + _NUMBER + r"\s*\]", text)
    if not found:
        raise _WrongOperand(text, "must be an address such as [0x400] or [1024]")
    return _number(found[1])


def _number(text: str) -> int:
    if not re.fullmatch(_NUMBER, text) or int(text, 0 if text[:2] in ("0x", "0X") else 10) >= 1 << 48:
        raise _WrongOperand(text, "must be a number of bytes below 2^48")
    return int(text, 0 if text[:2] in ("0x", "0X") else 10)
