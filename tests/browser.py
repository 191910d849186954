"""A real browser for tests of pages: Debian's chromium, without a screen, with WebGL in software."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

WEBGL_IN_SOFTWARE = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@contextmanager
def open_browser() -> Iterator[Any]:
    """A browser of playwright's; the test skips itself where there is none."""
    if CHROMIUM is None:
        pytest.skip("no chromium: install Debian's package of that name to test pages")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(WEBGL_IN_SOFTWARE))
        try:
            yield browser
        finally:
            browser.close()
