"""A closed loop: simulated nights whose slates the engine ranks while it learns from them."""
