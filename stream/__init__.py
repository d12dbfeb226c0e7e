"""The Faust app: event schemas, batch transport, engine, tick, publishing, metrics, live page."""
