"""Screenshots of the viewer, the page and the report of the demo, for the documentation.

    gslift demo && python tools/make_screenshots.py gslift_demo docs/images

Needs Debian's chromium and the packages viser and playwright. The run of the demo is left as it is.
"""

import io
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

WIDTH, HEIGHT = 1280, 800


def main(
    demo: Annotated[Path, typer.Argument(help="Folder that `gslift demo` has made.")] = Path("gslift_demo"),
    out: Annotated[Path, typer.Argument(help="Folder for the pictures.")] = Path("docs/images"),
) -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no chromium: install Debian's package of that name")
    out.mkdir(parents=True, exist_ok=True)
    arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(demo / "run", run)
        browser = driver.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        viewer(page, run, out / "viewer.jpg")
        scene(page, run, Path(folder) / "scene.html", out / "scene.jpg")
        report(page, demo / "report.html", out / "report.jpg")
        browser.close()


def viewer(page: Any, run_folder: Path, out: Path) -> None:
    """As it opens: in the colours of instances."""
    from gs_lift.editing import Editor
    from gs_lift.run import open_run
    from gs_lift.viewer import Window, open_server
    from gs_lift.viewer.painting import Shown

    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    editor = Editor(open_run(run_folder))
    window = Window(open_server("127.0.0.1", port), Shown.of_editor(editor), editor)
    try:
        page.goto(f"http://127.0.0.1:{port}")
        page.get_by_text("objects").first.wait_for()
        page.get_by_role("button", name="Close").or_(
            page.locator("button.mantine-CloseButton-root")
        ).first.click()
        settle(page)
        save(page, out)
    finally:
        window.close()


def scene(page: Any, run_folder: Path, written: Path, out: Path) -> None:
    """The page that needs no server."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "gs_lift", "view", str(run_folder), "--html", str(written)]
    subprocess.run(command, check=True)
    page.goto(written.as_uri())
    settle(page)
    save(page, out)


def report(page: Any, written: Path, out: Path) -> None:
    """Its beginning, and its objects below."""
    page.goto(written.as_uri())
    top = Image.open(io.BytesIO(page.screenshot()))
    page.locator("#objects").scroll_into_view_if_needed()
    page.evaluate("document.querySelector('#objects').scrollIntoView()")
    below = Image.open(io.BytesIO(page.screenshot()))
    both = Image.new("RGB", (WIDTH, 2 * HEIGHT))
    both.paste(top, (0, 0))
    both.paste(below, (0, HEIGHT))
    both.save(out, quality=80)


def settle(page: Any) -> None:
    """Until the picture no longer changes: software draws slowly."""
    before = b""
    for _ in range(120):
        page.wait_for_timeout(1000)
        now = page.screenshot()
        if now == before:
            return
        before = now


def save(page: Any, out: Path) -> None:
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(out, quality=80)


if __name__ == "__main__":
    typer.run(main)
