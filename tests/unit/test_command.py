"""A planned server becomes one command line and a small environment."""

from pathlib import Path

import pytest

from vllm_launcher.command import build_command, flag_arguments
from vllm_launcher.planning.planned import PlannedServer
from vllm_launcher.registry.entries import Flag, ModelSpec

SPEC = ModelSpec.model_validate({"id": "m", "source": {"type": "hub", "repo": "a/b"}})


def command(server: PlannedServer, tokenizer: Path | None = None) -> list[str]:
    """The command line of a server in an engine at /e, weights at /w, port 8001."""
    python = Path("/e/bin/python")
    built = build_command(server, SPEC, python=python, checkpoint=Path("/w"), port=8001, tokenizer=tokenizer)
    return list(built.argv)


def test_a_vllm_server_listens_on_loopback_under_its_own_name() -> None:
    """Model, name, address and port are bound at the start; the flags follow."""
    server = PlannedServer(model="m", engine="vllm-cpu", flags={"dtype": "bfloat16"})
    module = ["/e/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", "/w"]
    bound = ["--served-model-name", "m", "--host", "127.0.0.1", "--port", "8001"]
    assert command(server) == [*module, *bound, "--dtype", "bfloat16"]


def test_vllm_omni_has_a_command_of_its_own() -> None:
    """Its serve command, with the switch that makes it Omni."""
    argv = command(PlannedServer(model="m", engine="vllm-omni-cpu"))
    assert argv[1:6] == ["-m", "vllm_omni.entrypoints.cli.main", "serve", "/w", "--omni"]


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        (True, ["--x"]),
        (False, ["--no-x"]),
        (None, []),
        (5, ["--x", "5"]),
        (0.9, ["--x", "0.9"]),
        (-1, ["--x=-1"]),
        ("a b", ["--x", "a b"]),
        ("-a", ["--x=-a"]),
        (["a", "b"], ["--x", "a", "b"]),
        ({"a": 1, "b": True}, ["--x", '{"a": 1, "b": true}']),
    ],
)
def test_flags_become_arguments(value: Flag, arguments: list[str]) -> None:
    """Every kind of value; what begins with a dash is not taken for a flag."""
    assert list(flag_arguments({"x": value})) == arguments


def test_the_checkpoint_is_named_inside_flags_too() -> None:
    """A pipeline of one's own lies in the folder of the weights."""
    server = PlannedServer(model="m", engine="vllm-omni-cpu", flags={"diffusers-load-kwargs": '{"p": "{checkpoint}"}'})
    assert command(server)[-1] == '{"p": "/w"}'


def test_the_tokenizer_of_a_gguf_is_the_one_on_this_machine() -> None:
    """The plan names it, the start knows where it lies."""
    server = PlannedServer(model="m", engine="vllm-cuda", flags={"tokenizer": "Qwen/Qwen3-8B"})
    assert command(server, tokenizer=Path("/t"))[-2:] == ["--tokenizer", "/t"]


def test_a_tokenizer_nobody_planned_is_not_passed() -> None:
    """A checkpoint has its own."""
    assert "--tokenizer" not in command(PlannedServer(model="m", engine="vllm-cpu"), tokenizer=Path("/t"))


def test_the_environment_is_small() -> None:
    """No key, token or proxy of the launcher's reaches an engine; what the plan says wins."""
    server = PlannedServer(model="m", engine="vllm-cpu", env={"OMP_NUM_THREADS": "1", "HOME": "/h"})
    inherited = {"PATH": "/usr/bin", "HOME": "/root", "HF_TOKEN": "secret", "HTTP_PROXY": "http://p", "LANG": "C"}
    environment = build_command(
        server, SPEC, python=Path("/e/bin/python"), checkpoint=Path("/w"), port=1, inherited=inherited
    ).env
    assert environment == {
        "PATH": "/e/bin:/usr/bin",
        "HOME": "/h",
        "LANG": "C",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
    }
