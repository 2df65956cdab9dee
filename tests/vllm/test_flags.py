"""Every flag a plan emits is accepted by the argument parser of the vLLM it is emitted for."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.surroundings import ROOT
from vllm_launcher.command import build_command
from vllm_launcher.hardware import Hardware
from vllm_launcher.planning.architectures import FAMILIES
from vllm_launcher.planning.plan import plan
from vllm_launcher.registry import Registry, load_registry

MACHINES = Path(__file__).parents[1] / "unit/machines"

CHECK = """
import json, sys
from vllm import envs
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.model_executor.models.registry import ModelRegistry
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = make_arg_parser(FlexibleArgumentParser())
parser.exit_on_error = False
def refuse(message):
    raise ValueError(message)
parser.error = refuse
architectures = set(ModelRegistry.get_supported_archs())

def check_command(command, methods):
    arguments = parser.parse_args(command)
    validate_parsed_serve_args(arguments)
    AsyncEngineArgs.from_cli_args(arguments)
    if arguments.quantization and arguments.quantization not in methods:
        refuse("quantization " + arguments.quantization)
    if arguments.tool_call_parser:
        ToolParserManager.get_tool_parser(arguments.tool_call_parser)
    if arguments.reasoning_parser:
        ReasoningParserManager.get_reasoning_parser(arguments.reasoning_parser)

def objections(asked):
    methods = {*QUANTIZATION_METHODS, *asked["plugin_methods"]}
    for command in asked["commands"]:
        try:
            check_command(command, methods)
        except Exception as error:
            yield f"{command}: {error!r}"
    yield from ("architecture " + name for name in asked["architectures"] if name not in architectures)
    ours = (name for name in asked["variables"] if name.startswith("VLLM_"))
    yield from ("variable " + name for name in ours if name not in envs.environment_variables)

print("CHECKED " + json.dumps([list(objections(asked)) for asked in json.load(sys.stdin)]))
"""

ALIASES = {"ChatGLMModel", "ChatGLMForConditionalGeneration"}
"""Names configs use that vLLM serves under another name, which the plan overrides."""


WRONG = {
    "commands": [
        ["--model", "{checkpoint}", "--kv-cache-memory-byte-s", "5"],
        ["--model", "{checkpoint}", "--tool-call-parser", "no-such-parser"],
        ["--model", "{checkpoint}", "--reasoning-parser", "no-such-parser"],
        ["--model", "{checkpoint}", "--quantization", "no-such-method"],
    ],
    "variables": ["VLLM_NO_SUCH_THING"],
    "architectures": ["NoSuchModelForCausalLM"],
    "plugin_methods": list[str](),
}
"""One of each: the check itself has to be able to fail."""


@pytest.mark.timeout(400)
async def test_the_engine_accepts_every_flag_of_every_plan(engine_python: Path, tmp_path: Path) -> None:
    """All recorded machines, the whole list of models; what vLLM does not know names itself here."""
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    refused, wrong = await check(engine_python, [planned(tmp_path), WRONG], tmp_path)
    assert refused == []
    assert len(wrong) == 6


async def check(python: Path, asked: Sequence[Mapping[str, Any]], checkpoint: Path) -> list[list[str]]:
    """What vLLM's own code objects to in each."""
    process = await asyncio.create_subprocess_exec(
        str(python),
        "-c",
        CHECK,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "HOME": str(checkpoint), "PATH": "/usr/bin:/bin"},
    )
    output, _ = await process.communicate(json.dumps(asked).replace("{checkpoint}", str(checkpoint)).encode())
    (line,) = [line for line in output.decode().splitlines() if line.startswith("CHECKED ")]
    return json.loads(line.removeprefix("CHECKED "))


def planned(checkpoint: Path) -> Mapping[str, Any]:
    """Everything that plans for the recorded machines put to vLLM, and every parser in the table of families."""
    registry = load_registry(ROOT / "models.json")
    asked: list[list[str]] = [["--model", "{checkpoint}", "--quantization", "fp8_per_channel"]]
    variables: set[str] = set()
    for machine in sorted(MACHINES.glob("*.json")):
        more, names = commands(registry, machine, checkpoint)
        asked += more
        variables |= names
    return {
        "commands": asked + [["--model", "{checkpoint}", *flags] for flags in parser_flags()],
        "variables": sorted(variables),
        "architectures": sorted(set(FAMILIES) - ALIASES),
        "plugin_methods": ["bitsandbytes", "gguf"],
    }


def commands(registry: Registry, machine: Path, checkpoint: Path) -> tuple[list[list[str]], set[str]]:
    """The arguments of every vLLM server planned on that machine, and the variables they get."""
    hardware = Hardware.model_validate_json(machine.read_text())
    servers = [server for server in plan(registry, hardware).servers if server.engine in ("vllm-cpu", "vllm-cuda")]
    specs = [spec for server in servers if (spec := registry.get(server.model)) is not None]
    built = [
        build_command(server, spec, python=Path("python"), checkpoint=checkpoint, tokenizer=checkpoint, port=8001)
        for server, spec in zip(servers, specs, strict=True)
    ]
    return [list(command.argv[3:]) for command in built], {name for command in built for name in command.env}


def parser_flags() -> Iterator[list[str]]:
    """The parsers of every family."""
    for family in FAMILIES.values():
        if family.tools:
            yield ["--enable-auto-tool-choice", "--tool-call-parser", family.tools]
        if family.reasoning:
            yield ["--reasoning-parser", family.reasoning]
