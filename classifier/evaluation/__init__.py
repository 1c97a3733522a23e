"""What a classifier is worth on prompts and families it has not seen, beside baselines on the same splits."""
