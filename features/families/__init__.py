"""One family a file: its declaration, its rows, its formulas, the range of its values, and its sources."""
