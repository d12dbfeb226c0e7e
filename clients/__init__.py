"""How our processes reach Kafka and answer over HTTP: connections, refusals in words, patience, noise."""
