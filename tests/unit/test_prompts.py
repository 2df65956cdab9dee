"""What a model will see: shown to people, and rendered dry before anybody asks."""

import asyncio
import copy
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from app.chains import ChainError
from app.server import create_app
from tests.unit.scripted import (
    MODEL,
    REGISTRY,
    SOON,
    ScriptedEngine,
    ScriptedLauncher,
    caller,
    refusal,
    running,
    server,
    settings,
)

STRICT = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ('user', 'assistant') %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% if (message.role == 'user') != (loop.index0 is even) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ message.content }}{{ eos_token }}{% endfor %}"
)
"""Takes what Mixtral's own template takes: user and assistant in turns, no system role."""
CONTEXT = 4096


class SeeingEngine(ScriptedEngine):
    """Tokenizes a conversation as its text in UTF-8; refuses what ``STRICT`` refuses if told to."""

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__(self.see)
        self.strict = strict

    def see(self, body: Mapping[str, Any]) -> Any:
        """Answer ``/tokenize`` and ``/detokenize``."""
        if self.urls[-1].endswith("/detokenize"):
            return 200, {"prompt": bytes(body["tokens"]).decode()}
        if self.strict and any(message["role"] == "system" for message in body["messages"]):
            return 400, refusal("Only user and assistant roles are supported!", code=400)
        text = "".join(f"<{message['role']}>{message['content']}" for message in body["messages"])
        tokens = [*text.encode()]
        return 200, {"count": len(tokens), "max_model_len": CONTEXT, "tokens": tokens}


def told(folder: Path, *, chain: Mapping[str, Any], template: str | None = None, **fields: Any) -> Any:
    """Settings with one model with this chain, whose checkpoint carries this chat template."""
    registry = copy.deepcopy(REGISTRY)
    registry["models"][0]["chain"] = chain
    registry["models"][0]["source"] = {"type": "path", "path": "checkpoint"}
    registry["models"][0].pop("engine", None)
    made = settings(folder, registry, **fields)
    if template is not None:
        tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": template}
        (folder / "checkpoint" / "tokenizer_config.json").write_text(json.dumps(tokens))
    return made


SYSTEM = {"package": "smollm2_chat", "system_prompt": "Be brief."}


# --- shown ---------------------------------------------------------------------------------


async def test_what_the_model_will_see_is_shown(tmp_path: Path) -> None:
    """The chain's messages, their text by the engine's own tokens, and how many those are; nothing is generated."""
    engine = SeeingEngine()
    app = create_app(told(tmp_path, chain=SYSTEM), launcher=ScriptedLauncher(server()), connections=engine)
    async with running(app), caller(app) as client:
        response = await client.post(f"/models/{MODEL}/prompt", json={"messages": [{"role": "user", "content": "Hé"}]})
    text = "<system>Be brief.<user>Hé"
    assert response.json() == {
        "model": MODEL,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hé"}],
        "text": text,
        "tokens": len(text.encode()),
        "max_model_len": CONTEXT,
    }
    assert {url.rsplit("/", 1)[1] for url in engine.urls} == {"tokenize", "detokenize"}


@pytest.mark.parametrize("said", ["Hi", {"input": "Hi"}, {"messages": [["human", "Hi"]]}])
async def test_any_form_of_an_input_is_shown(tmp_path: Path, said: Any) -> None:
    """The body is what the chain takes."""
    chain = {"package": "mixtral_chat", "system_prompt": "Be brief."}
    app = create_app(told(tmp_path, chain=chain), launcher=ScriptedLauncher(server()), connections=SeeingEngine())
    async with running(app), caller(app) as client:
        response = await client.post(f"/models/{MODEL}/prompt", json=said)
    assert response.json()["messages"] == [{"role": "user", "content": "Be brief.\n\nHi"}]


async def test_what_cannot_be_shown_is_refused(tmp_path: Path) -> None:
    """An unknown model, and an input that is none."""
    app = create_app(told(tmp_path, chain=SYSTEM), launcher=ScriptedLauncher(server()), connections=SeeingEngine())
    async with running(app), caller(app) as client:
        unknown = await client.post("/models/nobody/prompt", json="Hi")
        odd = await client.post(f"/models/{MODEL}/prompt", json={"messages": 7})
    assert unknown.status_code == 404
    assert "There is no model 'nobody'" in unknown.text
    assert odd.status_code == 400


