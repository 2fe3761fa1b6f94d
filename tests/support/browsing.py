"""A page of a real browser that has opened a file, and whom it asked."""

import contextlib
import shutil

import pytest

OWN = ("file:", "data:", "blob:")


@contextlib.contextmanager
def open_page(path=None, **given):
    """A page of a headless Chromium, the addresses beyond its own files that it asks for, and what it complains of.

    given: of the browser's context (viewport, colour scheme). The test is skipped where there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium") or pytest.skip("needs chromium")
    asked, complaints = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **given}).new_page()
        page.on("request", lambda request: None if request.url.startswith(OWN) else asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        if path:
            page.goto(path.as_uri())
        yield page, asked, complaints
        browser.close()
