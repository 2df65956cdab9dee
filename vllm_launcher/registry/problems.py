"""What is wrong with ``models.json``, in words with a place and a remedy.

Pydantic finds what is wrong; here its findings get the line they are about and a fix.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vllm_launcher.registry.positions import Located, Path, Position

TYPE_NAMES: Mapping[str, str] = {
    "string_type": "text in double quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list [...]",
    "dict_type": "an object {...}",
    "model_type": "an object {...}",
    "model_attributes_type": "an object {...}",
}


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing to mend. Lines and columns count from 1."""

    line: int
    column: int
    message: str
    fix: str


class RegistryError(Exception):
    """``models.json`` cannot be used. Holds every problem found, in the order of their lines.

    ``line``, ``column``, ``message`` and ``fix`` are those of the first.
    """

    def __init__(self, file: FilePath, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(set(problems)))
        first = self.problems[0]
        self.line, self.column, self.message, self.fix = first.line, first.column, first.message, first.fix
        super().__init__(file, self.problems)

    def __str__(self) -> str:
        return "\n".join(f"{self.file}:{p.line}:{p.column}: {p.message}\n    fix: {p.fix}" for p in self.problems)


def at(position: Position, message: str, fix: str) -> Problem:
    """A problem at that place."""
    return Problem(position.line, position.column, message, fix)


def problems_of(error: ValidationError, root: type[BaseModel], located: Located) -> Iterator[Problem]:
    """Pydantic's findings as problems, one for each place."""
    told: set[Path] = set()
    for details in error.errors(include_url=False):
        path, deeper = _path_in(located.value, details["loc"], details["type"])
        if "flags" in path[:-2]:  # the complaint of one kind of value about a part of it: it is about the flag
            path, deeper = path[: path.index("flags") + 2], True
        if path in told:
            continue  # the members of a union each complain: one complaint is enough
        told.add(path)
        yield _problem(details, path, root, located, in_union=deeper)


def _path_in(value: Any, loc: tuple[int | str, ...], kind: str) -> tuple[Path, bool]:
    """Pydantic's location as a path in the file.

    Its locations name the chosen members of unions too, which are no keys of the file.
    Returns the path, and whether pydantic's location went on past it.
    """
    path: list[str | int] = []
    for index, part in enumerate(loc):
        inside = _child(value, part)
        if inside is None:
            last = index == len(loc) - 1
            if last and kind == "missing":
                return (*path, part), False
            if part == "[key]":
                return tuple(path[:-1]), False
            continue
        value = inside[0]
        path.append(part)
    return tuple(path), len(path) < len(loc) and loc[-1] != (path[-1] if path else None)


def _child(value: Any, part: int | str) -> tuple[Any] | None:
    if isinstance(value, dict) and part in value:
        return (value[part],)  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list) and isinstance(part, int) and part < len(value):  # pyright: ignore[reportUnknownArgumentType]
        return (value[part],)  # pyright: ignore[reportUnknownVariableType]
    return None


def _problem(details: ErrorDetails, path: Path, root: type[BaseModel], located: Located, *, in_union: bool) -> Problem:
    kind = details["type"]
    if kind == "extra_forbidden":
        fix = _suggestion(str(path[-1]), _known(path, root))
        return at(located.find_key(path), f"unknown field {path[-1]!r}", fix)
    if in_union and "flags" in path:
        kind = "flag_type"
    words = WORDS.get(kind, _type_words if kind in TYPE_NAMES else _other_words)
    return at(located.find(path), *words(details, path))


Words = Callable[[ErrorDetails, Path], tuple[str, str]]
"""A finding of pydantic at a path -> what is wrong, and the fix."""


def _missing_words(_: ErrorDetails, path: Path) -> tuple[str, str]:
    return f"{path[-1]!r} is missing", f"add {path[-1]!r}"


