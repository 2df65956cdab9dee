"""Reasons and hints from what engines really print."""

import pytest

from vllm_launcher.keeping.diagnosis import explain, last_meaningful

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
