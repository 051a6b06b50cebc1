"""A real browser for tests of pages, and a page that fails its test on errors and on requests to anywhere else.

Skipped where no Chromium is installed, unless the environment variable REQUIRE_BROWSER is set: then it is a failure.
"""

import os
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ARGUMENTS = (
    "--no-sandbox",
    "--use-gl=angle",  # WebGL, computed by the CPU
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 300_000.0
"""After which a test fails that waits for something on a page, however busy the machine is."""
LOCAL_SCHEMES = ("file", "data", "blob", "about")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; ended with the module, since Playwright's event loop runs in this thread till then."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        reason = "neither chromium nor google-chrome is on the PATH"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(f"{reason}, and REQUIRE_BROWSER is set")
        pytest.skip(reason)
    with sync_playwright() as playwright:
        expect.set_options(timeout=TIMEOUT_MS)
        chromium = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS), timeout=TIMEOUT_MS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of 1400 by 900 pixels; the test fails at its end if the page reported an error or left this machine."""
    complaints: list[str] = []
    tab = browser.new_page(viewport={"width": 1400, "height": 900})
    tab.set_default_timeout(TIMEOUT_MS)
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: None if is_local(request.url) else complaints.append(f"asked for {request.url}"))
    tab.on(
        "response", lambda answer: complaints.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None
    )
    yield tab
    tab.close()
    assert complaints == []


def is_local(url: str) -> bool:
    """Whether a request stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme in LOCAL_SCHEMES or parts.hostname in ("127.0.0.1", "localhost")
