"""Unit tests of cprlib.campaign.coverage."""
