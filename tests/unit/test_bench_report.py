"""The benchmark's table: what it shows of what was measured."""

from bench.__main__ import pairs
from bench.load import Scenario
from bench.report import Figures, Measured, linear, markdown, page
from bench.workers import Scaled, Scaling
from bench.workers import markdown as workers_markdown

ONE, TWO = Scenario("one", 1, 1, 1), Scenario("two", 2, 2, 2)


def measured(*, at_a_thousand: bool) -> Measured:
    """A run of two peers, of which one was measured at many streams."""
    ours = {"A": Figures(cpu=[40, 50]), "B": Figures(cpu=[30], memory=[140.2, 139])}
    other = {"A": Figures(cpu=[90]), "B": Figures(cpu=[80], memory=[30])}
    if at_a_thousand:
        ours |= {"L16": Figures(cpu=[30, 34]), "L200": Figures(cpu=[25]), "L": Figures(cpu=[24], memory=[178.8])}
        other |= {"L16": Figures(), "L200": Figures(), "L": Figures()}
    told = dict.fromkeys(ours, "told")
    table = {"direct": {}, "ours": ours, "other": other}
    return Measured(table, {"ours": "this", "other": "that"}, [(0.016, 0.016), (0.014, 0.028)], told)


def test_what_a_token_costs_at_more_streams_has_a_table_of_its_own() -> None:
    """Those who were measured there, with the memory at the most streams."""
    assert linear(measured(at_a_thousand=True)) == [
        "| CPU µs a token at | 16 streams | 200 streams | 1,000 streams | memory at the last, MiB |",
        "|---|---|---|---|---|",
        "| this | 30.0 (32.0) | 25.0 (25.0) | 24.0 (24.0) | 179 |",
        "",
    ]
    assert "1,000 streams" in page(measured(at_a_thousand=True))


def test_where_it_was_not_measured_there_is_none() -> None:
    """A run of a few scenarios shows those."""
    assert linear(measured(at_a_thousand=False)) == []


def test_the_table_says_how_noisy_the_machine_was() -> None:
    """How fast its core was, and how long one waited for it; memory is that of 200 streams."""
    text = markdown(measured(at_a_thousand=True))
    assert "| this | 40.0 (45.0) | 30.0 (30.0) |  |  |  |  | 140 | 0 |" in text
    assert "took 14.0 to 16.0 ms (median 15.0)" in text
    assert "waited for a core for 25% of its time (50% at worst)" in text


def test_rounds_go_forwards_and_backwards() -> None:
    """So that a machine that gets slower favours nobody."""
    forwards = [(name, scenario.name) for name, scenario in pairs(["a", "b"], [ONE, TWO], backwards=False)]
    assert forwards == [("a", "one"), ("a", "two"), ("b", "one"), ("b", "two")]
    assert [name for name, _ in pairs(["a", "b"], [ONE], backwards=True)] == ["b", "a"]


def test_more_workers_have_a_row_each() -> None:
    """The best rate and the least CPU time, with the medians; failures stay in sight."""
    one = Scaled("ours", 1, rate=[1000, 3000], server=[10, 20], beside=[5, 5], busy=[1.5, 1.7])
    two = Scaled("ours", 2, rate=[6000, 4000], server=[11, 11], beside=[5, 5], busy=[2, 2], failures=3)
    text = workers_markdown(Scaling([one, two], 4, [(0.016, 0.016)]))
    assert "| this project | 1 | 3,000 (2,000) | 10.0 (15.0) | 5.00 (5.00) | 1.60 | 0 |" in text
    assert "| this project | 2 | 6,000 (5,000) | 11.0 (11.0) | 5.00 (5.00) | 2.00 | 3 |" in text
    assert "on 4 cores" in text
