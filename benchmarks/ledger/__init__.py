"""Are budgets exact under load, and what does a reservation cost? `make bench-ledger`."""
