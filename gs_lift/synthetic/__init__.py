"""Messy rooms of our own: textured objects in a heap, lit, with exact truth and segments that have errors.

    config -> furnish -> Room -> vertex_light -> Painter -> frames -> corrupt -> segments

Nothing here knows the rest of gs_lift: what is rendered here can judge what is rendered there.
"""

from gs_lift.synthetic.options import SynthConfig as SynthConfig
from gs_lift.synthetic.quality import SegmentQuality as SegmentQuality
from gs_lift.synthetic.quality import mean_quality as mean_quality
from gs_lift.synthetic.quality import segment_quality as segment_quality
from gs_lift.synthetic.synthesis import synthesize as synthesize

__all__ = ["SegmentQuality", "SynthConfig", "mean_quality", "segment_quality", "synthesize"]
