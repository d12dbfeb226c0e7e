"""Recorded logs: one module an adapter, by the public column layout of its data; `registry` names them."""
