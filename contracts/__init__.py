"""What every side agrees on: events, scenario, weights message, topic names. Imports nothing of ours."""
