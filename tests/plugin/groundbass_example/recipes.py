"""A recipe: another one with a setting of its own."""

import dataclasses

from groundbass.pretrain.objectives.predictive import cpc_debug
from groundbass.pretrain.recipe import Recipe


def tiny() -> Recipe:
    """CPC in seconds, three steps of it."""
    return dataclasses.replace(cpc_debug(), steps=3)
