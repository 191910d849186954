"""The page of the viewer: the splat, the list of objects, what can be done with them, the cameras."""

import html
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from gs_lift.editing import Editor
from gs_lift.edits import Edit
from gs_lift.errors import GsLiftError, RunError
from gs_lift.exports import Object
from gs_lift.palette import palette
from gs_lift.portraits import start_of_splat
from gs_lift.recipe import Recipe
from gs_lift.report import label_picture
from gs_lift.scene import View
from gs_lift.segmentation import Instances
from gs_lift.viewer.painting import MODES, Shown, covariances_of, paint, visible
from gs_lift.viewer.picking import pick
from gs_lift.viewer.server import close_server
from gs_lift.viewer.start import set_view

if TYPE_CHECKING:
    import viser

log = logging.getLogger(__name__)

THUMBNAIL = 96
"""Longest side of the photo in a camera's frustum, pixels."""

PICTURE = 640
"""Longest side of a photo in the panel, pixels."""

FRUSTUMS = 150
"""Cameras that are drawn at most: every so many-th."""

WATCH_S = 2.0
"""Seconds between two looks at the edits of others."""

DEPTH_S = 0.5
"""Seconds after a camera has begun to move until depth is painted as it sees it."""

NOBODY = "(none)"


class Window:
    """What one server shows: a run, which can be edited, or a labels.ply alone (editor None).

    Callbacks of viser come from several threads; each holds the lock, so that they run one after the other.
    """

    def __init__(self, server: "viser.ViserServer", shown: Shown, editor: Editor | None = None):
        self.server, self.shown, self.editor = server, shown, editor
        self.lock = threading.RLock()
        self.writer = ThreadPoolExecutor(1)
        self.mode = "instance"
        self.selected: list[int] = []
        self.hidden: set[int] = set()
        self.isolated: set[int] | None = None  # None: all
        self.places: list[int] | None = None
        self.position: np.ndarray | None = None
        self._covariances = covariances_of(shown.gaussians)
        self._splat: Any = None
        self._frustums: list[Any] = []
        self._later: threading.Timer | None = None
        self._submitted = 0
        self._quiet = False
        self._begin_view()
        self._build()
        self._paint()
        self._refresh()
        self._ends = threading.Event()
        if editor is not None:
            threading.Thread(target=self._watch, args=(editor,), daemon=True).start()

    def close(self) -> None:
        """Wait until what was edited is written."""
        self._ends.set()
        self.writer.shutdown(wait=True)
        close_server(self.server)

    def _watch(self, editor: Editor) -> None:
        """Show what others do to the run's edits, soon after."""
        while not self._ends.wait(WATCH_S):
            with self.lock:
                try:
                    if editor.edited_elsewhere():
                        editor.reload()
                        self._show_cut()
                except (GsLiftError, OSError) as error:
                    self._note(str(error))

    # ---- the picture

    def _begin_view(self) -> None:
        if self.editor is not None:
            set_view(self.server, [view.camera for view in self.editor.scene.train])
        elif len(self.shown):
            shown = self.shown
            camera, up = start_of_splat(shown.gaussians, shown.labels, width=960, height=540)
            members = torch.from_numpy(shown.labels >= 0)
            some = shown.gaussians.means[members] if bool(members.any()) else shown.gaussians.means
            set_view(self.server, [camera], some.double().median(dim=0).values, up=up)

    def _paint(self) -> None:
        """Send the Gaussians as they are to be seen now."""
        kept = visible(self.shown, self.hidden, self.isolated)
        colors = paint(self.mode, self.shown, position=self.position, selected=self.selected)
        gaussians = self.shown.gaussians
        arrays = (
            gaussians.means.float().numpy()[kept],
            self._covariances[kept],
            colors[kept],
            gaussians.opacities.float().numpy()[kept, None],
        )
        if self._splat is not None and len(arrays[0]):
            self._splat.set_gaussians(*arrays)
        elif len(arrays[0]):
            self._splat = self.server.scene.add_gaussian_splats("/splat", *arrays)
        if self._splat is not None:
            self._splat.visible = bool(len(arrays[0]))
        self._kept = np.flatnonzero(kept)

    # ---- the panel

    def _build(self) -> None:
        gui = self.server.gui
        self._mode = gui.add_dropdown("view", list(MODES), initial_value=self.mode)
        self._on(self._mode.on_update, lambda: self._set_mode(self._mode.value))
        if self.editor is not None:
            self._granularity = gui.add_slider(
                "granularity",
                0.0,
                1.0,
                0.05,
                self._cut_at,
                hint="0 = few large objects, 1 = the finest parts",
            )
            self._on(self._granularity.on_update, self._cut)
        self._status = gui.add_html("")
        with gui.add_folder("objects"):
            self._choice = gui.add_dropdown("object", [NOBODY], initial_value=NOBODY)
            self._on(self._choice.on_update, self._choose)
            self._buttons(
                "selected",
                {
                    "isolate": lambda: self._hide(isolate=True),
                    "hide": lambda: self._hide(isolate=False),
                    "show all": self._show_all,
                },
                "click an object to select it, shift-click for more",
            )
            self._list = gui.add_html("")
        if self.editor is not None:
            self._build_edits(self.editor)
            self._build_cameras(self.editor.scene.train)
        self._on_event(self.server.scene.on_click(), self._clicked)
        self._on_event(self.server.scene.on_click(modifier="shift"), lambda event: self._clicked(event, True))
        self.server.on_client_connect(self._follow)

    def _build_edits(self, editor: Editor) -> None:
        gui = self.server.gui
        with gui.add_folder("edit"):
            self._buttons(
                "selected",
                {
                    "merge": lambda: self._edit(lambda: editor.merging(self._ids)),
                    "split": lambda: self._edit(lambda: editor.splitting(self._one)),
                    "delete": lambda: self._edit(*[self._deleting(one) for one in self._ids]),
                },
                "of several selected objects all are merged or deleted, the last one is split",
            )
            self._buttons(
                "split at",
                {"begin": self._begin_places, "done": self._split_at_places},
                "begin, then click two places or more of the selected object, then done",
            )
            self._name = gui.add_text("name", "")
            self._button("set name", lambda: self._edit(lambda: editor.naming(self._one, self._name.value)))
            things = [editor.scene.classes.names[thing] for thing in editor.scene.classes.things]
            if things:
                self._class = gui.add_dropdown("class", things, initial_value=things[0])
                self._button(
                    "set class", lambda: self._edit(lambda: editor.classing(self._one, self._class.value))
                )
            self._buttons(
                "edits",
                {"undo": lambda: self._change(editor.undo), "redo": lambda: self._change(editor.redo)},
                "every edit is kept in edits.json at once",
            )
            self._written = gui.add_html("")

    def _build_cameras(self, views: Sequence[View]) -> None:
        gui = self.server.gui
        with gui.add_folder("cameras", expand_by_default=False):
            self._frusta = gui.add_checkbox("show them", False)
            self._on(self._frusta.on_update, lambda: self._show_cameras(views))
            self._camera = gui.add_dropdown("photo", [NOBODY, *(view.name for view in views)])
            empty = np.zeros((1, 1, 3), np.uint8)
            self._photo = gui.add_image(empty, label="photo", visible=False)
            self._segments = gui.add_image(empty, label="2D segments", visible=False)

            self._on_event(self._camera.on_update, lambda event: self._choose_photo(views, event))

    def _buttons(self, label: str, actions: dict[str, Callable[[], None]], hint: str) -> None:
        """Side by side."""
        group = self.server.gui.add_button_group(label, list(actions), hint=hint)
        self._on_event(group.on_click, lambda event: actions[event.target.value]())

    def _button(self, label: str, action: Callable[[], None]) -> None:
        self._on(self.server.gui.add_button(label).on_click, action)

    def _on(self, register: Callable[[Callable[[Any], None]], Any], action: Callable[[], None]) -> None:
        self._on_event(register, lambda event: action())

    def _on_event(
        self, register: Callable[[Callable[[Any], None]], Any], action: Callable[[Any], None]
    ) -> None:
        """Call `action(event)` under the lock; what a user can mend becomes a notification."""

        def run(event: Any) -> None:
            with self.lock:
                if self._quiet:  # this program set the value itself
                    return
                try:
                    action(event)
                except Exception as error:  # a server goes on: whoever did it is told
                    if not isinstance(error, GsLiftError | OSError):
                        log.exception("the viewer")
                    self._tell(event.client, str(error))
                    self._refresh()

        register(run)

    def _tell(self, client: Any, text: str) -> None:
        for one in [client] if client is not None else self.server.get_clients().values():
            one.add_notification("gs_lift", text, color="red", auto_close_seconds=8.0)

    def _refresh(self) -> None:
        """Bring the panel up to date."""
        colors = palette(max((one.id for one in self.shown.objects), default=0))
        rows = []
        for one in self.shown.objects:
            marks = "".join(
                mark
                for mark, held in (("hidden", self.hidden), ("only", self.isolated or ()))
                if one.id - 1 in held
            )
            style = "font-weight:bold;background:#345" if one.id - 1 in self.selected else ""
            swatch = "#" + bytes(colors[one.id - 1].tolist()).hex()
            cells = (
                f"{one.id}",
                one.name or "",
                one.class_name or "",
                f"{one.count:,}",
                f"{one.score:.2f}",
                marks,
            )
            rows.append(
                f'<tr style="{style}"><td style="color:{swatch}">&#9632;</td>'
                + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
                + "</tr>"
            )
        heads = "".join(f"<th>{head}</th>" for head in ("", "id", "name", "class", "Gaussians", "score", ""))
        self._list.content = (
            '<div style="max-height:16em;overflow-y:auto;font-size:12px;padding:0 1em">'
            f'<table style="width:100%;text-align:left">{heads}{"".join(rows)}</table></div>'
        )
        titles = [NOBODY, *(_title(one) for one in self.shown.objects)]
        number = {one.id - 1: place for place, one in enumerate(self.shown.objects, start=1)}
        chosen = titles[number.get(self.selected[-1], 0)] if self.selected else NOBODY
        self._quiet = True
        try:
            self._choice.options = titles
            self._choice.value = chosen
        finally:
            self._quiet = False
        said = f"{len(self.shown):,} Gaussians, {len(self.shown.objects)} objects"
        if self.selected:
            said += f"; selected: {', '.join(str(one + 1) for one in self.selected)}"
        if self.places is not None:
            said += f"; click places of it to split at, then done (so far: {len(self.places)})"
        self._status.content = f'<div style="padding:0 1em">{html.escape(said)}{self._legend()}</div>'

    def _legend(self) -> str:
        """What the colours of the view mean."""
        if self.mode == "confidence":
            return "<br>yellow: sure, violet: doubtful, grey: no object"
        if self.mode == "depth":
            return "<br>bright: near"
        if self.mode != "class":
            return ""
        names = self.shown.class_names
        swatches = [
            f'<span style="color:#{bytes(color.tolist()).hex()}">&#9632;</span> {html.escape(name)}'
            for name, color in zip(names, palette(len(names)), strict=True)
        ]
        return "<br>" + " ".join(swatches)

    # ---- what is looked at

    def _set_mode(self, mode: str) -> None:
        self.mode = mode
        self._paint()
        self._refresh()

    def _follow(self, client: Any) -> None:
        """Depth is seen from where a client stands: paint it anew when that moves."""

        @client.camera.on_update
        def _(camera: Any) -> None:
            with self.lock:
                self.position = np.asarray(camera.position)
                if self.mode == "depth" and self._later is None:
                    # Not at once: what it has moved to when the time is over is what counts.
                    self._later = threading.Timer(DEPTH_S, self._paint_depth)
                    self._later.daemon = True
                    self._later.start()

    def _paint_depth(self) -> None:
        with self.lock:
            self._later = None
            if self.mode == "depth":
                self._paint()

    def _choose(self) -> None:
        titles = [_title(one) for one in self.shown.objects]
        chosen = self._choice.value
        wanted = [self.shown.objects[titles.index(chosen)].id - 1] if chosen in titles else []
        if wanted != self.selected[-1:]:  # else this program set it: viser tells of that as well, and later
            self._select(wanted)

    def _select(self, instances: list[int]) -> None:
        self.selected, self.places = instances, None
        self._paint()
        self._refresh()

    def _clicked(self, event: Any, more: bool = False) -> None:
        camera = event.client.camera
        focal = camera.image_height / 2 / np.tan(camera.fov / 2)
        origin, direction = (torch.tensor(one) for one in (event.ray_origin, event.ray_direction))
        index = torch.from_numpy(self._kept)
        hit = pick(
            self.shown.gaussians.rows(index), self.shown.labels[self._kept], origin, direction, focal=focal
        )
        label, gaussian = hit if hit is not None else (-1, -1)
        if self.places is not None:
            if label >= 0 and [label] == self.selected:
                self.places.append(int(self._kept[gaussian]))
                self._refresh()
        elif more and label >= 0:
            self._select(
                [one for one in self.selected if one != label] + [label] * (label not in self.selected)
            )
        else:
            self._select([label] if label >= 0 else [])

    def _hide(self, *, isolate: bool) -> None:
        chosen = {one - 1 for one in self._ids}
        if isolate:
            self.isolated = chosen
        else:
            self.hidden |= chosen
            self.selected = []
        self._paint()
        self._refresh()

    def _show_all(self) -> None:
        self.hidden, self.isolated = set(), None
        self._paint()
        self._refresh()

    def _show_cameras(self, views: Sequence[View]) -> None:
        if not self._frustums:
            reach = float(torch.stack([view.camera.position for view in views]).std(dim=0).norm()) or 1.0
            for view in views[:: -(-len(views) // FRUSTUMS)]:
                camera = view.camera
                axes = camera.cam_to_world
                frustum = self.server.scene.add_camera_frustum(
                    f"/cameras/{len(self._frustums)}",
                    fov=float(2 * np.arctan(camera.height / 2 / float(camera.K[1, 1]))),
                    aspect=camera.width / camera.height,
                    scale=0.08 * reach,
                    image=_small(view, THUMBNAIL),
                    wxyz=_quat(axes[:3, :3].numpy()),
                    position=camera.position.numpy(),
                )
                self._frustums.append(frustum)
                self._on_event(frustum.on_click, partial(self._frustum_clicked, view))
        for frustum in self._frustums:
            frustum.visible = self._frusta.value

    def _choose_photo(self, views: Sequence[View], event: Any) -> None:
        self._photo.visible = self._segments.visible = False
        chosen = [view for view in views if view.name == self._camera.value]
        if chosen:
            self._look_from(chosen[0], event.client)

    def _frustum_clicked(self, view: View, event: Any) -> None:
        self._look_from(view, event.client)

    def _look_from(self, view: View, client: Any) -> None:
        """Show a photo and its segments, and go where it was taken from."""
        image = _small(view, PICTURE)
        self._photo.image, self._photo.visible = image, True
        if view.segments is not None:
            labels = view.segments().instance
            shading = view.image()
            pixels = label_picture(labels, shading if shading.shape[:2] == labels.shape else None)
            self._segments.image, self._segments.visible = pixels, True
        if client is not None:
            with client.atomic():
                client.camera.wxyz = _quat(view.camera.cam_to_world[:3, :3].numpy())
                client.camera.position = view.camera.position.numpy()

    # ---- what is changed

    @property
    def _ids(self) -> list[int]:
        if not self.selected:
            raise RunError("select an object first: click it, or take it from the list")
        return [one + 1 for one in self.selected]

    @property
    def _one(self) -> int:
        return self._ids[-1]

    def _deleting(self, one: int) -> Callable[[], Edit]:
        assert self.editor is not None
        editor = self.editor
        return lambda: editor.deleting(one)

    def _begin_places(self) -> None:
        self.selected, self.places = [self._one - 1], []
        self._paint()
        self._refresh()

    def _split_at_places(self) -> None:
        places, self.places = self.places or [], None
        assert self.editor is not None
        editor = self.editor
        if len(places) < 2:
            raise RunError("begin, then click two places or more of the selected object, then done")
        self._edit(lambda: editor.splitting(self._one, places))

    def _edit(self, *makers: Callable[[], Edit]) -> None:
        assert self.editor is not None
        editor = self.editor
        edits = [make() for make in makers]
        if edits:
            self._change(lambda: editor.do(*edits))

    def _change(self, action: Callable[[], object]) -> None:
        """Change the run, in memory and on disk; the files that were made of it follow in the background."""
        assert self.editor is not None
        before = self.editor.instances, self.editor.recipe
        if self.editor.edited_elsewhere():
            self.editor.reload()
            self._show_cut()
            raise RunError("the run was edited by somebody else meanwhile; look, and do it again")
        action()
        try:
            self.editor.save()
        except BaseException:
            self.editor.instances, self.editor.recipe = before
            raise
        self._show_cut()
        out = self.editor.run.labels
        if out is None:
            self._note("no labels.ply was written yet: gslift segment --out labels.ply")
        else:
            self._note(f"writing {out} ...")
            self._submitted += 1
            state = self.editor.instances, self.editor.recipe
            self.writer.submit(self._write, out, state, self._submitted)

    def _write(self, out: Path, state: tuple[Instances, Recipe], number: int) -> None:
        assert self.editor is not None
        if number < self._submitted:  # a later one waits
            return
        try:
            self.editor.write_outputs(out, state=state)
            said = f"wrote {out}"
        except Exception as error:
            if not isinstance(error, GsLiftError | OSError):
                log.exception("the viewer")
            said = f"{out}: not written: {error}"
        self._note(said)

    def _note(self, said: str) -> None:
        self._written.content = f'<div style="padding:0 1em">{html.escape(said)}</div>'

    def _cut(self) -> None:
        """Another granularity, to look at: the run keeps it when something is edited next."""
        assert self.editor is not None
        wanted = dict(self.editor.recipe.changes) | {"granularity": float(self._granularity.value)}
        if (
            wanted == self.editor.recipe.changes
        ):  # of several moves of the slider the first cut was of the last one
            return
        try:
            self.editor.cut(wanted)
        except GsLiftError:
            self._quiet = True
            try:
                self._granularity.value = self._cut_at
            finally:
                self._quiet = False
            raise
        self.hidden, self.isolated = set(), None
        self._show_cut()

    @property
    def _cut_at(self) -> float:
        assert self.editor is not None
        changes = self.editor.recipe.changes
        return float(changes.get("granularity", self.editor.config.cluster.granularity))

    def _show_cut(self) -> None:
        assert self.editor is not None
        self.shown, self.places = Shown.of_editor(self.editor), None
        there = {one.id - 1 for one in self.shown.objects}
        self.selected = [one for one in self.selected if one in there]
        self.hidden &= there
        self.isolated = self.isolated & there or None if self.isolated is not None else None
        self._paint()
        self._refresh()


def _title(one: Object) -> str:
    words = [f"{one.id}", one.name or "", one.class_name or "", f"{one.count:,}", f"{one.score:.2f}"]
    return " · ".join(word for word in words if word)


def _small(view: View, longest: int) -> np.ndarray:
    """[h w 3] uint8 of a view's photo."""
    pixels = (view.image().clamp(0, 1) * 255).round().byte().numpy()
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest, longest))
    return np.asarray(picture)


def _quat(rotation: np.ndarray) -> np.ndarray:
    """wxyz of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(rotation).as_quat()[[3, 0, 1, 2]]
