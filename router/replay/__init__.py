"""What a policy would have done that was never live: from decision logs, and exactly on outcome tables."""
