"""The HTML of the workbench: controls, headline, messages, tables. Pure functions from values to text.

What can be clicked or changed carries ``data-do``: what :meth:`dse.app.workbench.Workbench.act` takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby

from dse.app.controls import Control, Option
from dse.units import engineering

ICONS = {
    "lock": "M5 11h14v10H5zM8 11V7a4 4 0 0 1 8 0v4",
    "unlock": "M5 11h14v10H5zM8 11V7a4 4 0 0 1 7.5-2",
    "reset": "M4 12a8 8 0 1 0 3-6.2M4 4v5h5",
    "best": "M12 3l2.7 5.8 6.3.8-4.6 4.3 1.2 6.3L12 17.1 6.4 20.2l1.2-6.3L3 9.6l6.3-.8z",
    "undo": "M9 7L4 12l5 5M4 12h10a6 6 0 0 1 6 6",
    "redo": "M15 7l5 5-5 5M20 12H10a6 6 0 0 0-6 6",
    "close": "M6 6l12 12M18 6L6 18",
    "wide": "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
    "theme": "M12 3a9 9 0 1 0 9 9 7 7 0 0 1-9-9z",
}


def icon(name: str) -> str:
    """A line drawing, in the colour of the text around it."""
    return f"<svg viewBox='0 0 24 24' aria-hidden='true'><path d='{ICONS[name]}'/></svg>"


def button(do: str, text: str, title: str = "", *, on: bool = False, off: bool = False, kind: str = "") -> str:
    """A button; ``text`` is HTML. ``on``: pressed; ``off``: nothing to do."""
    state = f" aria-pressed='{str(on).lower()}'" if on or kind == "toggle" else ""
    words = escape(title, quote=True)
    hint = f" title='{words}'" if title else ""
    hint += f" aria-label='{words}'" if title and text.startswith("<svg") else ""  # a drawing needs a name
    disabled = " disabled" if off else ""
    classes = " ".join(part for part in ("dse-button", kind, "on" if on else "") if part)
    action = escape(do, quote=True)
    return f"<button type='button' class='{classes}' data-do='{action}'{hint}{state}{disabled}>{text}</button>"


def tool(do: str, drawing: str, title: str, *, on: bool = False, off: bool = False) -> str:
    """A small button with a drawing."""
    return button(do, icon(drawing), title, on=on, off=off, kind="tool")


def select(do: str, options: Iterable[tuple[str, str, str]], now: str, label: str) -> str:
    """A drop-down list.

    Args:
        options: (group, value, label); runs of one group stand under its name.
    """
    parts = []
    for group, members in groupby(options, key=lambda option: option[0]):
        items = "".join(
            f"<option value='{escape(value, quote=True)}'{' selected' if value == now else ''}>{escape(text)}</option>"
            for _, value, text in members
        )
        parts.append(f"<optgroup label='{escape(group, quote=True)}'>{items}</optgroup>" if group else items)
    named = escape(label, quote=True)
    return f"<select data-do='{escape(do, quote=True)}' aria-label='{named}'>{''.join(parts)}</select>"


# -- controls -------------------------------------------------------------------------------------------------


def amount(control: Control) -> str:
    """A control's value with its unit."""
    if control.whole and control.unit in ("", "1"):
        return f"{int(control.value):,}"
    return engineering(float(control.value), control.unit)


def _tools(control: Control, best: str = "") -> str:
    path = escape(control.path, quote=True)
    lock = tool(f"{'unlock' if control.locked else 'lock'}:{path}", "lock" if control.locked else "unlock",
                f"{'Unlock' if control.locked else 'Lock'} {control.label}", on=control.locked)  # fmt: skip
    reset = tool(f"reset:{path}", "reset", f"Reset {control.label}", off=not control.changed or control.locked)
    star = tool(best or f"best:{path}", "best", _star_title(control), off=control.locked and control.kind != "slider")
    return f"<span class='dse-tools'>{star}{reset}{lock}</span>"


def _star_title(control: Control) -> str:
    if control.kind in ("slider", "pick") or not control.path.startswith("strategy."):
        return f"Find the best strategy for this {control.label}"
    return f"Find the best value of {control.label}"


def field(control: Control) -> str:
    """The line above a slider: its name, its value to type in, and what else can be done."""
    classes = f"dse-field{' changed' if control.changed else ''}{' locked' if control.locked else ''}"
    name, path = escape(control.label), escape(control.path, quote=True)
    value = escape(amount(control), quote=True)
    disabled = " disabled" if control.locked else ""
    entry = f"<input data-do='set:{path}' value='{value}' aria-label='{name}' spellcheck='false'{disabled}>"
    return (
        f"<div class='{classes}' data-path='{path}'><span class='dse-name'>{name}</span>{entry}{_tools(control)}</div>"
    )


