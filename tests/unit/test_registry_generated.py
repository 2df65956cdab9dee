"""Whatever stands in ``models.json``: a registry or a RegistryError, never anything else."""

import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vllm_launcher.registry import Registry, RegistryError, load_registry
from vllm_launcher.registry.positions import JsonError, locate

RUN = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

SOUND: dict[str, Any] = {
    "id": "m",
    "task": "chat",
    "source": {"type": "hub", "repo": "a/b"},
    "engine": {"type": "vllm", "flags": {"seed": 1}},
    "chain": {"package": "p", "variables": {"a": "b"}},
    "sampling": {"temperature": 0.5, "stop": ["x"]},
    "limits": {"max_model_len": 8},
    "metadata": {"tags": ["t"]},
}

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def load(folder: Path, content: bytes) -> Registry | RegistryError:
    """The outcome of loading a file of that content; any other exception is a failure of the test."""
    file = folder / "models.json"
    file.write_bytes(content)
    try:
        return load_registry(file)
    except RegistryError as error:
        return error


def check(outcome: Registry | RegistryError, content: bytes) -> None:
    """Every problem has a place inside the file, a message and a fix, and can be printed."""
    if isinstance(outcome, Registry):
        return
    lines = content.count(b"\n") + 1
    assert outcome.problems
    for problem in outcome.problems:
        assert 1 <= problem.line <= lines
        assert problem.column >= 1
        assert problem.message
        assert problem.fix
    str(outcome).encode()


def paths(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place inside a JSON value."""
    inner: list[tuple[str | int, ...]] = []
    if isinstance(value, dict):
        inner = [found for key in value for found in paths(value[key], (*path, key))]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list):
        inner = [found for index, item in enumerate(value) for found in paths(item, (*path, index))]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return [path, *inner]


@RUN
@given(content=st.binary(max_size=200))
@example(content=b'{"models": [1' + b"0" * 5000 + b"]}")
@example(content=b"\xef\xbb\xbf")
@example(content=b"[" * 5000)
def test_any_bytes_are_a_registry_or_a_registry_error(tmp_path: Path, content: bytes) -> None:
    """Noise, numbers beyond Python's digit limit, and nesting beyond its stack."""
    check(load(tmp_path, content), content)


@RUN
@given(value=values)
def test_any_json_is_a_registry_or_a_registry_error(tmp_path: Path, value: Any) -> None:
    """Whatever its shape."""
    content = json.dumps({"models": [value, {"id": value}, SOUND]}).encode()
    check(load(tmp_path, content), content)


@RUN
@given(data=st.data(), value=values, key=st.text(max_size=8))
def test_a_sound_entry_with_one_part_replaced_is_told_at_its_line(
    tmp_path: Path, data: st.DataObject, value: Any, key: str
) -> None:
    """Each key of the entry on a line of its own: a problem is never on line 1."""
    entry = json.loads(json.dumps(SOUND))
    path = data.draw(st.sampled_from([path for path in paths(entry) if path]))
    target = entry
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    if isinstance(target, dict) and data.draw(st.booleans()):
        target[key] = value
    content = json.dumps({"models": [entry]}, indent=1).encode()
    outcome = load(tmp_path, content)
    check(outcome, content)
    if isinstance(outcome, RegistryError):
        assert outcome.line > 1


@RUN
@given(cut=st.integers(min_value=0, max_value=10_000))
def test_a_truncated_file_is_told_where_it_ends(tmp_path: Path, cut: int) -> None:
    """At every length."""
    whole = json.dumps({"models": [SOUND]}, indent=1)
    content = whole[: cut % len(whole)].encode()
    outcome = load(tmp_path, content)
    assert isinstance(outcome, RegistryError)
    check(outcome, content)


@RUN
@given(value=values)
def test_the_positions_parser_agrees_with_the_standard_one(value: Any) -> None:
    """On everything that is JSON; what only Python reads (NaN) is refused."""
    text = json.dumps(value)
    try:
        located = locate(text)
    except JsonError:
        assert any(word in text for word in ("NaN", "Infinity", "\\ud"))
        return
    assert located.value == json.loads(text)
    assert set(located.starts) == set(paths(value))
