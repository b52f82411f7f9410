"""What every specification shares: frozen, strict about keys, and plain about faults."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from dse.errors import Fault, SpecError
from dse.spec.fields import Name, Text, unit_of


class Spec(BaseModel):
    """An immutable description of a part. Fields hold SI numbers; ``_shortcuts`` are extra path names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=False)
    _shortcuts: ClassVar[dict[str, str]] = {}

    @classmethod
    def parse(cls, data: Any, *, where: str = "", lines: dict[tuple[Any, ...], int] | None = None) -> Self:
        """Validate plain data.

        Args:
            data: mappings, lists and scalars, quantities as numbers (SI) or text with a unit.
            where: the file the data came from, for the messages; numbers with a dimension then need a unit.
            lines: line number of each path in that file.

        Raises:
            SpecError: with every fault found at once.
        """
        try:
            return cls.model_validate(data, context=where or None)
        except ValidationError as error:
            raise SpecError([_fault(cls, detail, where, lines or {}) for detail in error.errors()]) from None
        except RecursionError:
            raise SpecError([Fault(where or "input", "", "is nested too deeply")]) from None

    def to_plain(self) -> dict[str, Any]:
        """Plain data for a file: numbers with a dimension as text with their SI unit."""
        return {name: _plain(getattr(self, name), unit_of(field)) for name, field in type(self).model_fields.items()}

    def to_yaml(self) -> str:
        """The specification as a YAML document that reads back as an equal one."""
        import io

        from ruamel.yaml import YAML

        text = io.StringIO()
        YAML(typ="safe", pure=True).dump(self.to_plain(), text)
        return text.getvalue()

    def replace(self, **changes: Any) -> Self:
        """A validated copy with some fields changed (dotted paths reach inside: ``memory.capacity``)."""
        data = self.model_dump()
        for path, value in changes.items():
            if path not in type(self).model_fields:
                raise SpecError([Fault(path, "", _unknown(type(self), path))])
            data[path] = value.model_dump() if isinstance(value, BaseModel) else value
        return type(self).parse(data)


class Source(Spec):
    """Where the values of a catalogue entry come from, and which of its fields it covers."""

    title: Text
    date: Text
    kind: Literal["datasheet", "measured", "assumed"]
    url: Text = ""
    covers: tuple[Text, ...]

    @model_validator(mode="before")
    @classmethod
    def _date_as_text(cls, data: Any) -> Any:
        if isinstance(data, dict) and "date" in data:
            return {**data, "date": str(data["date"])}
        return data


class Entry(Spec):
    """A catalogue entry: a part with a name, and a source for each of its values."""

    id: Name = "unnamed"
    name: Text = ""
    sources: tuple[Source, ...] = ()

    def source_of(self, path: str) -> Source | None:
        """The source that covers a dotted field path (the longest matching prefix wins; ``*`` covers all)."""
        best: tuple[int, Source] | None = None
        for source in self.sources:
            for covered in source.covers:
                fits = covered == "*" or path == covered or path.startswith(covered + ".")
                length = 0 if covered == "*" else len(covered)
                if fits and (best is None or length > best[0]):
                    best = (length, source)
        return best[1] if best else None


def _plain(value: Any, unit: str | None) -> Any:
    if isinstance(value, Spec):
        return value.to_plain()
    if isinstance(value, tuple):
        return [_plain(item, unit) for item in value]
    return f"{value!r} {unit}" if isinstance(value, float) and unit not in (None, "", "1") else value


def _fault(cls: type[BaseModel], detail: Any, where: str, lines: dict[tuple[Any, ...], int]) -> Fault:
    location = tuple(part for part in detail["loc"] if not str(part).startswith(("function-", "tagged-")))
    rule = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        rule = _unknown(_owner(cls, location[:-1]), str(location[-1])[:60])
    elif detail["type"] == "missing":
        rule = "is required"
    elif detail["type"] == "literal_error":
        rule = f"must be one of {detail['ctx']['expected']}{_near(detail)}"
    elif detail["type"].startswith(("greater_than", "less_than")):
        rule = rule.replace("Input should", "must")
    else:
        rule = rule.replace("Input should", "must")
    path = ".".join(str(part) for part in location) or "input"
    line = next((lines[location[:n]] for n in range(len(location), -1, -1) if location[:n] in lines), None)
    spot = f"{where}:{line}" if where and line else where
    value = detail.get("input")
    shown = "" if detail["type"] in ("missing",) or isinstance(value, dict | list) else _short(value)
    return Fault(path[:200], shown, rule[:400], spot)


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        text = "a very large integer"
    return text if len(text) <= 60 else text[:57] + "..."


def _near(detail: Any) -> str:
    options = [o.strip(" '") for o in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
    match = difflib.get_close_matches(str(detail.get("input"))[:40], options, n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _owner(cls: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    """The model class that holds the field at ``location``."""
    for part in location:
        field = cls.model_fields.get(str(part)) if isinstance(part, str) else None
        inner = _model_in(field.annotation) if field else None
        if inner is not None:
            cls = inner
    return cls


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found:
            return found
    return None


def _unknown(cls: type[BaseModel], key: str) -> str:
    names = list(cls.model_fields)
    match = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean {match[0]!r}?" if match else f"known keys: {', '.join(sorted(names))}"
    return f"unknown key; {hint}"
