"""Reading the card of a base model."""

import json

import pytest

from pipeline_anime_ddpm.runs.base_card import MAX_BYTES, marked, read_card

FOREIGN = """---
license: cc-by-4.0
datasets: somebody/cats
base_model: [google/ddpm-cat-256]
tags: [cats]
---
# Cats

It draws cats.
"""
TWO_LINES = "Drawings of **2000**, of two lines.\nNobody was asked."
OURS = f"""---
license: other
license_name: research-only
license_link: https://example.org
---
<!-- repository: you/faces -->

# Faces

{marked("data", TWO_LINES)}

- {marked("limits", "No hands.")}
- {marked("nonsense", "Not of a card.")}
"""


@pytest.mark.parametrize(
    "text, expected",
    [
        (FOREIGN, {"license": "cc-by-4.0", "datasets": ["somebody/cats"]}),
        (
            OURS,
            {"license": "other", "license_name": "research-only", "license_link": "https://example.org"}
            | {"repo_id": "you/faces", "limits": "No hands."}
            | {"data": TWO_LINES},
        ),
        ("---\nlicense: [mit, cc-by-4.0]\n---\n", {"license": "other", "license_name": "mit and cc-by-4.0"}),
        (f"{marked('data', 'Of its own.')} {marked('data', 'Of its base.')}", {"data": "Of its own. Of its base."}),
        ("---\n1: x\n---\n# Odd keys", {}),
        ("# No metadata", {}),
        ("---\nlicense: [a, b\n---\n# Broken", {}),
        ("---\nlicense: 3\ndatasets: {a: b}\n---\n# Odd", {}),
    ],
)
def test_metadata_and_marked_sentences_are_read(text, expected, tmp_path):
    (tmp_path / "README.md").write_text(text)
    assert read_card(str(tmp_path)) == expected


def test_run_that_was_not_published_has_the_card_of_its_base(tmp_path):
    record = {"went_on_from": {"name": "hub_model", "local": True, "card": {"license": "other", "data": "Old ones."}}}
    (tmp_path / "provenance.json").write_text(json.dumps(record))
    (tmp_path / "best").mkdir()
    assert read_card(str(tmp_path)) == read_card(str(tmp_path / "best")) == record["went_on_from"]["card"]


def test_settings_may_be_absent(tmp_path):
    assert read_card(None) == read_card(str(tmp_path)) == read_card("nobody/nothing") == {}
    (tmp_path / "README.md").write_text(FOREIGN + " " * MAX_BYTES)
    assert read_card(str(tmp_path)) == {}
