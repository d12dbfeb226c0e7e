"""Offline training, one file a kind of trunk: ``fit(samples, options)`` of the file that bears its name."""
