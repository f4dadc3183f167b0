"""Recursive descent over the tokens of an expression; each part becomes a function that computes it."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction

from flatdist.errors import FlatdistError
from flatdist.expressions.arithmetic import ARITHMETIC, COMPARISONS, FUNCTIONS, bounded, power
from flatdist.expressions.tokens import WORDS, Token, tokenize
from flatdist.expressions.values import Evaluate, ExpressionError, Names, Value, number, show
from flatdist.suggestions import did_you_mean

MAX_LENGTH = 2000  # characters of an expression
MAX_DEPTH = 40


@dataclass(frozen=True, eq=False)
class Expression:
    """A parsed expression.

    Attributes:
        text: as the user wrote it.
        names: the names it looks up.
    """

    text: str
    names: frozenset[str]
    _run: Evaluate

    def evaluate(self, names: Names) -> Value:
        """The value, an exact fraction, a truth value or a text.

        Raises:
            ExpressionError: division by zero, a number that grows too large, an operation between kinds of value.
        """
        return self._run(names)

    def holds(self, names: Names) -> bool:
        """The value of a condition.

        Raises:
            ExpressionError: as evaluate; or the value is neither true nor false.
        """
        value = self._run(names)
        if not isinstance(value, bool):
            raise ExpressionError(
                self.text, 1, f"is {show(value)}, neither true nor false; a condition compares, as n <= entries"
            )
        return value


def parse(text: str, known: Collection[str] | None = None) -> Expression:
    """Read an expression.

    Args:
        text: the expression.
        known: names it may use; None allows any.

    Raises:
        ExpressionError: it is not arithmetic, or uses a name that is not known; with the nearest known name.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(text, 1, f"is {len(text)} characters long; at most {MAX_LENGTH} are allowed")
    return _Parser(text, known).parse()


