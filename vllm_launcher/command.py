"""A planned server as the command line of its engine. Pure.

Engines listen on 127.0.0.1 only. The environment is small and explicit: nothing of the launcher's own leaks in
but what a process needs to run at all.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_launcher.planning.planned import PlannedServer
from vllm_launcher.registry.entries import Flag, ModelSpec

HOST = "127.0.0.1"

CHECKPOINT = "{checkpoint}"
"""Stands for the folder of the weights, in an entry's own flags too."""

ROUTE = Path(__file__).parent / "engines" / "runtime" / "route.py"
ROUTER_ENGINE = "vllm-router"

INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER", "LD_LIBRARY_PATH", "CUDA_HOME", "HF_HOME",
    "XDG_CACHE_HOME", "SSL_CERT_FILE",
)  # fmt: skip
"""What an engine may take over from the launcher's environment; no proxies, no tokens, no keys."""


@dataclass(frozen=True, slots=True)
class Command:
    """How to start one engine process."""

    argv: tuple[str, ...]
    env: dict[str, str]


def build_command(  # noqa: PLR0913 - all of them are bound at the start, and each is named
    server: PlannedServer,
    spec: ModelSpec,
    *,
    python: Path,
    checkpoint: Path,
    port: int | str,
    tokenizer: Path | None = None,
    inherited: Mapping[str, str] | None = None,
) -> Command:
    """The command of a planned server.

    Args:
        server: What the plan chose.
        spec: The entry it serves.
        python: The interpreter of the engine's own environment.
        checkpoint: The folder of the weights, or a GGUF file.
        port: A free port, this server's own; or what stands for it where a command is shown.
        tokenizer: Where the tokenizer a GGUF is served with lies on this machine.
        inherited: The launcher's environment, of which ``INHERITED`` is passed on.
    """
    return Command(
        argv=tuple(
            argument.replace(CHECKPOINT, str(checkpoint))
            for argument in (
                str(python),
                *_entry_point(server.engine),
                *_arguments(server, spec, port, tokenizer),
            )
        ),
        env={**_inherit(inherited or {}, python), **server.env},
    )


def build_router_command(
    *, python: Path, policy: str, port: int | str, inherited: Mapping[str, str] | None = None
) -> Command:
    """The command of the router in front of a model's replicas, but for their base URLs, which end it.

    Args:
        python: The interpreter of the router's own environment.
        policy: How it balances, in vllm-router's words.
        port: A free port, its own.
        inherited: The launcher's environment, of which ``INHERITED`` is passed on.
    """
    return Command(argv=(str(python), "-I", str(ROUTE), str(port), policy), env=_inherit(inherited or {}, python))


def flag_arguments(flags: Mapping[str, Flag]) -> Iterator[str]:
    """Flags as arguments.

    True is the bare flag, false its ``no-`` form, null nothing, a list several values, an object JSON.
    """
    for name, value in flags.items():
        match value:
            case None:
                continue
            case True:
                yield f"--{name}"
            case False:
                yield f"--no-{name}"
            case list():
                yield from (f"--{name}", *value)
            case _ if _text(value).startswith("-"):
                yield f"--{name}={_text(value)}"  # apart, it would be taken for a flag
            case _:
                yield from (f"--{name}", _text(value))


def _entry_point(engine: str) -> Sequence[str]:
    if engine.startswith("vllm-omni"):
        return ("-m", "vllm_omni.entrypoints.cli.main", "serve", CHECKPOINT, "--omni")
    return ("-m", "vllm.entrypoints.openai.api_server", "--model", CHECKPOINT)


def _arguments(server: PlannedServer, spec: ModelSpec, port: int | str, tokenizer: Path | None) -> Iterator[str]:
    yield from ("--served-model-name", spec.id, "--host", HOST, "--port", str(port))
    bound = {"tokenizer": str(tokenizer)} if tokenizer is not None and "tokenizer" in server.flags else {}
    yield from flag_arguments({**server.flags, **bound})


def _text(value: Flag) -> str:
    return json.dumps(value) if isinstance(value, float | dict) else str(value)


def _inherit(environment: Mapping[str, str], python: Path) -> dict[str, str]:
    kept = {name: environment[name] for name in INHERITED if name in environment}
    path = kept.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    return {**kept, "PATH": f"{python.parent}:{path}", "PYTHONUNBUFFERED": "1"}
