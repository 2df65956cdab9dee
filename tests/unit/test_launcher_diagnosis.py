"""Reasons and hints from what engines really print."""

from pathlib import Path

import pytest

from vllm_launcher.keeping.diagnosis import explain, hint_for, last_meaningful

CORE = "(EngineCore pid=3021) ERROR 11-22 16:18:00 [core.py:900] "
VLLM_START = [
    f"{CORE}EngineCore failed to start.",
    f"{CORE}Traceback (most recent call last):",
    f'{CORE}  File "core.py", line 891, in run_engine_core',
    (
        f"{CORE}ValueError: To serve at least one request with the models's max seq len (131072), 14.00 GiB KV cache "
        "is needed"
    ),
    "(APIServer pid=2994) Traceback (most recent call last):",
    '(APIServer pid=2994)   File "api_server.py", line 1, in <module>',
    (
        "(APIServer pid=2994) RuntimeError: Engine core initialization failed. "
        "See root cause above. Failed core proc(s): {}"
    ),
]


def test_the_root_cause_is_told_and_not_its_echo() -> None:
    """VLLM's last line points at an earlier one."""
    diagnosis = explain(1, VLLM_START)
    assert diagnosis.reason.startswith("ValueError: To serve at least one request")
    assert diagnosis.reason.endswith("(ended with code 1)")
    assert diagnosis.hint == "The context does not fit into the KV cache: lower limits.max_model_len."


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("OSError: [Errno 98] Address already in use", "another"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "max_model_len"),
        ("ValueError: No available memory for the cache blocks.", "max_model_len"),
        ("api_server.py: error: unrecognized arguments: --max-modl-len", "engine.flags"),
        ("ModuleNotFoundError: No module named 'vllm'", "engines/"),
        ("OSError: [Errno 28] No space left on device", "disk"),
        ("RuntimeError: please pass trust_remote_code=True", "trust-remote-code"),
    ],
)
def test_well_known_errors_come_with_a_hint(line: str, part: str) -> None:
    """It names what to change."""
    hint = explain(1, ["INFO starting", line]).hint
    assert hint
    assert part in hint


@pytest.mark.parametrize(("code", "part"), [(137, "SIGKILL"), (132, "illegal instruction"), (139, "segmentation")])
def test_a_death_by_a_signal_is_named(code: int, part: str) -> None:
    """Also where the process had no time to say anything."""
    assert part in explain(code, []).reason


def test_an_exit_without_a_word_tells_the_code() -> None:
    """Code 0 included."""
    assert explain(0, []).reason == "The process ended with code 0."


def test_an_access_log_explains_nothing() -> None:
    """What was answered is not what went wrong."""
    lines = ['INFO:     127.0.0.1:44130 - "POST /v1/chat/completions HTTP/1.1" 200 OK']
    assert explain(0, lines).reason == "The process ended with code 0."


def test_a_list_of_routes_explains_nothing() -> None:
    """One of vLLM's has "abort" in its name."""
    routes = [
        "(APIServer pid=1) INFO 11-25 09:49:53 [launcher.py:195] Route: /inference/v1/abort_requests, Methods: POST"
    ]
    assert explain(0, routes).reason == "The process ended with code 0."


def test_an_old_complaint_does_not_explain_a_kill() -> None:
    """An engine warns of this and that as it starts; an exception is told all the same."""
    warned = [
        "WARNING 11-25 09:50:36 [system_utils.py:255] Found ulimit of 20000 and failed to increase it with error x."
    ]
    assert explain(137, warned).reason == "The process was ended by SIGKILL."
    assert explain(137, [*warned, "ValueError: x"]).reason == "ValueError: x (ended by SIGKILL)"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(EngineCore pid=3021) ERROR 11-22 16:18:00 [core.py:900] ValueError: x", "ValueError: x"),
        ("\x1b[31m(Worker_TP0 pid=1) WARNING 01-02 03:04:05 [v1/a.py:1] \x1b[0mOSError: y", "OSError: y"),
        ("ERROR:    [Errno 98] error while attempting to bind", "[Errno 98] error while attempting to bind"),
        ("error: externally-managed-environment", "error: externally-managed-environment"),
    ],
)
def test_prefixes_are_cut_off(line: str, message: str) -> None:
    """Time, process and colours say nothing to a person."""
    assert last_meaningful([line]) == message


def test_what_a_resource_tracker_cleans_up_explains_nothing() -> None:
    """It speaks last, after every death by a signal."""
    lines = [
        "resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 2 leaked shared_memory objects"
    ]
    lines.append("  warnings.warn('resource_tracker: There appear to be %d '")
    assert explain(137, lines).reason == "The process was ended by SIGKILL."


LOGS = Path(__file__).with_name("vllm_logs")
PROVOKED = {
    "heads-not-divisible": (
        "attention heads (9) must be divisible by tensor parallel size (2).",
        "tensor-parallel-size",
    ),
    "unknown-tool-parser": ("invalid tool call parser: hermit", "remove the flag"),
    "unknown-reasoning-parser": ("Reasoning parser 'deepthought' not found", "remove the flag"),
    "unknown-argument": ("unrecognized arguments: --max-modl-len", "engine.flags"),
    "context-too-long": ("User-specified max_model_len (999999) is greater than", "lower limits.max_model_len"),
    "cache-too-small": ("No available memory for the cache blocks", "limits.max_num_seqs"),
    "out-of-memory": ("less than requested memory for kv (1862.65 GiB)", "serve fewer models"),
    "shared-memory-too-small": ("Insufficient space in /dev/shm", "--shm-size"),
    "port-taken": ("Address already in use", "another one"),
    "weights-cut-off": ("Error while deserializing header", "fetch them again"),
    "unknown-architecture": ("Model architectures ['NobodyForCausalLM'] are not supported", "external engine"),
}
"""By log (their README tells how each was provoked): what a person has to be told, and what to do."""


@pytest.mark.parametrize("log", PROVOKED)
def test_what_vllm_really_printed_is_told_in_a_sentence_with_a_fix(log: str) -> None:
    """The root cause out of dozens of lines of several processes, without what is for programmers."""
    said, fix = PROVOKED[log]
    diagnosis = explain(1, (LOGS / f"{log}.log").read_text().splitlines())
    assert said in diagnosis.reason
    assert fix in (diagnosis.hint or "")
    assert "input_value" not in diagnosis.reason


OUT_OF_MEMORY = (
    "(VllmWorker rank=5 pid=50999) ERROR 07-07 15:19:48 [multiproc_executor.py:492] torch.OutOfMemoryError: CUDA out "
    "of memory. Tried to allocate 2.50 GiB. GPU 5 has a total capacity of 79.25 GiB of which 1.79 GiB is free."
)
NO_TEMPLATE = (
    "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat template if the "
    "tokenizer does not define one."
)


def test_every_log_is_diagnosed() -> None:
    """And none is forgotten."""
    assert {path.stem for path in LOGS.glob("*.log")} == set(PROVOKED)


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        (  # vllm-project/vllm#20581
            OUT_OF_MEMORY,
            "serve fewer models",
        ),
        (  # skypilot-org/skypilot#2634
            "OSError: You are trying to access a gated repo.",
            "HF_TOKEN",
        ),
        (  # ToTheBeginning/PuLID#97
            "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-66f4b037)",
            "HF_TOKEN",
        ),
        (  # modelscope/ms-swift#3551
            "[rank4]: OSError: [Errno 28] No space left on device",
            "LANGSERVE_VLLM_CACHE",
        ),
        (  # what the engine answered to the first request, of a tokenizer without a template
            NO_TEMPLATE,
            "chat-template",
        ),
    ],
)
def test_what_could_not_be_provoked_here_is_taken_from_those_it_happened_to(line: str, fix: str) -> None:
    """The issues that they reported it in are named beside each."""
    assert fix in (hint_for(last_meaningful([line]) or "") or "")
