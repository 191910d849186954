"""How Gaussians become instances: the settings of the stage `segment`."""

import math
from dataclasses import dataclass

from gs_lift.clustering.selection import MIDDLE, SELECTIONS
from gs_lift.errors import ConfigError, pick

METHODS = ("hdbscan_faiss", "hdbscan")

OF_THE_TREE = ("method", "min_thing", "min_visibility", "max_weight", "min_samples")
"""Fields that the tree is made with; the others say how it is cut."""


@dataclass(frozen=True)
class ClusterConfig:
    """How Gaussians become instances. A Gaussian weighs by its visibility: 1 is a typical one of a thing.

    All but those OF_THE_TREE can change without clustering again.
    """

    method: str = "hdbscan_faiss"
    """`hdbscan_faiss`: ours; `hdbscan`: the package's spanning tree, exact, slow, without weights, to compare with."""
    min_thing: float = 0.15
    """Probability of all thing classes together from which a Gaussian can belong to an instance: one that is segmented
    in one view of 18 that see it. Without consensus .4 is better: nothing else tells an object from a slip."""
    min_visibility: float = 0.3
    """Total blending weight, in pixels of all training views, up to which a Gaussian stays out: it learnt nothing."""
    max_weight: float = 2.0
    """Most that a Gaussian weighs, in means. Without a limit large ones decide alone (messy_sam_50: PQ .76 -> .69)."""
    min_share: float = 0.0001
    """Least weight of an instance as a share of all Gaussians of things. Of 500 unequal objects in 300,000 Gaussians
    0.0001 found 493, 0.0005 437; smaller rooms are held by min_size."""
    min_size: float = 30.0
    """Least weight of an instance where the share comes to less."""
    min_samples: float = 10.0
    """Weight of the neighbours that make a Gaussian dense; more smooths small instances away."""
    selection: str = "eom"
    """`eom`: the clusters of the greatest excess of mass; `leaf`: the finest, which cuts uneven objects to pieces."""
    granularity: float = MIDDLE
    """From few large instances (0) over those of the greatest excess of mass (0.5) to their finest parts (1)."""
    epsilon: float = 0.0
    """Clusters whose embeddings part below this distance stay one."""
    split_gap: float = 3.0
    """Cut an instance at a gap in space this many times as wide as its smaller side's radius; 0 = never."""
    min_coherence: float = 0.7
    """Share of the weight around an instance's Gaussians in space that must be its own; 0 = keep what is strewn."""
    noise_spread: float = 6.0
    """Noise joins an instance at most this many of its radii away in the embedding; 0 = never."""
    noise_agreement: float = 0.2
    """Share of the weight around it in space that must belong to the instance that noise joins."""
    consensus: bool = True
    """Join what the segments of most views put together, HDBSCAN's clusters being views too; false: HDBSCAN alone."""
    embedding_views: float = 0.5
    """Views that HDBSCAN's clusters count as in the consensus: they know of what no view shows together, such as front
    and back of an object. More hides what few views have seen (messy_noise_100: .5 .769, 2 .750); 0 = they have no
    say."""
    min_detections: int = 3
    """Views in which a segment must match an instance of the consensus; fewer where there are fewer than 16 views."""
    votes: int = 2
    """Rounds in which each Gaussian votes for the instance that the segments around it speak for; 0 = none."""

    def __post_init__(self) -> None:
        pick(dict.fromkeys(METHODS), self.method, "cluster.method")
        pick(SELECTIONS, self.selection, "cluster.selection")
        for name in ("min_thing", "min_share", "min_coherence", "noise_agreement", "granularity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"cluster.{name}: wanted 0 to 1, got {getattr(self, name)}")
        floors = {
            "max_weight": 1,
            "min_size": 2,
            "min_samples": 1,
            "min_visibility": 0,
            "epsilon": 0,
            "split_gap": 0,
            "noise_spread": 0,
            "embedding_views": 0,
            "votes": 0,
            "min_detections": 0,
        }
        for name, low in floors.items():
            if not low <= getattr(self, name) < math.inf:
                raise ConfigError(
                    f"cluster.{name}: wanted {low} or more and finite, got {getattr(self, name)}"
                )

    def least_weight(self, things: int) -> float:
        """Least weight of an instance among so many Gaussians of things."""
        return max(self.min_size, self.min_share * things)
