"""JSON with positions: what every value is, and on which line it stands.

The standard parser forgets where a value came from, and keeps only the last of two equal keys.
This one is as strict as RFC 8259 and remembers both. It is made for files that people write by hand:
small ones, whose mistakes deserve a line number.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]

MAX_DEPTH = 64
WHITESPACE = " \t\n\r"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a text; lines and columns count from 1."""

    line: int
    column: int


class JsonError(ValueError):
    """The text is not JSON: what is wrong, where, and what to do."""

    def __init__(self, message: str, offset: int, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Located:
    """A parsed text: its value and the place of everything in it."""

    value: Any
    starts: Mapping[Path, int]
    keys: Mapping[Path, int]
    repeated: tuple[tuple[Path, int], ...]
    lines: "Lines"

    def find(self, path: Path) -> Position:
        """Where the value at ``path`` begins, or the innermost thing around it that exists."""
        while path and path not in self.starts:
            path = path[:-1]
        return self.lines.position(self.starts[path])

    def find_key(self, path: Path) -> Position:
        """Where the key of the value at ``path`` stands."""
        return self.lines.position(self.keys[path]) if path in self.keys else self.find(path)


class Lines:
    """Turns offsets of a text into lines and columns."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(i + 1 for i, character in enumerate(text) if character == "\n")]

    def position(self, offset: int) -> Position:
        """The place of the character at ``offset``."""
        line = bisect_right(self._starts, offset)
        return Position(line, offset - self._starts[line - 1] + 1)


def locate(text: str) -> Located:
    """Parse ``text``.

    Raises:
        JsonError: it is not JSON, or it nests deeper than ``MAX_DEPTH``.
    """
    scanner = _Scanner(text)
    value = scanner.document()
    return Located(value, scanner.starts, scanner.keys, tuple(scanner.repeated), Lines(text))


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("the number is too large")
    return number


class _Scanner:
    """Recursive descent over one text; recursion is bounded by ``MAX_DEPTH``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts: dict[Path, int] = {}
        self.keys: dict[Path, int] = {}
        self.repeated: list[tuple[Path, int]] = []
        self._scalars = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_finite)

    def document(self) -> Any:
        value, end = self.value(self.skip(0), ())
        end = self.skip(end)
        if end < len(self.text):
            raise JsonError("text after the end of the document", end, "remove it, or a closing bracket before it")
        return value

    def value(self, at: int, path: Path) -> tuple[Any, int]:
        if len(path) > MAX_DEPTH:
            raise JsonError(f"nested deeper than {MAX_DEPTH} levels", at, "flatten it")
        self.starts[path] = at
        match self.text[at : at + 1]:
            case "{":
                return self.object(at + 1, path)
            case "[":
                return self.array(at + 1, path)
            case _:
                return self.scalar(at)

    def object(self, at: int, path: Path) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        at = self.skip(at)
        if self.text[at : at + 1] == "}":
            return members, at + 1
        while True:
            key, after = self.key(at)
            inner = (*path, key)
            if inner in self.keys:
                self.repeated.append((inner, at))
            self.keys[inner] = at
            after = self.expect(":", self.skip(after), "a colon between the key and its value")
            members[key], after = self.value(self.skip(after), inner)
            at, done = self.next(self.skip(after), "}")
            if done:
                return members, at

    def array(self, at: int, path: Path) -> tuple[list[Any], int]:
        items: list[Any] = []
        at = self.skip(at)
        if self.text[at : at + 1] == "]":
            return items, at + 1
        while True:
            item, after = self.value(at, (*path, len(items)))
            items.append(item)
            at, done = self.next(self.skip(after), "]")
            if done:
                return items, at

    def next(self, at: int, closing: str) -> tuple[int, bool]:
        """After a member: past the closing bracket, or at the start of the next member."""
        character = self.text[at : at + 1]
        if character == closing:
            return at + 1, True
        if character != ",":
            raise self.unexpected(at, f"a comma or {closing}")
        after = self.skip(at + 1)
        if self.text[after : after + 1] == closing:
            raise JsonError("a comma before the closing bracket", at, "remove the comma")
        return after, False

    def key(self, at: int) -> tuple[str, int]:
        if self.text[at : at + 1] != '"':
            raise self.unexpected(at, "a key in double quotes")
        return self.scalar(at)

    def scalar(self, at: int) -> tuple[Any, int]:
        try:
            value, end = self._scalars.raw_decode(self.text, at)
        except json.JSONDecodeError as error:
            raise self.bad_scalar(error, at) from None
        except ValueError as error:  # NaN, Infinity, 1e999, and integers beyond Python's digit limit
            raise JsonError(f"not a JSON number: {error}", at, "write a finite number") from None
        if isinstance(value, str) and not _encodable(value):
            raise JsonError("half of a surrogate pair in a string", at, "write the character itself")
        return value, end

    def bad_scalar(self, error: json.JSONDecodeError, at: int) -> JsonError:
        if error.msg.startswith("Expecting value"):
            return self.unexpected(at, "a value")
        return JsonError(error.msg.removesuffix(" at").lower(), error.pos, "correct the string")

    def unexpected(self, at: int, wanted: str) -> JsonError:
        found = self.text[at : at + 1]
        if not found:
            return JsonError(f"the file ends where {wanted} is expected", at, "complete the file: it was cut off here")
        if found in "/#":
            return JsonError("a comment", at, "remove it: JSON has no comments")
        if found == "'":
            return JsonError("a single quote", at, "use double quotes")
        return JsonError(f"{found!r} where {wanted} is expected", at, f"write {wanted}")

    def expect(self, character: str, at: int, wanted: str) -> int:
        if self.text[at : at + 1] != character:
            raise self.unexpected(at, wanted)
        return at + 1

    def skip(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in WHITESPACE:
            at += 1
        return at


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