class _Parser:
    """Recursive descent; each method returns the function that computes its part."""

    def __init__(self, text: str, known: Collection[str] | None) -> None:
        self.text, self.known = text, known
        self.names: set[str] = set()
        self.depth = 0
        self.next = 0
        self.tokens = tokenize(text)

    def parse(self) -> Expression:
        run = self._disjunction()
        if self._token.kind != "end":
            raise self._error(
                self._token, f"{self._token.text!r} is not expected here; an operator is missing or one too many"
            )
        return Expression(self.text, frozenset(self.names), run)

    @property
    def _token(self) -> Token:
        return self.tokens[self.next]

    def _accept(self, *texts: str) -> Token | None:
        token = self._token
        if token.kind in ("operator", "name") and token.text in texts:
            self.next += 1
            return token
        return None

    def _error(self, token: Token, reason: str) -> ExpressionError:
        return ExpressionError(self.text, token.position, reason)

    def _disjunction(self) -> Evaluate:
        return self._logical("or", lambda: self._logical("and", self._negation))

    def _logical(self, word: str, operand: Callable[[], Evaluate]) -> Evaluate:
        parts, positions = [operand()], [self._token]
        while (token := self._accept(word)) is not None:
            parts.append(operand())
            positions.append(token)
        if len(parts) == 1:
            return parts[0]
        decisive = word == "or"

        def run(names: Names) -> Value:
            for part, token in zip(parts, positions, strict=True):
                if self._truth(part(names), token) is decisive:
                    return decisive
            return not decisive

        return run

    def _truth(self, value: Value, token: Token) -> bool:
        if not isinstance(value, bool):
            raise self._error(token, f"and, or and not join conditions, not {show(value)}")
        return value

    def _negation(self) -> Evaluate:
        token = self._accept("not")
        if token is None:
            return self._comparison()
        operand = self._nested(token, self._negation)
        return lambda names: not self._truth(operand(names), token)

    def _comparison(self) -> Evaluate:
        parts = [self._sum()]
        membership = self._membership(parts[0])
        if membership is not None:
            return membership
        links: list[Token] = []
        while (token := self._accept(*COMPARISONS)) is not None:
            links.append(token)
            parts.append(self._sum())
        if not links:
            return parts[0]

        def run(names: Names) -> Value:
            left = parts[0](names)
            for part, token in zip(parts[1:], links, strict=True):
                right = part(names)
                if not self._compare(token, left, right):
                    return False
                left = right
            return True

        return run

    def _membership(self, value: Evaluate) -> Evaluate | None:
        """``value in [...]`` or ``value not in [...]``, if that is what follows."""
        following = self.tokens[min(self.next + 1, len(self.tokens) - 1)]
        is_negated = self._token.text == "not" and following.text == "in"
        if self._token.text != "in" and not is_negated:
            return None
        self.next += 2 if is_negated else 1
        opening = self._token
        if self._accept("[") is None:
            raise self._error(opening, "a list in square brackets was expected after in, as ['sam', 'label_noise_sgd']")
        options = [self._nested(opening, self._sum)]
        while self._accept(",") is not None:
            options.append(self._nested(opening, self._sum))
        if self._accept("]") is None:
            raise self._error(opening, "this list is not closed")
        return lambda names: any(value(names) == option(names) for option in options) is not is_negated

    def _compare(self, token: Token, left: Value, right: Value) -> bool:
        if token.text in ("==", "!=") or (isinstance(left, Fraction) and isinstance(right, Fraction)):
            return bool(COMPARISONS[token.text](left, right))
        if left is None or right is None:  # a column that has no value in this row
            return False
        raise self._error(token, f"{show(left)} and {show(right)} have no order; only numbers have")

    def _sum(self) -> Evaluate:
        return self._binary(("+", "-"), lambda: self._binary(("*", "/", "//"), self._sign))

    def _binary(self, operators: Sequence[str], operand: Callable[[], Evaluate]) -> Evaluate:
        run = operand()
        while (token := self._accept(*operators)) is not None:
            run = self._apply(token, ARITHMETIC[token.text], [run, operand()])
        return run

    def _sign(self) -> Evaluate:
        token = self._accept("-", "+")
        if token is None:
            return self._exponentiation()
        operand = self._nested(token, self._sign)
        return self._apply(token, operator.neg if token.text == "-" else operator.pos, [operand])

    def _exponentiation(self) -> Evaluate:
        base = self._atom()
        token = self._accept("**")
        if token is None:
            return base
        return self._apply(token, power, [base, self._nested(token, self._sign)])

    def _apply(self, token: Token, function: Callable[..., Fraction], parts: Sequence[Evaluate]) -> Evaluate:
        def run(names: Names) -> Value:
            values = [part(names) for part in parts]
            if any(value is None for value in values):  # "in" would compare fractions, which is slow
                return None
            try:
                return bounded(function(*map(number, values)))
            except (ValueError, OverflowError) as error:
                raise self._error(token, f"{token.text}: {error}") from None

        return run

    def _nested(self, token: Token, part: Callable[[], Evaluate]) -> Evaluate:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._error(token, f"is nested more than {MAX_DEPTH} deep")
        run = part()
        self.depth -= 1
        return run

    def _atom(self) -> Evaluate:
        token = self._token
        self.next += 1
        if token.kind == "number":
            return self._literal(token)
        if token.kind == "text":
            text = token.text[1:-1]
            return lambda names: text
        if token.kind == "name" and token.text not in ("and", "or", "not", "in"):
            return self._word(token)
        if token.text == "(":
            run = self._nested(token, self._disjunction)
            self._close(token)
            return run
        found = "the end" if token.kind == "end" else repr(token.text)
        raise self._error(token, f"a number, a name or a bracket was expected, not {found}")

    def _close(self, opening: Token) -> None:
        if self._accept(")") is None:
            raise self._error(opening, "this bracket is not closed")

    def _literal(self, token: Token) -> Evaluate:
        exponent = re.split("[eE]", token.text)[1:]
        if len(token.text) > 60 or (exponent and abs(int(exponent[0])) > 300):
            raise self._error(token, "is too long or too large a number; at most 60 digits and powers of ten up to 300")
        value = Fraction(token.text)
        return lambda names: value

    def _word(self, token: Token) -> Evaluate:
        name = token.text
        if self._accept("(") is not None:
            return self._call(token)
        if name in WORDS:
            truth = name.lower() == "true"
            return lambda names: truth
        if name in FUNCTIONS:
            raise self._error(token, f"{name} is a function; write {name}(...)")
        if self.known is not None and name not in self.known:
            hint = did_you_mean(name, self.known)
            help_ = hint or f"; text goes in quotes, and the names are {', '.join(self.known)}"
            raise self._error(token, f"there is no name {name!r}{help_}")
        self.names.add(name)

        def run(names: Names) -> Value:
            try:
                return names[name]
            except ValueError as error:
                if isinstance(error, FlatdistError):
                    raise
                raise self._error(token, f"{name}: {error}") from None

        return run

    def _call(self, token: Token) -> Evaluate:
        if token.text not in FUNCTIONS:
            hint = did_you_mean(token.text, FUNCTIONS)
            raise self._error(token, f"there is no function {token.text!r}{hint}; allowed: {', '.join(FUNCTIONS)}")
        function, fewest, most = FUNCTIONS[token.text]
        arguments: list[Evaluate] = []
        if self._accept(")") is None:
            arguments.append(self._nested(token, self._disjunction))
            while self._accept(",") is not None:
                arguments.append(self._nested(token, self._disjunction))
            self._close(token)
        if not fewest <= len(arguments) <= most:
            count = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise self._error(token, f"{token.text} takes {count} arguments, not {len(arguments)}")
        if token.text in ("min", "max"):
            return self._apply(token, lambda *values: function(values), arguments)
        return self._apply(token, function, arguments)
