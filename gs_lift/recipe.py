"""What a cut of a run's tree is made by: settings, constraints, and the user's edits."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gs_lift.clustering import ClusterConfig, Constraints, recut_instances
from gs_lift.clustering.constraints import Written, written_constraints
from gs_lift.edits import Edits, edit_from_json
from gs_lift.gaussians import Gaussians
from gs_lift.segmentation import Classes, Embeddings, Instances


@dataclass(frozen=True)
class Recipe:
    """Everything that a cut depends on, besides the tree and the run's config.

    changes: fields of ClusterConfig that differ from the run's. written: a constraint file.
    """

    changes: Mapping[str, Any] = field(default_factory=dict)
    written: Written | None = None
    edits: Edits = field(default_factory=Edits)

    def free(
        self,
        instances: Instances,
        embeddings: Embeddings,
        gaussians: Gaussians,
        classes: Classes,
        config: ClusterConfig,
    ) -> Instances:
        """The tree of `instances` cut without constraints and edits. config: the run's."""
        wanted = replace(config, **self.changes)
        return recut_instances(instances, embeddings, gaussians, classes, wanted)

    def instances(
        self,
        instances: Instances,
        embeddings: Embeddings,
        gaussians: Gaussians,
        classes: Classes,
        config: ClusterConfig,
        *,
        free: Instances | None = None,
    ) -> Instances:
        """The tree of `instances` cut so. config: the run's. free: the cut without constraints, if it is at hand.

        Raises ConstraintError where the constraints contradict each other, or name what is not there.
        """
        free = free or self.free(instances, embeddings, gaussians, classes, config)
        must, cannot = vars(self.edits.constraints()).values()
        if self.written is not None:
            given = self.written.resolve(len(gaussians), free.labels.numpy(), free.scores.numpy())
            must, cannot = given.must + must, given.cannot + cannot
        cut = free
        if constraints := Constraints(must, cannot):
            wanted = replace(config, **self.changes)
            cut = recut_instances(instances, embeddings, gaussians, classes, wanted, constraints=constraints)
        return self.edits.applied(cut, free, classes) if self.edits else cut

    def to_json(self) -> dict[str, Any]:
        """As it is saved; only what there is."""
        content = dict(self.changes)
        if self.written is not None:
            content["constraints"] = asdict(self.written)
        if self.edits:
            content["edits"] = [edit.to_json() for edit in self.edits.done]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Recipe":
        """The way back. Raises ConstraintError or TypeError for whatever is none."""
        changes = {name: value for name, value in content.items() if name not in ("constraints", "edits")}
        written = content.get("constraints")
        edits = [edit_from_json(one) for one in content.get("edits", [])]
        return cls(
            changes,
            written_constraints(written, "the last cut") if written is not None else None,
            Edits(tuple(edit for edit in edits if edit is not None)),
        )

    @property
    def described(self) -> dict[str, Any]:
        """What labels.json says of it: the edits in words."""
        content = self.to_json()
        return content | ({"edits": [edit.said for edit in self.edits.done]} if self.edits else {})

    def same_cut(self, other: "Recipe") -> bool:
        """Whether both give the same objects; what was undone makes no difference."""
        return self.to_json() == other.to_json()
