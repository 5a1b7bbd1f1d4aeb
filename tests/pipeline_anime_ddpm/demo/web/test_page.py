"""The page as it is sent, before any script runs."""

import io
import re

import pytest
from demo_page import ask, config, html
from PIL import Image

from pipeline_anime_ddpm.demo.web.page import STATIC


def test_page_shows_its_faces_before_any_script_runs(labelled_page):
    text = html(labelled_page)
    assert "<h1>" in text and "Draw anime faces" in text
    assert text.count('class="tile drawn"') == 64 and 'aria-label="face with ' in text
    for name in re.findall(r"web/[0-9a-f]+/(?:wall|first)\.webp", text):
        status, headers, content = ask(labelled_page, name)
        assert status == 200 and "immutable" in headers["Cache-Control"]
        assert Image.open(io.BytesIO(content)).size in [(1024, 1024), (512, 512)]
    assert all(f'aria-label="{value} hair"' in text for value in ("blue", "sandy", "pink"))
    assert "--swatch: #4576e8" in text and 'class="word" title="sandy"' in text  # a name that is no colour


def test_page_without_labels_or_wall_has_neither(page):
    text = html(page)
    assert 'class="tile drawn"' not in text and "swatches" not in text and config(text)["wall"] == []
    assert ask(page, "web/x/wall.webp")[0] == 404


def test_link_shows_its_face_with_open_graph_tags(labelled_page):
    text = html(labelled_page, "?s=2&hair=blue&utm_source=x&__theme=dark", **{"X-Forwarded-Proto": "https"})
    origin = labelled_page.url.replace("http:", "https:").strip("/")
    assert f'property="og:image" content="{origin}/picture?s=2&amp;hair=blue&amp;size=512"' in text
    assert "<title>Face with blue hair</title>" in text and config(text)["first"]["query"] == "s=2&hair=blue"
    assert 'src="picture?s=2&amp;hair=blue&amp;size=512"' in text and not config(text)["trouble"]


@pytest.mark.parametrize("query, said", [
    ("s=2&hair=plaid", "knows no hair “plaid”"), ("s=-1", "The seed must be"), ("hair=plaid", "knows no hair"),
    ("s=%3Cscript%3E&hair=%3Cscript%3E", "This link does not work here"),
])  # fmt: skip
def test_bad_link_says_so(labelled_page, query, said):
    text = html(labelled_page, f"?{query}")
    trouble = config(text)["trouble"]
    assert (
        said in trouble
        and trouble.startswith("This link does not work here.")
        and "<script>" not in trouble + text[text.index("</head>") :]
    )


def test_labels_of_another_model_are_named_in_a_link(page):
    assert "It has no labels" in config(html(page, "?s=1&hair=blue"))["trouble"]


def test_files_are_cached_by_their_content_and_packed(page):
    name = re.search(r"web/[0-9a-f]+/js/main\.js", html(page))[0]
    status, headers, content = ask(page, name, **{"Accept-Encoding": "gzip"})
    assert status == 200 and headers["Content-Encoding"] == "gzip" and content[:2] == b"\x1f\x8b"
    status, headers, content = ask(page, re.sub("web/[0-9a-f]+", "web/other", name))
    assert status == 200 and "Cache-Control" not in headers and b"import" in content
    for bad in ("web/x/../page.py", "web/x/%2e%2e/page.py", "web/x/index.html", "web/x/wall.json"):
        assert ask(page, bad)[0] == 404


def test_all_files_of_the_page_are_small():
    sizes = {path.name: path.stat().st_size for path in STATIC.rglob("*") if path.is_file()}
    assert sum(sizes.values()) < 400_000, sizes
