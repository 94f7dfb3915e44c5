"""The base of every settings model: immutable, no unknown keys, defaults with their units.

A field declares its description, default and examples once; that one declaration parses, gives
the JSON Schema for editors and the reference page.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.json_schema import DEFAULT_REF_TEMPLATE, GenerateJsonSchema, JsonSchemaMode
from pydantic_core import core_schema

from isthmus.config.problems import Problem
from isthmus.config.units import format_duration, format_rate, format_size


class SettingsSchema(GenerateJsonSchema):
    """JSON Schema in which the defaults of durations and sizes carry their unit."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        """Add the default, written with its unit."""
        result = super().default_schema(schema)
        if "default" in result:
            result["default"] = format_default(result["default"], result.get("x-unit"))
        return result


def format_default(value: object, unit: str | None) -> object:
    """Return a default as it would be written in a file."""
    if unit == "duration":
        if value is None:
            return "never"
        if isinstance(value, int | float):
            return format_duration(value)
    if unit == "rate" and isinstance(value, int | float):
        return format_rate(value)
    if unit == "size" and isinstance(value, int):
        return format_size(value)
    return value


class SettingsModel(BaseModel):
    """Base of all settings."""

    model_config = ConfigDict(
        frozen=True,
        # Built when first used: most files use few of the parts.
        defer_build=True,
        extra="forbid",
        # A ValidationError that escapes into a log must not carry passwords with it.
        hide_input_in_errors=True,
    )

    @classmethod
    def problems_in(cls, data: Any) -> Iterator[Problem]:
        """Yield what is wrong between parts of raw data, for a root model whose data is invalid.

        Checks between parts run only when every part is valid. A root model repeats here those
        that make sense on raw data, so that people see them in the first run.
        """
        yield from ()

    @classmethod
    def model_json_schema(
        cls,
        by_alias: bool | None = True,
        ref_template: str = DEFAULT_REF_TEMPLATE,
        schema_generator: type[GenerateJsonSchema] = SettingsSchema,
        mode: JsonSchemaMode = "validation",
        **options: Any,
    ) -> dict[str, Any]:
        """Return the JSON Schema for editors."""
        return super().model_json_schema(by_alias, ref_template, schema_generator, mode, **options)
