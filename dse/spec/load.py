"""Reading YAML 1.2 safely: numbers are numbers, lines are remembered, and hostile files are refused early."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dse.errors import Fault, SpecError

MAX_BYTES = 1_000_000
MAX_NODES = 20_000
MAX_DEPTH = 40


class _Builder:
    """Turns the composed YAML node tree into plain data and a map from path to line."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.lines: dict[tuple[Any, ...], int] = {}
        self.nodes = 0

    def refuse(self, rule: str, node: Any, path: tuple[Any, ...]) -> SpecError:
        spot = f"{self.where}:{node.start_mark.line + 1}"
        return SpecError([Fault(".".join(map(str, path)) or "file", "", rule, spot)])

    def build(self, node: Any, path: tuple[Any, ...] = ()) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.refuse(f"holds more than {MAX_NODES} values once aliases are expanded", node, ())
        if len(path) > MAX_DEPTH:
            raise self.refuse(f"is nested deeper than {MAX_DEPTH} levels", node, path[:6])
        self.lines[path] = node.start_mark.line + 1
        kind = node.id
        if kind == "mapping":
            return self._mapping(node, path)
        if kind == "sequence":
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: Any, path: tuple[Any, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.id != "scalar":
                raise self.refuse("a key must be plain text", key_node, path)
            key = str(key_node.value)
            if key in result:
                raise self.refuse(f"key {key[:60]!r} is given twice", key_node, path)
            result[key] = self.build(value_node, (*path, key))
            self.lines[(*path, key)] = key_node.start_mark.line + 1
        return result

    def _scalar(self, node: Any, path: tuple[Any, ...]) -> Any:
        tag, text = str(node.tag or ""), node.value
        if not tag.startswith("tag:yaml.org,2002:"):
            raise self.refuse(f"tag {tag[:60]!r} is not allowed", node, path)
        kind = tag.rsplit(":", 1)[1]
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() in ("true", "yes", "on", "y")  # the last three only under %YAML 1.1
        if kind in ("int", "float"):
            return self._number(text, kind)
        if kind in ("str", "timestamp"):
            return text
        raise self.refuse(f"tag {tag[:60]!r} is not allowed", node, path)

    @staticmethod
    def _number(text: str, kind: str) -> int | float | str:
        plain = text.replace("_", "")
        try:
            if kind == "int" and len(plain) <= 30:
                return int(plain, 0) if plain.lower().startswith(("0x", "0o", "0b")) else int(plain)
            return float(plain.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            return text


def read_yaml(path: Path | str, text: str | None = None) -> tuple[Any, dict[tuple[Any, ...], int]]:
    """Read one YAML 1.2 document.

    Args:
        path: the file; also the name used in messages.
        text: the document, where it does not come from the file.

    Returns:
        Plain data, and the line of each path in it.

    Raises:
        SpecError: the file is missing, too large, not UTF-8, not YAML, or unreasonably nested.
    """
    from ruamel.yaml.error import YAMLError

    where = str(path)
    content = _text_of(Path(path)) if text is None else text
    if len(content) > MAX_BYTES:
        raise SpecError([Fault("file", "", f"is larger than {MAX_BYTES:,} bytes", where)])
    if _flow_depth(content) > MAX_DEPTH:
        raise SpecError([Fault("file", "", f"is nested deeper than {MAX_DEPTH} levels", where)])
    try:
        node = _bounded_yaml().compose(content)
        if node is None:
            raise SpecError([Fault("file", "", "is empty", where)])
        builder = _Builder(where)
        return builder.build(node), builder.lines
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        spot = f"{where}:{mark.line + 1}" if mark else where
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise SpecError([Fault("file", "", f"is not valid YAML: {problem[:200]}", spot)]) from None
    except RecursionError:
        raise SpecError([Fault("file", "", "is nested too deeply", where)]) from None
    except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise SpecError([Fault("file", "", f"is not valid YAML: {error}"[:300], where)]) from None


def _bounded_yaml() -> Any:
    """A YAML 1.2 reader that stops at the first value too many, before the rest of the file is parsed."""
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import Composer, ComposerError

    class Bounded(Composer):
        composed = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.composed += 1
            if self.composed > MAX_NODES:
                mark = self.parser.peek_event().start_mark
                raise ComposerError(None, None, f"holds more than {MAX_NODES} values", mark)
            return super().compose_node(parent, index)

    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = Bounded
    return yaml


def _text_of(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise SpecError([Fault("file", "", f"is larger than {MAX_BYTES:,} bytes", str(path))])
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise SpecError([Fault("file", "", "does not exist", str(path))]) from None
    except UnicodeDecodeError:
        raise SpecError([Fault("file", "", "is not UTF-8 text", str(path))]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL or a lone surrogate in the path
        reason = getattr(error, "strerror", None) or "not a file name"
        raise SpecError([Fault("file", "", f"cannot be read: {reason}", repr(str(path))[:200])]) from None


def _flow_depth(content: str) -> int:
    """Deepest run of open flow brackets: a cheap bound that stops bracket bombs before the parser sees them."""
    depth = deepest = 0
    for character in content:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth = max(0, depth - 1)
    return deepest


def as_yaml(data: Mapping[str, Any], *, width: int | None = None) -> str:
    """A YAML document in blocks, the entries in their order."""
    import io

    from ruamel.yaml import YAML

    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False
    yaml.width = width
    yaml.dump(dict(data), text)
    return text.getvalue()
