"""Arithmetic without ``eval``: a parsed expression of known operations, each bounded before it is computed."""

import ast
import math
from collections.abc import Callable
from typing import Annotated, Any

from langchain_core.tools import ToolException, tool
from pydantic import Field

Number = int | float
CHARACTERS = 200
DEPTH = 40
BITS = 4096
"""Of an integer at most: about 1200 digits."""

OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
    ast.FloorDiv: lambda left, right: left // right,
    ast.Mod: lambda left, right: left % right,
}
SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.UAdd: lambda value: value, ast.USub: lambda value: -value}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs, "round": round, "min": min, "max": max, "sqrt": math.sqrt, "log": math.log, "log10": math.log10,
    "log2": math.log2, "exp": math.exp, "sin": math.sin, "cos": math.cos, "tan": math.tan, "asin": math.asin,
    "acos": math.acos, "atan": math.atan, "floor": math.floor, "ceil": math.ceil, "radians": math.radians,
    "degrees": math.degrees,
}  # fmt: skip
CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e}


def compute(expression: str) -> Number:
    """Return what an arithmetic expression comes to.

    Raises:
        ToolException: It is none, or larger than is computed; says which.
    """
    if len(expression) > CHARACTERS:
        raise ToolException(f"The expression is longer than {CHARACTERS} characters.")
    try:
        parsed = ast.parse(expression.replace("^", "**").replace("×", "*").strip(), mode="eval")  # noqa: RUF001
        return _bounded(_value(parsed.body, DEPTH))
    except ToolException:
        raise
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ToolException("This is no arithmetic expression.") from error
    except ZeroDivisionError as error:
        raise ToolException("It divides by zero.") from error
    except (ArithmeticError, ValueError, TypeError) as error:
        raise ToolException(f"It cannot be computed: {error}.") from error


def _value(node: ast.expr, depth: int) -> Number:
    if not depth:
        raise ToolException("The expression is nested too deep.")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.Name(id=name) if name in CONSTANTS:
            return CONSTANTS[name]
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in SIGNS:
            return SIGNS[type(sign)](_value(operand, depth - 1))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left, depth - 1), _value(right, depth - 1))
        case ast.BinOp(left=left, op=operation, right=right) if type(operation) in OPERATIONS:
            return _bounded(OPERATIONS[type(operation)](_value(left, depth - 1), _value(right, depth - 1)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            return _bounded(FUNCTIONS[name](*(_value(each, depth - 1) for each in arguments)))
        case _:
            raise ToolException("Only numbers, + - * / // % **, brackets and functions like sqrt() are computed.")


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > BITS:
        raise ToolException("The number is too large.")
    value: Any = base**exponent
    return _bounded(value)


def _bounded(value: Any) -> Number:
    if isinstance(value, int) and value.bit_length() > BITS:
        raise ToolException("The number is too large.")
    if not isinstance(value, int | float):
        raise ToolException("It has no real value.")
    return value


EXAMPLES = [
    {"question": "What is 3 + 5?", "arguments": {"expression": "3 + 5"}},
    {"question": "How much is 7 * (2 - 4) / 3?", "arguments": {"expression": "7 * (2 - 4) / 3"}},
]


@tool(extras={"examples": EXAMPLES})
def calculator(
    expression: Annotated[str, Field(max_length=CHARACTERS, description="For example 12 * (3 + 4).")],
) -> str:
    """Compute an arithmetic expression."""
    value = compute(expression)
    if isinstance(value, float):
        return f"{value:.15g}"
    return str(value)
