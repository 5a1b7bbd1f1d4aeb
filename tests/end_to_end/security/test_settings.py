"""Foreign settings and texts; the promises of SECURITY.md."""

import re

import pytest
from security_parts import BOMB, ROOT

from pipeline_anime_ddpm.common import parsing
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.training.config import parse_config

YAML = {
    "a bomb": (BOMB, "alias"),
    "depth": ("a: " + "[" * 1_000, "not valid YAML"),
    "a constructor": ("seed: !!python/object/apply:os.system ['false']", "not valid YAML"),
    "a day that is none": ("seed: 2001-99-99", "not valid YAML"),
    "a number without end": ("seed: " + "9" * 5000, "not valid YAML"),
    "a time that is none": ("seed: !!timestamp x", "not valid YAML"),
    "a number without digits": ("!!int : 1", "not valid YAML"),
    "infinity": ("seed: .inf", "give a whole number"),
    "a mapping": ("seed: {a: 1}", "nested"),
    "lists of lists": ("patch_sizes: [[16], [32]]", "nested"),
    "bytes": ("\x00", "cannot be read"),
    "no text": ("seed: !!binary AAAA", "--seed is"),
}


@pytest.mark.parametrize("what", YAML)
def test_hostile_settings_get_a_sentence(what, tmp_path):
    text, says = YAML[what]
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(UserError, match=says) as raised:
        parse_config(["--config", str(tmp_path / "run.yaml")])
    assert len(str(raised.value)) < 400


def test_texts_of_any_length_are_not_parsed():
    for parse in (parsing.parse_json, parsing.parse_yaml):
        with pytest.raises(ValueError, match="16,000,000 characters"):
            parse(" " * 16_000_001)


def test_every_promise_names_a_test_that_exists():
    words = re.findall(r"`(test[^`]+)`", (ROOT / "SECURITY.md").read_text())
    defined = [
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    ]
    assert len(words) > 15
    for word in words:
        found = (ROOT / word).exists() if "/" in word else any(name.startswith(word.rstrip("…")) for name in defined)
        assert found, word
