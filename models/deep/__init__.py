"""Trunks: offline training in torch, inference in numpy."""
