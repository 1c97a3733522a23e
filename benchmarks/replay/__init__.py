"""How often the intervals of `acr replay` cover the truth, on logs simulated from a recorded table."""
