"""Frozen deep trunks, the experts that learn online, and the weights that are published."""
