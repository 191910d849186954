"""Rooms of our own, objects in a heap or furniture: textured, lit, with exact truth and segments that have errors.

    config -> furnish -> Room -> vertex_light -> Painter -> frames -> corrupt (-> panoptic) -> segments

Nothing here knows the rest of gs_lift: what is rendered here can judge what is rendered there.
"""

from gs_lift.synthetic.options import SynthConfig as SynthConfig
from gs_lift.synthetic.synthesis import synthesize as synthesize

__all__ = ["SynthConfig", "synthesize"]
