"""``models.json`` is read strictly, and everything wrong with it is told at its line with a fix."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vllm_launcher.registry import (
    MAX_BYTES,
    PathSource,
    Problem,
    RegistryError,
    check_chains,
    load_registry,
    schema_text,
    write_schema,
)

REPOSITORY = Path(__file__).parents[2]
HUB = {"type": "hub", "repo": "a/b"}


def problems_of(path: Path, text: str | bytes) -> tuple[Problem, ...]:
    """What the loader says about a file of that content."""
    file = path / "models.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RegistryError) as caught:
        load_registry(file)
    assert caught.value.file == file
    return caught.value.problems


def problem_of_entry(path: Path, **entry: Any) -> Problem:
    """The one problem of a file with one entry."""
    (problem,) = problems_of(path, json.dumps({"models": [{"id": "m", "source": HUB, **entry}]}))
    return problem


# --- the file itself ---------------------------------------------------------------------


def test_the_checked_in_list_of_models_loads() -> None:
    """The repository's own models.json has no problem, and its default model is first."""
    registry = load_registry(REPOSITORY / "models.json")
    assert registry.models[0].id == "smollm2"
    assert registry.get("smollm2") is registry.models[0]
    assert registry.get("nobody") is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error holds the path that was looked at."""
    with pytest.raises(RegistryError, match="there is no such file") as caught:
        load_registry(tmp_path / "nowhere.json")
    assert str(tmp_path / "nowhere.json") in str(caught.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """A path that cannot be read says why."""
    with pytest.raises(RegistryError, match="cannot be read"):
        load_registry(tmp_path)


def test_a_path_no_file_can_have_is_an_error_like_others() -> None:
    """A null byte in a path ends in the same error type."""
    with pytest.raises(RegistryError, match="cannot be read"):
        load_registry(Path("models\0.json"))


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    """One byte over the bound is enough; the file is not parsed."""
    (problem,) = problems_of(tmp_path, b" " * (MAX_BYTES + 1))
    assert "larger than 1024 KiB" in problem.message


def test_a_sparse_file_of_100_mb_is_refused_without_filling_memory(tmp_path: Path) -> None:
    """The loader reads no more than its bound."""
    file = tmp_path / "models.json"
    with file.open("wb") as handle:
        handle.truncate(100_000_000)
    with pytest.raises(RegistryError, match="larger than"):
        load_registry(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}".encode("utf-16"), "UTF-16"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"models": [\n{"id": "caf\xe9"}]}', "not UTF-8: byte 0xe9"),
    ],
)
def test_a_wrong_encoding_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """UTF-8 without a byte order mark is the one encoding."""
    (problem,) = problems_of(tmp_path, content)
    assert message in problem.message
    assert "UTF-8" in problem.fix


def test_a_wrong_byte_is_placed_at_its_line(tmp_path: Path) -> None:
    """Lines count up to the byte that is no UTF-8."""
    (problem,) = problems_of(tmp_path, b'{"models":\n [{"id": "caf\xe9"}]}')
    assert (problem.line, problem.column) == (2, 14)


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "the file ends where a value is expected"),
        ('{"models": [', 1, 13, "the file ends where a value is expected"),
        ('{\n"models": [{"id": "a"', 2, 22, "the file ends where a comma or }"),
        ('{"models": [1,]}', 1, 14, "a comma before the closing bracket"),
        ('{"a": 1 "b": 2}', 1, 9, "where a comma or } is expected"),
        ('{"models" []}', 1, 11, "where a colon"),
        ("{'models': []}", 1, 2, "a single quote"),
        ('// list\n{"models": []}', 1, 1, "a comment"),
        ('{"models": []} x', 1, 16, "text after the end"),
        ('{"a": NaN}', 1, 7, "not a JSON number"),
        ('{"a": 1e999}', 1, 7, "not a JSON number"),
        ('{"a": "\\ud800"}', 1, 7, "surrogate"),
        ('{"a": "\n"}', 1, 8, "control character"),
        ('{"a": "', 1, 7, "unterminated string"),
        ("[" * 100, 1, 66, "nested deeper"),
    ],
)
def test_broken_json_is_told_at_its_place(tmp_path: Path, text: str, line: int, column: int, message: str) -> None:
    """The place is where a person has to look, the message what they see there."""
    (problem,) = problems_of(tmp_path, text)
    assert (problem.line, problem.column) == (line, column)
    assert message in problem.message


# --- what it says ------------------------------------------------------------------------


def test_every_problem_is_reported_at_once_in_order(tmp_path: Path) -> None:
    """Three entries, three faults, one run."""
    text = """{
      "models": [
        {"id": "a", "sorce": {"type": "hub", "repo": "a/b"}},
        {"id": "b", "source": {"type": "hub", "repo": "a/b"}, "task": "chatt"},
        {"id": "b", "source": {"type": "hub", "repo": "a/b"}}
      ]
    }"""
    problems = problems_of(tmp_path, text)
    assert [(problem.line, problem.message, problem.fix) for problem in problems] == [
        (3, "unknown field 'sorce'", "did you mean 'source'?"),
        (
            4,
            "task: \"chatt\" is none of 'chat', 'vision-chat', 'image-generation' or 'embedding'",
            "did you mean 'chat'?",
        ),
        (5, "the id 'b' is taken by the entry on line 4", "give every entry an id of its own"),
    ]


def test_the_error_reads_as_editors_expect_it(tmp_path: Path) -> None:
    """file:line:column: message, then the fix; all of them."""
    file = tmp_path / "models.json"
    file.write_text('{"modles": []}')
    with pytest.raises(RegistryError) as caught:
        load_registry(file)
    first, fix, *_ = str(caught.value).splitlines()
    assert first == f"{file}:1:1: 'models' is missing"
    assert fix == "    fix: add 'models'"
    assert (caught.value.line, caught.value.column) == (1, 1)
    assert "did you mean 'models'?" in str(caught.value)


def test_a_key_written_twice_is_told_at_the_second(tmp_path: Path) -> None:
    """The standard parser would keep the last one silently."""
    text = '{"models": [{"id": "a",\n "source": {"type": "hub", "repo": "a/b"},\n "id": "b"}]}'
    (problem,) = problems_of(tmp_path, text)
    assert (problem.line, problem.message) == (3, "'id' is written twice")


def test_an_empty_list_of_models_is_told(tmp_path: Path) -> None:
    """A file without a model serves nothing."""
    (problem,) = problems_of(tmp_path, '{"models": []}')
    assert "at least 1 item" in problem.message


@pytest.mark.parametrize(
    ("entry", "message", "fix"),
    [
        ({"source": {"type": "hubb"}}, "source: unknown type 'hubb'", "did you mean 'hub'?"),
        ({"source": {"repo": "a/b"}}, "source: 'type' is missing", "'hub', 'path', 'pypi'"),
        ({"source": {**HUB, "revison": "x"}}, "unknown field 'revison'", "did you mean 'revision'?"),
        ({"source": {"type": "hub", "repo": "a b"}}, 'source.repo: "a b" is no repository id', "organisation/name"),
        ({"engine": {"type": "vlm"}}, "engine: unknown type 'vlm'", "did you mean 'vllm'?"),
        ({"engine": {"type": "vllm", "flags": {"seed": [1]}}}, "engine.flags.seed: no value of a flag", "write text"),
        ({"engine": {"type": "vllm", "env": {"lower": "x"}}}, 'engine.env: "lower" is no name', "upper case"),
        ({"sampling": {"temperature": "hot"}}, 'sampling.temperature: "hot" is not a number', "write a number"),
        ({"sampling": {"temperature": "1"}}, 'sampling.temperature: "1" is not a number', "write a number"),
        ({"sampling": {"top_k": True}}, "sampling.top_k: true is not a whole number", "write a whole number"),
        ({"sampling": {"temperature": 3}}, "should be less than or equal to 2", "less than or equal to 2"),
        ({"sampling": {"temprature": 1}}, "unknown field 'temprature'", "did you mean 'temperature'?"),
        ({"limits": []}, "limits: [] is not an object", "an object"),
        ({"chain": {"package": "smollm2-chat"}}, 'chain.package: "smollm2-chat" is no package name', "import name"),
        ({"id": "Upper"}, 'id: "Upper" is no id', "a-z"),
        ({"id": 5}, "id: 5 is not text in double quotes", "write text"),
        ({"load": "later"}, "load: \"later\" is none of 'startup' or 'on-demand'", "known here"),
    ],
)
def test_a_wrong_field_is_named_with_its_fix(tmp_path: Path, entry: dict[str, Any], message: str, fix: str) -> None:
    """Each says which field, what stands there, and what to write."""
    problem = problem_of_entry(tmp_path, **entry)
    assert message in problem.message
    assert fix in problem.fix


@pytest.mark.parametrize("reserved", ["health", "ready", "models", "docs", "openapi.json", "static", "v1", "v2", "api"])
def test_an_id_the_app_answers_itself_is_refused(tmp_path: Path, reserved: str) -> None:
    """Such a model could never be reached."""
    assert "reserved" in problem_of_entry(tmp_path, id=reserved).message


EXTERNAL = {"type": "external", "url": "http://127.0.0.1:9/v1"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"engine": EXTERNAL}, "an external engine loads its own weights"),
        ({"source": None}, "'m' has no source"),
        ({"task": "image-generation"}, "vLLM serves no image generation"),
        ({"engine": {"type": "vllm-omni"}}, "vLLM-Omni serves image generation here, not chat"),
        ({"task": "embedding", "chain": {"package": "p"}}, "an embedding model has no chain"),
        ({"task": "embedding", "sampling": {"top_p": 1}}, "sampling is for text, not for embedding"),
        ({"drawing": {"size": "8x8"}}, "drawing is for image-generation, not for chat"),
        ({"limits": {"max_images": 2}}, "a chat model takes no images"),
        ({"sampling": {"max_tokens": 9}, "limits": {"max_model_len": 8}}, "max_tokens 9 is more than the context"),
        ({"engine": {"type": "vllm", "flags": {"--max_model_len": 8}}}, "is not how flags are written"),
        ({"engine": {"type": "vllm", "flags": {"a b": 8}}}, "'a b' is no flag"),
        ({"engine": {"type": "vllm", "flags": {"port": 80}}}, "the launcher sets 'port' itself"),
        (
            {"engine": {"type": "vllm", "flags": {"enforce-eager": True, "no-enforce-eager": True}}},
            "'enforce-eager' and 'no-enforce-eager' contradict",
        ),
        (
            {"engine": {"type": "vllm", "flags": {"max-model-len": 5}}, "limits": {"max_model_len": 8}},
            "max-model-len 5 and limits.max_model_len 8 contradict",
        ),
        (
            {"source": {"type": "pypi", "package": "p", "version": "1", "sha256": "0" * 64, "file": "../x.gguf"}},
            "the path leaves the wheel",
        ),
    ],
)
def test_fields_that_contradict_are_told(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    """What one field cannot know of another is checked too."""
    problem = problem_of_entry(tmp_path, **entry)
    assert message in problem.message
    assert problem.fix


def test_a_contradiction_stands_at_the_line_of_its_field(tmp_path: Path) -> None:
    """The key is pointed at, not the entry."""
    engine = '"engine": {"type": "external", "url": "http://h/v1"}'
    text = '{"models": [{"id": "m",\n' + engine + ',\n"source": {"type": "hub", "repo": "a/b"}}]}'
    (problem,) = problems_of(tmp_path, text)
    assert (problem.line, problem.column) == (3, 1)


# --- paths and packages ------------------------------------------------------------------


def test_relative_paths_start_at_the_list_of_models(tmp_path: Path) -> None:
    """Wherever the launcher was started."""
    source = {"type": "path", "path": "weights/m", "tokenizer": "./tokenizer"}
    (tmp_path / "models.json").write_text(json.dumps({"models": [{"id": "m", "source": source}]}))
    loaded = load_registry(tmp_path / "models.json").models[0].source
    assert isinstance(loaded, PathSource)
    assert loaded.path == str(tmp_path / "weights/m")
    assert loaded.tokenizer == str(tmp_path / "tokenizer")


def test_a_hub_tokenizer_of_a_local_gguf_stays_a_hub_id(tmp_path: Path) -> None:
    """Only what starts with a dot is a path."""
    source = {"type": "path", "path": "/w/m.gguf", "tokenizer": "Qwen/Qwen3-8B"}
    (tmp_path / "models.json").write_text(json.dumps({"models": [{"id": "m", "source": source}]}))
    loaded = load_registry(tmp_path / "models.json").models[0].source
    assert isinstance(loaded, PathSource)
    assert (loaded.path, loaded.tokenizer) == ("/w/m.gguf", "Qwen/Qwen3-8B")


def test_a_chain_package_that_does_not_import_is_told_at_its_line(tmp_path: Path) -> None:
    """Its name is checked where models.json is, before anything starts."""
    text = '{"models": [{"id": "m", "source": {"type": "hub", "repo": "a/b"},\n"chain": {"package": "no_such.chain"}}]}'
    (tmp_path / "models.json").write_text(text)
    registry = load_registry(tmp_path / "models.json")
    (problem,) = check_chains(tmp_path / "models.json", registry)
    assert problem.line == 2
    assert "no package 'no_such.chain'" in problem.message


def test_a_chain_package_that_is_there_is_no_problem(tmp_path: Path) -> None:
    """Found is enough: nothing is imported to know it."""
    text = '{"models": [{"id": "m", "source": {"type": "hub", "repo": "a/b"}, "chain": {"package": "json"}}]}'
    (tmp_path / "models.json").write_text(text)
    assert check_chains(tmp_path / "models.json", load_registry(tmp_path / "models.json")) == ()


# --- the schema --------------------------------------------------------------------------


def test_the_checked_in_schema_is_current() -> None:
    """Run ``python -m vllm_launcher schema`` where this fails."""
    assert (REPOSITORY / "models.schema.json").read_text() == schema_text()


def test_the_schema_is_written_as_it_is_checked(tmp_path: Path) -> None:
    """The command and the test use one text."""
    write_schema(tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text() == schema_text()


def test_the_list_of_models_satisfies_the_schema() -> None:
    """An editor that validates shows no error in the file we ship."""
    schema = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads((REPOSITORY / "models.json").read_text()), schema)


@pytest.mark.parametrize("entry", [{"id": "health"}, {"id": "m", "sorce": {}}, {"id": "m", "task": "chatt"}])
def test_the_schema_refuses_what_the_loader_refuses(entry: dict[str, Any]) -> None:
    """Reserved ids, unknown fields and unknown tasks are seen in the editor already."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"models": [entry]}, json.loads(schema_text()))
