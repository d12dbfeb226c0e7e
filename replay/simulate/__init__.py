"""The Double-11 traffic simulator: a repeatable night of flash-sale traffic with its latent truth."""

from replay.simulate.config import ConfigError, Double11Config
from replay.simulate.generate import Double11, Night
from replay.simulate.policy import RankError, Regret
from replay.simulate.world import Rank, Requests, Response, World

__all__ = [
    "ConfigError",
    "Double11",
    "Double11Config",
    "Night",
    "Rank",
    "RankError",
    "Regret",
    "Requests",
    "Response",
    "World",
]
