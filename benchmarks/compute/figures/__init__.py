"""The figures, one a file: what is measured, its tables, and what the numbers say in words."""
