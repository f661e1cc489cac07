"""Evidence to verdict: what a case collected, the policy it is held against, and what follows."""
