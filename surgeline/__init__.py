"""The command line and what composes the rooms; imports all of them, imported by none."""
