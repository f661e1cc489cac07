"""The scoreboard: figures of several QEMUs, patches and mechanisms in one table."""
