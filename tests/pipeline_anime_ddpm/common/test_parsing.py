"""YAML and JSON of others are read without surprises, or refused."""

import pytest
import yaml

from pipeline_anime_ddpm.common import parsing


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x 1\nb: *x", "it repeats a part by an alias"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: [", "not valid YAML"),
        ("a: " + "[" * 2000, "not valid YAML"),
    ],
)
def test_yaml_that_makes_more_than_plain_values_is_refused(text, says):
    assert parsing.parse_yaml("a: [1, x]") == {"a": [1, "x"]}
    with pytest.raises(ValueError, match=says):
        parsing.parse_yaml(text)


def test_libraries_may_use_a_few_aliases_for_as_long_as_asked():
    text = "a: &x 1\nb: [" + ", ".join(["*x"] * (parsing.MAX_ALIASES + 1)) + "]"
    with parsing.few_aliases():
        assert yaml.safe_load("a: &x 1\nb: *x") == {"a": 1, "b": 1}
        with pytest.raises(ValueError, match="repeats parts by aliases"):
            yaml.safe_load(text)
    assert len(yaml.safe_load(text)["b"]) == parsing.MAX_ALIASES + 1


def test_json_that_is_too_deep_is_a_value_error():
    with pytest.raises(ValueError):
        parsing.parse_json("[" * 200_000)


@pytest.mark.parametrize("text", [None, "{", "[1]", "\udcff"])
def test_missing_and_damaged_records_are_empty(text, tmp_path):
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text, errors="surrogateescape")
    assert parsing.read_record(path) == {}
    path.write_text('{"a": 1}')
    assert parsing.read_record(path) == {"a": 1}
