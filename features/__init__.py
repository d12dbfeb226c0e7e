"""Real-time features: declarations, the plan that compiles them, and one family a file. No storage, no Kafka."""
