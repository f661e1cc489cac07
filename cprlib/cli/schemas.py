"""``python3 -m cprlib.cli.schemas`` writes the JSON schemas in docs/, generated from the records of each file."""

from __future__ import annotations

from cprlib.report.run_json import RUN_SCHEMA_FILE

SCHEMA_FILES = (RUN_SCHEMA_FILE,)


def main() -> None:
    """Write each schema."""
    for schema in SCHEMA_FILES:
        schema.path.write_text(schema.text(), encoding="utf-8")


if __name__ == "__main__":
    main()