async def test_a_chain_of_several_steps_says_that_it_cannot_tell(tmp_path: Path) -> None:
    """What an agent's model sees depends on what its tools find."""
    chain = {"package": "tools_agent", "tools": ["clock"]}
    app = create_app(told(tmp_path, chain=chain), launcher=ScriptedLauncher(server()), connections=SeeingEngine())
    async with running(app), caller(app) as client:
        response = await client.post(f"/models/{MODEL}/prompt", json="What time is it?")
    assert response.status_code == 400
    assert "several steps" in response.text


# --- rendered dry: by the checkpoint's files -----------------------------------------------


def test_a_system_prompt_that_the_template_refuses_is_an_error_of_the_list(tmp_path: Path) -> None:
    """With file, line and fix, before anything is served."""
    made = told(tmp_path, chain=SYSTEM, template=STRICT)
    line = 1 + made.models.read_text().splitlines().index('        "system_prompt": "Be brief."')
    with pytest.raises(ChainError) as caught:
        create_app(made, launcher=ScriptedLauncher(server()), connections=SeeingEngine())
    assert f"{made.models}:{line}:" in str(caught.value)
    assert "Only user and assistant roles are supported!" in str(caught.value)
    assert "fix: use a package that puts it into the user's first turn, as mixtral_chat does" in str(caught.value)


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.jinja", "named"])
def test_the_template_is_found_where_checkpoints_carry_it(tmp_path: Path, where: str) -> None:
    """In the tokenizer's settings, alone or by name, or in a file of its own, which wins."""
    named = [{"name": "tool_use", "template": ""}, {"name": "default", "template": STRICT}]
    made = told(tmp_path, chain=SYSTEM, template={"named": named, "chat_template.jinja": ""}.get(where, STRICT))  # type: ignore[arg-type]
    if where == "chat_template.jinja":
        (tmp_path / "checkpoint" / where).write_text(STRICT)
    with pytest.raises(ChainError, match="refuses the chain's system prompt"):
        create_app(made, launcher=ScriptedLauncher(server()), connections=SeeingEngine())


@pytest.mark.parametrize(
    ("chain", "template"),
    [
        ({"package": "mixtral_chat", "system_prompt": "Be brief."}, STRICT),
        ({"package": "smollm2_chat", "system_prompt": ""}, STRICT),
        (SYSTEM, "{{ messages | tojson }}"),
        (SYSTEM, "{% what %}"),
        (SYSTEM, "{{ messages.nobody.knows }}"),
        (SYSTEM, None),
        ({**SYSTEM, "chat_template": "{% for m in messages %}{{ m['content'] }}{% endfor %}"}, STRICT),
    ],
    ids=["folded", "none", "taken", "foreign syntax", "foreign values", "no template", "the app's own"],
)
def test_what_the_template_does_not_refuse_is_served(tmp_path: Path, chain: Any, template: str | None) -> None:
    """A package that folds; a chain without a system prompt; a template that only the engine can render."""
    made = told(tmp_path, chain=chain, template=template)
    create_app(made, launcher=ScriptedLauncher(server()), connections=SeeingEngine())


# --- rendered dry: by the engine -----------------------------------------------------------


class Complaints(logging.Handler):
    """Collects warnings, and tells of the first."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self.once = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        self.said.append(record.getMessage())
        self.once.set()


async def test_an_engine_that_refuses_the_prompt_is_told_of_when_it_is_ready(tmp_path: Path) -> None:
    """With file, line and fix; nobody had to ask, nothing was generated, and each run of a server is tried once."""
    made = told(tmp_path, chain=SYSTEM, rehearse=True)
    launcher, engine, complaints = ScriptedLauncher(server("starting")), SeeingEngine(strict=True), Complaints()
    log = logging.getLogger("app.rehearsal")
    log.addHandler(complaints)
    try:
        app = create_app(made, launcher=launcher, connections=engine)
        async with running(app), asyncio.timeout(SOON):
            assert engine.urls == []
            launcher.say(server())
            await complaints.once.wait()
            launcher.say(server(phase="still"))
            async for status in app.state.table.changes():
                if status and status.servers[0].phase == "still":
                    break
    finally:
        log.removeHandler(complaints)
    (said,) = complaints.said
    assert str(made.models) in said
    assert "refuses the chain's system prompt: Only user and assistant roles are supported!" in said
    assert "fix: use a package" in said
    assert {url.rsplit("/", 1)[1] for url in engine.urls} == {"tokenize"}
    assert [[turn["role"] for turn in body["messages"]] for body in engine.requests] == [
        ["system", "user", "assistant", "user"],
        ["user", "assistant", "user"],
    ]
