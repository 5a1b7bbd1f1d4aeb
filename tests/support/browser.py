"""What the tests of the page in a real browser share."""

import json
import re
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LAYOUTS = {"desktop": ((1280, 900), "light"), "phone": ((360, 740), "light"), "dark": ((1280, 900), "dark")}
SECONDS = 60_000  # in milliseconds, that anything may take
NEEDS_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed; try `apt-get install chromium`"),
]


def wait_for(tab, text):
    tab.locator("#status", has_text=re.compile(text)).wait_for()


def said(tab):
    return tab.locator("#status").inner_text()


def query_of(tab):
    return tab.url.partition("?")[2]


def kept(tab):
    return json.loads(tab.evaluate("localStorage.getItem('anime-ddpm-shelf')") or "[]")


def fits(tab):
    return tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def fill(tab, selector, value):
    """Move a slider as a hand does."""
    tab.locator(selector).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )
