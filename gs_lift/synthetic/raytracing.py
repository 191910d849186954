"""Rays against triangles, by Embree."""

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int

Rays = Float[np.ndarray, "R 3"]


class Tracer:
    """Triangles to shoot rays at. Directions need not have length 1: distances count in their lengths."""

    def __init__(self, vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]):
        self.scene = EmbreeScene()
        self.mesh = TriangleMesh(self.scene, vertices.astype(np.float32), faces.astype(np.int32))

    def distances(self, origins: Rays, directions: Rays) -> Float[np.ndarray, "R"]:
        """To the first triangle on each ray; infinite where there is none."""
        distance = self.scene.run(_single(origins), _single(directions), query="DISTANCE").astype(np.float64)
        distance[distance > 1e30] = np.inf
        return distance

    def faces(self, origins: Rays, directions: Rays) -> Int[np.ndarray, "R"]:
        """The first triangle on each ray, -1 = none."""
        return self.scene.run(_single(origins), _single(directions), query="INTERSECT")

    def blocked(self, origins: Rays, directions: Rays) -> Bool[np.ndarray, "R"]:
        """Whether there is a triangle between origin and origin + direction."""
        ends = np.full(len(origins), 1.0, dtype=np.float32)
        return self.scene.run(_single(origins), _single(directions), dists=ends, query="OCCLUDED") >= 0

    def hits(self, origins: Rays, directions: Rays) -> dict[str, np.ndarray]:
        """Embree's answer: primID (-1 = none), barycentric u and v, tfar."""
        return self.scene.run(_single(origins), _single(directions), output=True)


def _single(rays: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rays, dtype=np.float32)
