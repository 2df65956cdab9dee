"""Who may be loaded: the decision alone, and what must hold of it whatever the servers are."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from vllm_launcher.keeping.residence import Applicant, Decision, Resident, decide

STAY = 10.0
NOW = 100.0


def a(model: str, need: int, *, polite: bool = False) -> Applicant:
    """Wants in to the processor's memory."""
    return Applicant(model, {"cpu": need}, polite=polite)


def r(  # noqa: PLR0913 - what a server may be
    model: str,
    need: int,
    *,
    used: float = 50.0,
    since: float | None = 50.0,
    busy: bool = False,
    pinned: bool = False,
    leaving: bool = False,
) -> Resident:
    """Is in, and has been ready for long enough."""
    return Resident(model, {"cpu": need}, pinned, since, used, busy=busy, leaving=leaving)


def on(capacity: int, residents: list[Resident], *applicants: Applicant) -> Decision:
    """Decide about the processor's memory."""
    return decide({"cpu": capacity}, residents, applicants, NOW, stay=STAY)


def test_what_fits_is_admitted_and_nobody_leaves() -> None:
    """Several at once, as far as memory goes."""
    decision = on(10, [r("x", 2)], a("m", 4), a("n", 4))
    assert (decision.admitted, decision.leave) == (("m", "n"), ())


def test_the_least_recently_used_leaves() -> None:
    """And no more of them than needed."""
    residents = [r("new", 4, used=90), r("old", 4, used=60), r("older", 2, used=55)]
    assert on(10, residents, a("m", 4)).leave == ("old",)
    assert on(10, residents, a("m", 2)).leave == ("older",)
    assert on(10, residents, a("m", 6)).leave == ("older", "old")


def test_an_idle_server_leaves_before_a_busy_one() -> None:
    """However recently it was used."""
    residents = [r("busy", 5, used=60, busy=True), r("idle", 5, used=99)]
    assert on(10, residents, a("m", 5)).leave == ("idle",)


def test_a_pinned_server_never_leaves() -> None:
    """What does not fit beside it is told so, with the sizes."""
    decision = on(10, [r("pin", 6, pinned=True)], a("m", 5))
    assert decision.leave == ()
    assert decision.hopeless == {"m": "It needs 0 MiB of cpu and may take 0 MiB beside the pinned pin."}


def test_nobody_leaves_who_is_starting_or_has_just_become_ready() -> None:
    """The time is told at which to look again."""
    assert on(10, [r("starting", 8, since=None)], a("m", 5)) == Decision(waits_for={"m": ("starting",)})
    decision = on(10, [r("fresh", 8, since=95.0)], a("m", 5))
    assert (decision.leave, decision.again_at) == ((), 105.0)


def test_nobody_leaves_in_vain() -> None:
    """As long as what is left would not be enough, all stay."""
    residents = [r("old", 2), r("starting", 8, since=None)]
    assert on(10, residents, a("m", 6)).leave == ()


def test_room_that_is_being_made_is_waited_for() -> None:
    """Nobody else leaves for the same applicant."""
    residents = [r("going", 5, leaving=True), r("old", 5)]
    assert on(10, residents, a("m", 5)) == Decision(waits_for={"m": ("going",)})


def test_who_came_first_is_served_first() -> None:
    """A small one does not take the room that is made for a large one."""
    residents = [r("going", 6, leaving=True)]
    decision = on(10, residents, a("large", 8), a("small", 4))
    assert (decision.admitted, set(decision.waits_for)) == ((), {"large", "small"})


def test_pools_are_apart() -> None:
    """A server on one GPU makes no room on another, and nobody there has to wait."""
    residents = [Resident("zero", {"gpu:0": 8}, ready_since=0.0), Resident("one", {"gpu:1": 8}, ready_since=0.0)]
    wanting = [Applicant("m", {"gpu:1": 6}), Applicant("c", {"cpu": 5}), Applicant("z", {"gpu:0": 2})]
    decision = decide({"gpu:0": 10, "gpu:1": 10}, residents, wanting, NOW, stay=STAY)
    assert (decision.admitted, decision.leave) == (("c", "z"), ("one",))


