"""Unit tests of the scoreboard."""
