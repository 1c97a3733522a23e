"""How often drift is cried without any, and how often it is found: docs/drift.md from the recorded table."""
