"""Why a process ended, for people: from its exit code and last lines to a reason and a hint. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_launcher.fetching.disk import MAKE_ROOM

PREFIX = re.compile(
    r"""^(?:\x1b\[[0-9;]*m)*                       # colours
    (?:\([^()]*\bpid=\d+\)\s*)?                    # (EngineCore pid=3021)
    (?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):?\s+)?
    (?:\d\d-\d\d\s\d\d:\d\d:\d\d\s+)?              # 11-22 16:18:00
    (?:\[[\w./]+:\d+\]\s?)?                        # [core.py:900]
    (?:\x1b\[[0-9;]*m)*\s*""",
    re.VERBOSE,
)
"""What vLLM and uvicorn put before a message."""

EXCEPTION = re.compile(
    r"^(?:(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Failure)\b(?::|$)|Value error, )"
)
"""The last line of a Python traceback; pydantic's says how many errors there are, and the next one which."""
INPUT = re.compile(r" \[type=\w+, input_value=.*$")
"""What pydantic adds for programmers."""
COMPLAINT = re.compile(r"(?i)\b(?:error|fatal|failed|cannot|killed|abort|illegal instruction|out of memory|usage:)")

ACCESS = re.compile(r'HTTP/[\d.]+" \d{3}\b|^Route: /')
"""A line of an access log, or of the list of routes: what is answered, not what went wrong."""

ECHOES = (
    "See root cause above",
    "EngineDeadError",
    "Engine core initialization failed",
    "WorkerProc initialization failed",
    "asyncio.exceptions.CancelledError",
    "SystemExit",
    "KeyboardInterrupt",
    "BrokenPipeError",
    "resource_tracker: ",
    "Executor failed",
)
"""Lines that follow from another error and say nothing of their own."""

HINTS: tuple[tuple[str, str], ...] = (
    (r"address already in use", "Another program took the port; the next attempt uses another one."),
    (
        r"/dev/shm|shared.memory allocation",  # noqa: S108 - a pattern
        "Too little shared memory: docker run --shm-size=8g (or --ipc=host), or mount -o remount,size=8g /dev/shm.",
    ),
    (
        (
            r"out of memory|cannot allocate memory|std::bad_alloc|no available memory for the cache|DefaultCPUAllocator"
            r"|less than requested memory|less than desired (?:GPU|CPU) memory"
        ),
        "Not enough memory: lower limits.max_model_len or limits.max_num_seqs, or serve fewer models at once.",
    ),
    (
        r"attention heads .*divisible by tensor parallel",
        "Remove tensor-parallel-size from engine.flags: the plan chooses one that divides the heads.",
    ),
    (
        r"invalid tool call parser|reasoning parser '.*' not found|invalid reasoning parser",
        (
            "engine.flags names a parser that this engine does not have: choose one of those, or remove the flag, "
            "and the plan picks it by the model's architecture."
        ),
    ),
    (
        r"chat template",
        (
            "The model brings no chat template: name a checkpoint of its instruct version, "
            'or a template: engine.flags {"chat-template": "/path/to/template.jinja"}.'
        ),
    ),
    (
        r"architectures? .*not supported",
        "This version of the engine does not serve that architecture: name another model or an external engine.",
    ),
    (
        r"larger than the maximum number of tokens that can be stored in KV cache|KV cache.* is needed",
        "The context does not fit into the KV cache: lower limits.max_model_len.",
    ),
    (
        r"max_model_len.* is greater than the derived max_model_len",
        "The model's own context is shorter: lower limits.max_model_len in models.json.",
    ),
    (
        r"unrecognized arguments|invalid choice:|expected one argument",
        "An engine flag in models.json is not one of this engine's: see engine.flags.",
    ),
    (r"trust_remote_code", 'The model brings its own code: engine.flags {"trust-remote-code": true} lets it run.'),
    (
        r"gated repo|repo .* is gated|access to model .* is restricted|401 client error|403 client error",
        "The hub wants to know who asks: accept the model's terms on its page, and set HF_TOKEN.",
    ),
    (r"no space left on device|disk quota exceeded", f"The disk is full. {MAKE_ROOM}"),
    (
        r"no module named|cannot import name|importerror|modulenotfounderror",
        "The engine's environment is broken: remove its folder under engines/ in the cache, and start again.",
    ),
    (
        r"does not exist|no such file|config\.json|can't load|safetensors|checkpoint",
        "The weights look incomplete: remove the model's folder from the cache and fetch them again.",
    ),
)
KILLED = 137
"""Who is killed by SIGKILL has no time to say why; what it last complained of was something else."""
SIGNALS = {
    129: ("by SIGHUP", None),
    130: ("by SIGINT", None),
    132: ("by an illegal instruction", "This build of the engine needs instructions that the processor lacks (AVX2)."),
    134: ("by its own abort()", None),
    135: ("by a bus error", "Often a full /dev/shm: give the machine or container more shared memory."),
    137: ("by SIGKILL", "Most likely the kernel ran out of memory: serve fewer models, or lower the limits."),
    139: ("by a segmentation fault", None),
    143: ("by SIGTERM from outside", None),
}


@dataclass(frozen=True)
class Diagnosis:
    """``reason``: one line. ``hint``: what to do, where that is known."""

    reason: str
    hint: str | None


def explain(code: int, lines: Sequence[str]) -> Diagnosis:
    """Why a process with this exit code (a shell's: 128 + n after signal n) and these last lines ended."""
    line = last_exception(lines) if code == KILLED else last_meaningful(lines)
    how, hint = SIGNALS.get(code, (f"with code {code}", None))
    if line is None:
        return Diagnosis(f"The process was ended {how}." if code in SIGNALS else f"The process ended {how}.", hint)
    return Diagnosis(f"{line} (ended {how})", hint_for(line) or hint)


def last_meaningful(lines: Sequence[str]) -> str | None:
    """The line a person would point at: the last exception that is no echo of another, else the last complaint."""
    spoken = _spoken(lines)
    return last_exception(lines) or _last(spoken, COMPLAINT) or (spoken[-1][:500] if spoken else None)


def last_exception(lines: Sequence[str]) -> str | None:
    """The last exception that is no echo of another."""
    return _last(_spoken(lines), EXCEPTION)


def _last(spoken: Sequence[str], pattern: re.Pattern[str]) -> str | None:
    found = next((message for message in reversed(spoken) if pattern.search(message)), None)
    return None if found is None else INPUT.sub("", found).removeprefix("Value error, ")[:500]


def _spoken(lines: Sequence[str]) -> list[str]:
    messages = [PREFIX.sub("", line).strip() for line in lines]
    return [message for message in messages if message and not _says_nothing(message)]


def _says_nothing(message: str) -> bool:
    return ACCESS.search(message) is not None or any(echo in message for echo in ECHOES)


def hint_for(line: str) -> str | None:
    """What to do about what an engine said, where that is known."""
    return next((hint for pattern, hint in HINTS if re.search(pattern, line, re.IGNORECASE)), None)
