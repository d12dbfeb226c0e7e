"""RocksDB state: real-time features, the impression-action join, checkpoint and restore."""
