"""From evidence to verdict: policies, the judge, findings."""
