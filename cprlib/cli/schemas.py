"""``python3 -m cprlib.cli.schemas`` writes the JSON schemas in docs/, generated from the records of each file."""

from __future__ import annotations

from cprlib.campaign.compare.comparison import COMPARE_SCHEMA_FILE
from cprlib.campaign.coverage.records import COVERAGE_SCHEMA_FILE
from cprlib.campaign.mutation.score import MUTATION_SCHEMA_FILE
from cprlib.campaign.soak.output import SOAK_SCHEMA_FILE
from cprlib.report.run_json import RUN_SCHEMA_FILE

SCHEMA_FILES = (RUN_SCHEMA_FILE, MUTATION_SCHEMA_FILE, SOAK_SCHEMA_FILE, COMPARE_SCHEMA_FILE, COVERAGE_SCHEMA_FILE)


def main() -> None:
    for schema in SCHEMA_FILES:
        schema.path.write_text(schema.text(), encoding="utf-8")


if __name__ == "__main__":
    main()
