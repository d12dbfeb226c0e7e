"""Figures: one file a figure, each with its peer and its limit from the same run."""
