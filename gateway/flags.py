"""
A flag, made so that nothing that is missing can admit anybody.

Its rule is compiled into one that first asks whether everything is there that it needs. If not, the flag is off: its default
variant, and never true. Rules that could fall for null in other ways are refused by `services.chassis.rules`.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode, OpenFeatureError
from openfeature.flag_evaluation import FlagResolutionDetails, Reason

from services.chassis.rules import BadRuleError, guarded

T = TypeVar("T")

_NOTHING: Mapping[str, Any] = {"boolean": False, "string": "", "integer": 0, "float": 0.0, "object": {}}
_CLOCK = "$flagd"


class BadFlagError(ValueError):
    """The definition is none that we serve."""


class Flag:
    """
    A flag by its definition in flagd's form. Immutable.

    Attributes:
        definition: as it was given.
        kind: the type of its values: `boolean`, `string`, `integer`, `float` or `object`.
        lasting: whether the same context always gives the same value; False when the rule asks for the time.
    """

    def __init__(self, key: str, definition: Any) -> None:
        """Raises BadFlagError for what flagd's engine, or our rules for it, refuse."""
        if not isinstance(definition, dict) or not isinstance(definition.get("variants"), dict):
            raise BadFlagError("must be a mapping with variants")
        variants = definition["variants"]
        compiled = {**definition}
        if rule := definition.get("targeting"):
            try:
                compiled["targeting"] = guarded(rule, variants, definition.get("defaultVariant"))
            except BadRuleError as error:
                raise BadFlagError(f"its rule {error}") from None
        try:
            # As text: the engine changes a dict that it is given.
            text = json.dumps({"flags": {key: compiled}})
            self._engine = FlagdCore()
            self._engine.set_flags(text)
        except (OpenFeatureError, TypeError, AttributeError, RecursionError) as error:
            raise BadFlagError(f"the engine refuses it: {error!r}") from None
        self._key = key
        self.definition = definition
        self.kind = _kind(variants)
        self.lasting = _CLOCK not in text

    def resolve(self, kind: str, default: T, context: EvaluationContext | None) -> FlagResolutionDetails[T]:
        """The value by flagd's engine; `default` with an error code when it has none. Never raises."""
        try:
            details: FlagResolutionDetails[T] = getattr(self._engine, f"resolve_{kind}_value")(
                self._key, default, context
            )
        except OpenFeatureError as error:
            return failed(default, error.error_code, error.error_message)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
            # The interpreter of rules raises whatever its operators stumble over.
            return failed(default, ErrorCode.GENERAL, repr(error))
        return details

    @property
    def nothing(self) -> Any:
        """The value of the flag's type that stands for nothing, as False or ""."""
        return _NOTHING[self.kind]


def failed(default: T, code: ErrorCode, message: str | None) -> FlagResolutionDetails[T]:
    """The caller's default, and why it is no more than that."""
    return FlagResolutionDetails(default, reason=Reason.ERROR, error_code=code, error_message=message)


def _kind(variants: Mapping[str, Any]) -> str:
    types = {type(value) for value in variants.values()}
    if types == {bool}:
        return "boolean"
    if types == {str}:
        return "string"
    if types == {int}:
        return "integer"
    return "float" if types <= {int, float} else "object"
