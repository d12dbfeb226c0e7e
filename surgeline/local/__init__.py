"""The processes on this machine: a broker, a worker, serving, and the demo that starts all of them."""
