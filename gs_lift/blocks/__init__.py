"""A scene larger than memory in overlapping blocks: each is lifted and clustered by itself, then objects are joined.

A block is a cell of space, its core, with what lies around it: every Gaussian is in the core of one block and in the
margins of its neighbours. `split` makes them, `join` puts their instances together.
"""

from gs_lift.blocks.joining import join, together
from gs_lift.blocks.settings import BlocksConfig
from gs_lift.blocks.splitting import Block, split

__all__ = ["Block", "BlocksConfig", "join", "split", "together"]
