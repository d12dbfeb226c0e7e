"""An evaluation: the engine over a recorded log without a broker, and every figure of the report."""
