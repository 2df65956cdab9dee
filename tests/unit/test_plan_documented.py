"""The plans in the documentation are those the planner makes."""

from tests.unit.planning import DOCUMENT, plan_pages


def test_the_plans_in_the_documentation_are_current() -> None:
    """Run ``python -m tests.unit.planning`` where this fails, and read what changed."""
    assert plan_pages() in DOCUMENT.read_text()
