"""What pip prints, as progress and as reasons."""

import pytest

from vllm_launcher.fetching.pip_output import PipOutput, explain
from vllm_launcher.progress import Progress


def told(*lines: str, total: int = 10) -> list[Progress]:
    """What is reported about these lines."""
    reports: list[Progress] = []
    output = PipOutput("installing", reports.append, total=total)
    for line in lines:
        output.line(line)
    return reports


def test_distributions_are_counted_as_they_are_collected() -> None:
    """Out of as many as the lock pins."""
    reports = told("Collecting torch==2.13.0", "  Downloading torch.whl (3 MB)", "Collecting gguf==1.0 (from -r lock)")
    assert [(report.done, report.total) for report in reports] == [(1, 10), (2, 10)]
    assert reports[-1].phase == "installing: downloading"


def test_more_distributions_than_pinned_do_not_exceed_the_total() -> None:
    """Those for another machine are in the lock and not installed, and the other way round for torch."""
    assert told("Collecting a", "Collecting b", total=1)[-1].fraction == 1


def test_a_large_download_tells_its_bytes_and_name() -> None:
    """It takes minutes."""
    reports = told("Collecting torch==2.13.0", "Progress 8000000 of 200000000")
    assert reports[-1] == Progress(
        phase="installing: downloading torch", done=8_000_000, total=200_000_000, unit="bytes"
    )


def test_a_small_download_is_not_worth_a_bar() -> None:
    """It is over before anybody has read its name."""
    assert told("Progress 10 of 20") == []


def test_pip_unpacks_in_silence_from_its_last_line_on() -> None:
    """From there on somebody else has to count."""
    output = PipOutput("installing", lambda _: None, total=1)
    assert not output.unpacking
    output.line("Installing collected packages: a, b")
    assert output.unpacking


@pytest.mark.parametrize(
    ("line", "kind", "permanent"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk", True),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "hashes", True),
        ("WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError'", "network", False),
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out.", "network", False),
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", "absent", True),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'", "forbidden", True),
    ],
)
def test_a_known_failure_has_a_reason_and_a_hint(line: str, kind: str, permanent: bool) -> None:  # noqa: FBT001
    """Whether it may pass by itself decides whether the launcher tries again."""
    cause = explain(["something before", line])
    assert (cause.kind, cause.permanent) == (kind, permanent)
    assert cause.reason.endswith(".")
    assert cause.hint


def test_a_network_that_is_gone_is_not_told_as_a_missing_build() -> None:
    """The second of its two lines follows from the first."""
    lines = ["WARNING: Retrying after connection broken by 'x'", "ERROR: No matching distribution found for a==1"]
    assert explain(lines).kind == "network"


def test_an_unknown_failure_is_told_in_pips_own_words() -> None:
    """Its last line that is an error, else its last words."""
    assert explain(["ERROR: a", "ERROR: metadata is broken", "note: see above"]).reason == "ERROR: metadata is broken"
    assert explain(["one", "two", "three"]).reason == "two three"
