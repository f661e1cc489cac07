"""What a run leaves for people and pipelines: run.json, report.html, tables, pictures."""
