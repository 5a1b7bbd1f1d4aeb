"""One `setting` is a flag, a line of YAML, a bound, and whether a resumed run may change it."""

import argparse
from dataclasses import dataclass, fields

import pytest

from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.common.settings import (
    Settings,
    add_flags,
    convert,
    listed,
    may_change_on_resume,
    read_flags,
    read_yaml,
    setting,
)
from pipeline_anime_ddpm.evaluation.settings import EvaluationConfig
from pipeline_anime_ddpm.training.config import TrainingConfig


@dataclass
class Basics(Settings):
    """Basics of everything."""

    count: int = setting(4, "How many.", at_least=1)
    share: float = setting(0.5, "Which part.", at_least=0, below=1)
    rate: float = setting(1e-4, "How fast.", above=0)
    name: str | None = setting(None, "What it is called.", resume=True)


@dataclass
class Everything(Basics):
    """The rest."""

    mode: str = setting("plain", "How.", choices=("plain", "fancy"))
    colour: str | None = setting(None, "Of what is fancy.", needs="title")
    title: str | None = setting(None, "Above it.", several=True)
    loud: bool = setting(False, "Whether it is loud.")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"count": 0}, "--count is 0; give 1 or more."),
        ({"count": 2**63}, "--count is 9223372036854775808; give 9223372036854775807 or less."),
        ({"share": 1.0}, "--share is 1.0; give at least 0 and less than 1."),
        ({"share": float("nan")}, "--share is nan; give at least 0 and less than 1."),
        ({"rate": 0.0}, "--rate is 0.0; give a number above 0."),
        ({"rate": float("inf")}, "--rate is inf; give a number above 0."),
        ({"mode": "odd"}, "--mode is 'odd'; choose one of plain, fancy."),
        ({"colour": "red"}, "--colour does nothing without --title; give both or neither."),
    ],
)
def test_values_out_of_bounds_are_refused(given, says):
    with pytest.raises(UserError) as raised:
        Everything(**given)
    assert str(raised.value) == says


def test_values_at_their_bounds_are_taken():
    assert Everything(count=1, share=0, rate=1e-30, colour="red", title="a").is_given("colour")
    assert not Everything().is_given("colour")


def test_flags_are_grouped_by_class(capsys):
    parser = argparse.ArgumentParser()
    add_flags(parser, Everything)
    parser.print_help()
    text = capsys.readouterr().out.partition("options:")[2]
    assert text.index("Basics of everything") < text.index("--count") < text.index("The rest") < text.index("--mode")
    assert "--no-loud" not in text and "(default: off)" in text
    assert read_flags(Everything, parser.parse_args(["--no-loud"])) == {"loud": False}
    given = read_flags(Everything, parser.parse_args(["--count", "7", "--title", "a", "b", "--loud"]))
    assert given == {"count": 7, "title": "a,b", "loud": True}


def test_help_lists_the_chosen_flags_first_and_the_chosen_classes_last(capsys):
    parser = argparse.ArgumentParser()
    add_flags(parser, Everything, first=["title", "rate"], last=[Basics])
    parser.print_help()
    text = capsys.readouterr().out.partition("options:")[2]
    shown = [text.index(f"  --{name}") for name in ("title", "rate", "mode", "loud", "count", "name")]
    assert shown == sorted(shown) and text.count("  --rate") == 1


def test_yaml_and_flags_are_read_alike(tmp_path):
    (tmp_path / "run.yaml").write_text("count: 7.0\nrate: 1e-3\nname: none\ntitle: [a, b]\n")
    given = read_yaml(Everything, str(tmp_path / "run.yaml"))
    assert given == {"count": 7, "rate": 1e-3, "name": "none", "title": "a,b"}
    assert convert(Everything, "count", "7") == 7
    with pytest.raises(UserError, match=r"--count is '7\.5'; give a whole number"):
        convert(Everything, "count", "7.5")


def test_settings_declare_whether_they_may_change_on_resume():
    assert may_change_on_resume(Everything) == {"name"}
    changeable = may_change_on_resume(TrainingConfig)
    assert {"output_dir", "max_train_images", "logging_steps", "push_to_hub"} <= changeable
    assert not changeable & {"learning_rate", "seed", "dataset_name", "patch_sizes", "label_columns", "ema_sigma_rels"}


@pytest.mark.parametrize("settings", [TrainingConfig, EvaluationConfig])
def test_every_setting_explains_itself_and_names_settings_that_exist(settings):
    names = {rules.name for rules in fields(settings)}
    for rules in fields(settings):
        assert len(rules.metadata["help"]) > 10, rules.name
        assert rules.metadata["needs"] is None or rules.metadata["needs"] in names


def test_lists_have_no_empty_parts():
    assert listed(" a, ,b,") == ["a", "b"] and listed(None) == []
