"""Real-time features: declarations, the plan that compiles them, one family a file. No storage, no Kafka."""
