"""Whether live traffic is still what a classifier was trained on, and whether its predictions still hold."""
