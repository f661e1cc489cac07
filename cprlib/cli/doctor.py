"""``cprlib doctor``: which backend this host supports, and what is missing."""

from __future__ import annotations

import json
import sys

import click

from cprlib.errors import ExitStatus


@click.command()
@click.option("--json", "as_object", is_flag=True, help="Print the findings as JSON.")
def doctor(as_object: bool) -> int:
    """Report whether tests run natively or in the lab, why, and how to provide what is missing."""
    from cprlib.lab.doctor import as_json, check_host, check_lab, render_text, usable

    findings = [*check_host(), *check_lab()]
    if as_object:
        click.echo(json.dumps(as_json(findings), indent=2))
    else:
        click.echo(render_text(findings, colour=sys.stdout.isatty()))
    return ExitStatus.PASS if usable(findings) else ExitStatus.ENVIRONMENT
