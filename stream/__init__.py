"""The Faust app: event schemas, the batch transport, the engine, the tick, publishing, metrics, the live page."""
