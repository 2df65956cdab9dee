"""The restart policy, as histories of failures."""

from hypothesis import given
from hypothesis import strategies as st

from vllm_launcher.keeping.restart import PATIENT, Again, Failure, GiveUp, RestartPolicy, decide

POLICY = RestartPolicy(first_delay=1.0, longest_delay=8.0, most_failures=5, window=900.0, most_equal=3)


def failures(*causes: str, ready: bool = False, every: float = 1.0) -> list[Failure]:
    """One failure for each cause."""
    return [Failure(at=number * every, cause=cause, ready=ready) for number, cause in enumerate(causes)]


def test_the_first_failure_is_followed_by_a_short_wait() -> None:
    """The first delay is the policy's."""
    assert decide(failures("a"), POLICY) == Again(1.0)


def test_the_wait_doubles_up_to_its_limit() -> None:
    """With different causes, so that nothing is given up before."""
    patient = RestartPolicy(first_delay=1.0, longest_delay=8.0, most_failures=99)
    assert [decide(failures(*"abcdef"[:count]), patient) for count in range(1, 7)] == [
        Again(1.0), Again(2.0), Again(4.0), Again(8.0), Again(8.0), Again(8.0),
    ]  # fmt: skip


def test_three_equal_failures_before_ready_are_enough() -> None:
    """They have to be the last three, and in a row."""
    assert decide(failures("a", "b", "b", "b"), POLICY) == GiveUp("failing 3 times the same way")
    assert isinstance(decide(failures("b", "b", "a", "b"), POLICY), Again)


def test_five_different_failures_before_ready_are_enough_however_long_they_took() -> None:
    """A start of ten minutes must not turn giving up into a loop."""
    assert decide(failures(*"abcde", every=10_000.0), POLICY) == GiveUp("5 attempts that never got ready")


def test_five_crashes_of_a_ready_server_within_the_window_are_enough() -> None:
    """The causes do not matter; failing equally after ready is no reason to give up sooner."""
    assert decide(failures(*"aaaaa", ready=True), POLICY) == GiveUp("5 failures within 15 minutes")
    assert isinstance(decide(failures(*"aaaa", ready=True), POLICY), Again)


def test_rare_crashes_are_never_given_up() -> None:
    """Once an hour for ever, each followed by the first delay."""
    assert decide(failures(*"a" * 40, ready=True, every=3600.0), POLICY) == Again(1.0)


def test_a_permanent_failure_ends_it() -> None:
    """Even the first."""
    assert isinstance(decide([Failure(0.0, "wrong checksum", permanent=True)], POLICY), GiveUp)


@given(st.lists(st.tuples(st.floats(0, 1e4), st.sampled_from("ab"), st.booleans()), min_size=1, max_size=60))
def test_servers_of_others_are_never_given_up(history: list[tuple[float, str, bool]]) -> None:
    """Whatever happened, they are asked again within half a minute."""
    past = [Failure(at, cause, ready=ready) for at, cause, ready in sorted(history)]
    outcome = decide(past, PATIENT)
    assert isinstance(outcome, Again)
    assert 0 < outcome.delay <= 30.0
