"""Every flag a plan emits for vLLM-Omni is accepted by its parser, and by the stage that gets it afterwards."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.surroundings import ROOT, missing
from vllm_launcher.command import build_command
from vllm_launcher.hardware import Hardware
from vllm_launcher.planning.plan import plan
from vllm_launcher.registry import load_registry
from vllm_launcher.settings import Settings

MACHINES = Path(__file__).parents[1] / "unit/machines"

CHECK = """
import json, sys
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm_omni.config.omni_config import normalize_and_validate_diffusion_engine_ingress_kwargs as check_stage
from vllm_omni.entrypoints.cli import serve

serve._ensure_vllm_platform()
parser = FlexibleArgumentParser()
served = serve.OmniServeCommand().subparser_init(parser.add_subparsers(dest="subparser"))
def refuse(message):
    raise ValueError(message)
parser.error = served.error = refuse
plain = vars(parser.parse_args(["serve", "model", "--omni"]))

def objections(commands):
    for command in commands:
        try:
            given = vars(parser.parse_args(command))
            check_stage({name: value for name, value in given.items() if plain.get(name) != value}, stage_id=0)
        except Exception as error:
            yield f"{command}: {error!r}"

print("CHECKED " + json.dumps([list(objections(commands)) for commands in json.load(sys.stdin)]))
"""

WRONG = [
    ["serve", "model", "--omni", "--no-such-flag", "1"],
    ["serve", "model", "--omni", "--diffusers-load-kwargs", "no JSON"],
    ["serve", "model", "--omni", "--shutdown-timeout", "30"],  # the parser takes it, the diffusion stage does not
]
"""The check itself has to be able to fail."""


@pytest.mark.timeout(400)
async def test_vllm_omni_accepts_every_flag_of_every_plan(tmp_path: Path) -> None:
    """All recorded machines, the whole list of models; CPU and GPU builds have one parser."""
    commands = planned()
    assert commands
    refused, wrong = await check(omni_python(), [commands, WRONG], tmp_path)
    assert refused == []
    assert len(wrong) == len(WRONG)


async def check(python: Path, asked: list[list[list[str]]], home: Path) -> list[list[str]]:
    """What vLLM-Omni's own code objects to in each list."""
    process = await asyncio.create_subprocess_exec(
        str(python),
        "-c",
        CHECK,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "HOME": str(home), "PATH": "/usr/bin:/bin"},
    )
    output, _ = await process.communicate(json.dumps(asked).encode())
    (line,) = [line for line in output.decode().splitlines() if line.startswith("CHECKED ")]
    return json.loads(line.removeprefix("CHECKED "))


def planned() -> list[list[str]]:
    """The arguments of every vLLM-Omni server planned on every recorded machine."""
    registry = load_registry(ROOT / "models.json")
    found: list[list[str]] = []
    for machine in sorted(MACHINES.glob("*.json")):
        for server in plan(registry, Hardware.model_validate_json(machine.read_text())).servers:
            spec = registry.get(server.model)
            if spec is not None and server.engine.startswith("vllm-omni"):
                command = build_command(server, spec, python=Path("python"), checkpoint=Path("model"), port=8001)
                found.append(list(command.argv[command.argv.index("serve") :]))
    return found


def omni_python() -> Path:
    """The interpreter of the installed engine: the newest whole environment in the user's cache."""
    whole = sorted(Settings().engines_dir.glob("vllm-omni-cpu-*/.complete"), key=lambda stamp: stamp.stat().st_mtime)
    if not whole:
        missing("the vllm-omni-cpu engine")
    return whole[-1].parent / "bin" / "python"
