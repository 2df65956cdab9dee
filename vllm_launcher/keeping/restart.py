"""The restart policy: from the failures so far to "again in so many seconds" or "no more". Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """One attempt that ended. ``cause`` is equal for two that failed the same way."""

    at: float
    """Seconds, on any clock that all failures share."""
    cause: str
    ready: bool = False
    """Whether the server had been ready in this attempt."""
    permanent: bool = False


@dataclass(frozen=True)
class RestartPolicy:
    """How often, and how patiently. Times in seconds."""

    first_delay: float = 1.0
    longest_delay: float = 60.0
    most_failures: int = 5
    """So many in a row without ever getting ready, or so many of any kind within the window: no more."""
    window: float = 900.0
    most_equal: int = 3
    """So many in a row that failed the same way before getting ready: no more."""


PATIENT = RestartPolicy(longest_delay=30.0, most_failures=2**31, most_equal=2**31)
"""For servers that somebody else runs: asking again costs nothing, and they come back without telling."""


@dataclass(frozen=True)
class Again:
    """Try again after ``delay`` seconds."""

    delay: float


@dataclass(frozen=True)
class GiveUp:
    """Trying again is not worth it; ``why`` ends the sentence "given up after"."""

    why: str


def decide(failures: Sequence[Failure], policy: RestartPolicy) -> Again | GiveUp:
    """What follows the last of ``failures`` (in the order they happened, at least one)."""
    last = failures[-1]
    if last.permanent:
        return GiveUp("an error that does not go away by itself")
    unready = _streak(failures)
    equal = _equal_streak(unready)
    if equal >= policy.most_equal:
        return GiveUp(f"failing {equal} times the same way")
    if len(unready) >= policy.most_failures:
        return GiveUp(f"{len(unready)} {'attempt' if len(unready) == 1 else 'attempts'} that never got ready")
    recent = [failure for failure in failures if last.at - failure.at <= policy.window]
    if len(recent) >= policy.most_failures:
        return GiveUp(f"{len(recent)} failures within {_minutes(policy.window)}")
    return Again(_delay(max(len(unready), len(recent)), policy))


def _streak(failures: Sequence[Failure]) -> list[Failure]:
    """The latest failures without a ready server among them."""
    streak: list[Failure] = []
    for failure in reversed(failures):
        if failure.ready:
            break
        streak.append(failure)
    return streak


def _equal_streak(newest_first: Sequence[Failure]) -> int:
    count = 0
    for failure in newest_first:
        if failure.cause != newest_first[0].cause:
            break
        count += 1
    return count


def _delay(number: int, policy: RestartPolicy) -> float:
    doublings = min(number - 1, 16)  # beyond that every sensible limit is passed
    return min(policy.first_delay * 2.0**doublings, policy.longest_delay)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"  # noqa: PLR2004 - two minutes