def picker(control: Control) -> str:
    """A catalogue entry to choose."""
    options = [(option.group, str(option.value), option.label) for option in control.options]
    chosen = select(f"set:{control.path}", options, str(control.value), control.label)
    head = f"<div class='dse-field'><span class='dse-name'>{escape(control.label)}</span>{_tools(control)}</div>"
    return f"<div class='dse-pick' data-path='{escape(control.path, quote=True)}'>{head}{chosen}</div>"


def choice(control: Control, broken: frozenset[str] = frozenset()) -> str:
    """The values of a field as chips: what is legal can be clicked, what is not says why.

    Args:
        broken: rules that the present design breaks; values that break no other one can be chosen too.
    """
    chips = "".join(_chip(control, option, broken) for option in control.options)
    changed = " changed" if control.changed else ""
    locked = " locked" if control.locked else ""
    path = escape(control.path, quote=True)
    head = f"<div class='dse-field'><span class='dse-name'>{escape(control.label)}</span>{_tools(control)}</div>"
    group = f"<div class='dse-chips' role='group' aria-label='{escape(control.label, quote=True)}'>{chips}</div>"
    return f"<div class='dse-choice{changed}{locked}' data-path='{path}'>{head}{group}</div>"


def offered(option: Option, broken: frozenset[str]) -> bool:
    """May a value be chosen: is it legal, or does it break nothing that is not broken already?"""
    return option.legal or (bool(broken) and set(option.breaks) <= broken)


def _chip(control: Control, option: Option, broken: frozenset[str]) -> str:
    now = option.value == control.value
    can = offered(option, broken) and not control.locked
    kind = "now" if now else "legal" if option.legal else "doubtful" if can else "illegal"
    value, path = escape(option.label, quote=True), escape(control.path, quote=True)
    do = f"set:{path}" if can or now else f"why:{path}"
    why = "; ".join(option.reasons) or ("locked" if control.locked and not now else "")
    hint = f" title='{escape(why, quote=True)}'" if why else ""
    marks = f"{' bad' if not option.legal else ''}"
    flags = f" aria-pressed='{str(now).lower()}'" + ("" if can or now else " aria-disabled='true'")
    return (
        f"<button type='button' class='dse-chip {kind}{marks}' data-do='{do}' data-value='{value}'{hint}{flags}>"
        f"{escape(option.label)}</button>"
    )


# -- headline and messages --------------------------------------------------------------------------------------


def tiles(items: Sequence[Mapping[str, str]]) -> str:
    """Numbers that explain themselves when they are clicked: name, title, value, note, and how they changed."""
    cells = []
    for item in items:
        change = f"<span class='dse-change {item.get('direction', '')}'>{escape(item.get('change', ''))}</span>"
        title, note = escape(item["title"], quote=True), escape(item.get("note", ""))
        cells.append(
            f"<button type='button' class='dse-tile {item.get('kind', '')}' data-do='explain:{escape(item['name'])}' "
            f"title='Explain {title}'><span class='dse-title'>{title}</span><b>{escape(item['value'])}</b>{change}"
            f"<span class='dse-note'>{note}</span></button>"
        )
    return f"<div class='dse-tiles'>{''.join(cells)}</div>"


def message(kind: str, text: str, action: str = "") -> str:
    """A line that says what happened (``info``), what is wrong (``bad``) or what to know (``warn``)."""
    if not text:
        return ""
    close = tool("dismiss", "close", "Dismiss") if kind != "rules" else ""
    return f"<div class='dse-message {kind}' role='status'><span>{escape(text)}</span>{action}{close}</div>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, do: Sequence[str] = (), marks: Sequence[str] = (),
          sort: Sequence[str] = (), label: str = "table") -> str:  # fmt: skip
    """A table of texts.

    Args:
        do: what clicking a row does, one a row.
        marks: classes of the rows.
        sort: what clicking a header does, one a column.
    """
    heads = "".join(
        f"<th{f' data-do={chr(39)}{escape(sort[i], quote=True)}{chr(39)}' if sort else ''}>{escape(name)}</th>"
        for i, name in enumerate(head)
    )
    lines = []
    for index, row in enumerate(rows):
        action = f" data-do='{escape(do[index], quote=True)}' tabindex='0'" if do else ""
        mark = f" class='{escape(marks[index], quote=True)}'" if marks and marks[index] else ""
        lines.append(f"<tr{action}{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    named = escape(label, quote=True)
    return (
        f"<div class='dse-table' data-scroll='{named}'><table aria-label='{named}'><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