def test_a_polite_one_is_declined_where_somebody_would_have_to_leave() -> None:
    """It takes free room, and nothing else."""
    decision = on(10, [r("x", 6)], a("m", 5, polite=True), a("n", 4, polite=True))
    assert (decision.declined, decision.admitted, decision.leave) == (("m",), ("n",), ())


NEEDS = st.dictionaries(st.sampled_from(["cpu", "gpu:0", "gpu:1"]), st.integers(1, 10), min_size=1)
RESIDENTS = st.lists(
    st.builds(
        Resident,
        model=st.uuids().map(str),
        needs=NEEDS,
        pinned=st.booleans(),
        ready_since=st.none() | st.floats(0, NOW),
        last_used=st.floats(0, NOW),
        busy=st.booleans(),
        leaving=st.booleans(),
    ),
    max_size=6,
)
APPLICANTS = st.lists(st.builds(Applicant, model=st.uuids().map(str), needs=NEEDS, polite=st.booleans()), max_size=6)


def total(servers: list[Resident] | list[Applicant], pool: str) -> int:
    """Bytes they take of it."""
    return sum(server.needs.get(pool, 0) for server in servers)


@given(RESIDENTS, APPLICANTS, st.integers(1, 30))
def test_whatever_is_asked_the_promises_hold(residents: list[Resident], applicants: list[Applicant], size: int) -> None:
    """Nothing is overfull by an admission, nobody leaves who must not, and everybody is told exactly one thing."""
    capacity: Mapping[str, int] = dict.fromkeys(["cpu", "gpu:0", "gpu:1"], size)
    decision = decide(capacity, residents, applicants, NOW, stay=STAY)
    by_model = {resident.model: resident for resident in residents}
    admitted = [applicant for applicant in applicants if applicant.model in decision.admitted]
    for pool in capacity:
        if total(admitted, pool):
            assert total(residents, pool) + total(admitted, pool) <= size
    for model in decision.leave:
        resident = by_model[model]
        assert not resident.pinned
        assert not resident.leaving
        assert resident.ready_since is not None
        assert NOW - resident.ready_since >= STAY
    answers = [*decision.admitted, *decision.declined, *decision.hopeless, *decision.waits_for]
    assert sorted(answers) == sorted(applicant.model for applicant in applicants)
    polite = {applicant.model for applicant in applicants if applicant.polite}
    if polite.issuperset(applicant.model for applicant in applicants):
        assert decision.leave == ()


@given(RESIDENTS, APPLICANTS, st.integers(10, 30))
def test_everybody_gets_in_sooner_or_later(residents: list[Resident], applicants: list[Applicant], size: int) -> None:
    """Carried out step by step, with every server getting ready in its time, nobody waits for ever."""
    capacity = dict.fromkeys(["cpu", "gpu:0", "gpu:1"], size)
    inside = {resident.model: resident for resident in residents}
    waiting, now = list(applicants), NOW
    for _ in range(100):
        decision = decide(capacity, list(inside.values()), waiting, now, stay=STAY)
        done = {*decision.admitted, *decision.declined, *decision.hopeless}
        for applicant in waiting:
            if applicant.model in decision.admitted:
                inside[applicant.model] = Resident(applicant.model, applicant.needs, ready_since=now, last_used=now)
        waiting = [applicant for applicant in waiting if applicant.model not in done]
        for model in [model for model, one in inside.items() if one.leaving or model in decision.leave]:
            del inside[model]
        inside = {m: Resident(m, one.needs, one.pinned, one.ready_since or now) for m, one in inside.items()}
        if not waiting:
            return
        now += STAY
    raise AssertionError(f"still waiting: {waiting}")
