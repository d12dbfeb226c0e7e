"""Online experts and their progressive metrics."""
