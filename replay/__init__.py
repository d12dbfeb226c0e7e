"""Recorded logs, the Double-11 simulator, pacing, the report."""
