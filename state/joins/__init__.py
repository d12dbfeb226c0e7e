"""The impression-action join, column by column: what was shown, what was done about it, what waits."""
