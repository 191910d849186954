"""The live viewer of a run: see the objects, correct what is wrong, on a page of this machine (needs viser)."""

from gs_lift.viewer.growth import Growth
from gs_lift.viewer.server import LOCALHOST, open_server, where_to_look
from gs_lift.viewer.window import Window

__all__ = ["LOCALHOST", "Growth", "Window", "open_server", "where_to_look"]
