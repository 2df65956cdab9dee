"""Sleep mode over real processes: memory is given back without ending the server, and taken again."""

import re
from dataclasses import replace

import aiohttp
import pytest

from tests.process.conftest import MakeFleet
from tests.process.fleet import until

WOKEN = {
    1: ["/sleep?level=1&mode=wait", "/wake_up"],
    2: ["/sleep?level=2&mode=wait", "/wake_up?tags=weights", "/collective_rpc", "/wake_up?tags=kv_cache"],
}
"""What vLLM has to be asked for, in this order (docs.vllm.ai, Sleep Mode)."""


@pytest.mark.parametrize("level", [1, 2])
async def test_a_server_sleeps_while_another_has_its_memory_and_answers_again(fleet: MakeFleet, level: int) -> None:
    """The same process, before and after; in between it holds no room."""
    engines = fleet(sleeper="sleeps", other="")
    specs = [replace(engines.spec("sleeper"), sleep=level), engines.spec("other")]
    async with engines.launcher(specs=specs, room_for=1) as launcher, aiohttp.ClientSession() as session:
        launcher.ensure_ready("sleeper")
        before = await until(launcher.events(), "sleeper", "ready")
        launcher.ensure_ready("other")
        await until(launcher.events(), "other", "ready")
        asleep = launcher.status().server("sleeper")
        assert asleep is not None
        assert (asleep.state, asleep.pid, asleep.endpoint) == ("asleep", before.pid, None)
        launcher.ensure_ready("sleeper")
        again = await until(launcher.events(), "sleeper", "ready")
        assert (again.pid, again.restarts) == (before.pid, 0)
        other = launcher.status().server("other")
        assert other is not None
        assert other.state == "stopped"
        body = {"model": "sleeper", "max_tokens": 3}
        async with session.post(f"{again.endpoint}/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
    log = engines.run.log("sleeper").read_text()
    assert re.findall(r"POST (/(?:sleep|wake_up|collective_rpc)\S*)", log) == WOKEN[level]
