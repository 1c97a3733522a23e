"""What the shipped classifier knows: docs/routing.md from the recorded table."""
