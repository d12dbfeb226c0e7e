"""The command line and what composes the rooms: the demo, the broker, rehearsal. Imports all, imported by none."""