def _flag_words(_: ErrorDetails, path: Path) -> tuple[str, str]:
    return f"{_name(path)}: no value of a flag", "write text, a number, true, false, null, a list of texts or an object"


def _literal_words(details: ErrorDetails, path: Path) -> tuple[str, str]:
    expected = _context(details, "expected")
    return f"{_name(path)}: {_short(details['input'])} is none of {expected}", _choice(str(details["input"]), expected)


def _no_tag_words(_: ErrorDetails, path: Path) -> tuple[str, str]:
    return f"{path[-1]}: 'type' is missing", f'add "type", one of {TAGS.get(str(path[-1]), "those of the schema")}'


def _bad_tag_words(details: ErrorDetails, path: Path) -> tuple[str, str]:
    tag = _context(details, "tag")
    return f"{path[-1]}: unknown type {tag!r}", _choice(tag, _context(details, "expected_tags"))


def _pattern_words(details: ErrorDetails, path: Path) -> tuple[str, str]:
    form, fix = FORMS.get(str(path[-1]), (f"match for {_context(details, 'pattern')}", "change it"))
    return f"{_name(path)}: {_short(details['input'])} is no {form}", fix


def _type_words(details: ErrorDetails, path: Path) -> tuple[str, str]:
    wanted = TYPE_NAMES[details["type"]]
    return f"{_name(path)}: {_short(details['input'])} is not {wanted}", f"write {wanted}"


def _other_words(details: ErrorDetails, path: Path) -> tuple[str, str]:
    message = details["msg"].removeprefix("Input ")
    return f"{_name(path)}: {_short(details['input'])} {message}", f"write a value that {message}"


WORDS: Mapping[str, Words] = {
    "missing": _missing_words,
    "flag_type": _flag_words,
    "literal_error": _literal_words,
    "union_tag_not_found": _no_tag_words,
    "union_tag_invalid": _bad_tag_words,
    "string_pattern_mismatch": _pattern_words,
}

TAGS = {"source": "'hub', 'path', 'pypi'", "engine": "'vllm', 'vllm-omni', 'external'"}

FORMS: Mapping[str, tuple[str, str]] = {
    "id": ("id", "start with a-z or 0-9, go on with those, '.', '_' and '-', at most 64 characters"),
    "sha256": ("SHA-256 checksum", "write 64 lower-case hexadecimal digits"),
    "url": ("http address", "write it as http://host:port/v1"),
    "size": ("size", 'write it as "1024x1024"'),
    "repo": ("repository id", 'write it as "organisation/name"'),
    "package": ("package name", "a chain has its import name here, a source the name of its distribution"),
    "api_key_env": ("name of a variable", "write the variable's name, not the key, as in MY_API_KEY"),
    "env": ("name of a variable", "write it in upper case, as in MY_VARIABLE"),
}
"""Fields with a form of their own: what it is called, and how to write it."""


def _context(details: ErrorDetails, key: str) -> str:
    return str(details.get("ctx", {}).get(key, ""))


def _choice(given: str, expected: str) -> str:
    return _suggestion(given, [option.strip("' ") for option in expected.replace(" or ", ", ").split(",")])


def _suggestion(given: str, known: Iterable[str]) -> str:
    options = sorted(known)
    close = get_close_matches(given, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(options)}"


def _known(path: Path, root: type[BaseModel]) -> list[str]:
    """The fields that exist where an unknown one stands."""
    models = [root]
    for part in path[:-1]:
        if isinstance(part, str):
            models = [inner for model in models for inner in _models_in(model, part)]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _models_in(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    field = model.model_fields.get(name)
    return list(_models_of(field.annotation)) if field else []


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_of(argument)


def _name(path: Path) -> str:
    """A field as it is called inside its entry; the line says which entry."""
    inner = path[2:] if path[:1] == ("models",) else path
    return ".".join(str(part) for part in inner) or ("the entry" if path else "the document")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."  # noqa: PLR2004 - a line of a terminal
