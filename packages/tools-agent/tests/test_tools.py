"""The included tools: what they compute, and what they refuse."""

import pytest
from langchain_core.tools import ToolException
from tools_agent import calculator, clock
from tools_agent.calculator import compute


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12 * (3 + 4)", 84),
        ("2^10 - 24", 1000),
        ("-7 // 2", -4),
        ("10 % 4 / 4", 0.5),
        ("sqrt(16) + max(1, 2)", 6.0),
        ("round(pi, 2)", 3.14),
        ("2 ** 0.5 * 2 ** 0.5", pytest.approx(2)),
    ],
)
def test_arithmetic_is_computed(expression: str, value: float) -> None:
    """As in mathematics; ^ is a power."""
    assert compute(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("__import__('os').system('id')", "Only numbers"),
        ("().__class__", "Only numbers"),
        ("'a' * 9", "Only numbers"),
        ("[1] * 9", "Only numbers"),
        ("True + 1", "Only numbers"),
        ("x + 1", "Only numbers"),
        ("lambda: 1", "Only numbers"),
        ("9 ** 9 ** 9", "too large"),
        ("10 ** 1000 * 10 ** 1000", "too large"),
        ("1" * 201, "longer than"),
        ("-" * 100 + "1", "nested too deep"),
        ("1 / 0", "divides by zero"),
        ("(-8) ** 0.5", "no real value"),
        ("2.0 ** 5000", "cannot be computed"),
        ("sqrt(-1)", "cannot be computed"),
        ("1 +", "no arithmetic expression"),
        ("calculate it", "no arithmetic expression"),
    ],
)
def test_everything_else_is_refused(expression: str, message: str) -> None:
    """At once, and in words that the model can go by."""
    with pytest.raises(ToolException, match=message):
        compute(expression)


async def test_the_clock_knows_time_zones() -> None:
    """And says so where there is none."""
    assert "UTC" in await clock.ainvoke({"timezone": "UTC"})
    for wrong in ("Mars/Olympus", "../../etc/passwd", ""):
        with pytest.raises(ToolException, match="no such time zone"):
            await clock.ainvoke({"timezone": wrong})


def test_tools_bound_their_arguments() -> None:
    """So does their schema, which vLLM holds a strict call to."""
    assert calculator.args["expression"]["maxLength"] == 200
    assert clock.args["timezone"]["maxLength"] == 40
