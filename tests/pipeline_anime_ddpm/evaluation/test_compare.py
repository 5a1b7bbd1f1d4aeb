"""Unlike things are not compared, unless one insists; then the table says so."""

import copy
import json

import pytest
from PIL import Image

from pipeline_anime_ddpm.cli import main
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation.compare import comparison_table, differences


def record(fid=20.0, **changes):
    facts = {"n": 2000, "real_n": 2000}
    made = {
        "judged": {"source": "x", "n": 2000, "resolution": 64},
        "real": {"source": "faces", "split": "validation", "n": 2000, "resolution": 64, "fingerprint": "abc"},
        "extractor": {"name": "net", "weights": "123", "settings": "789", "resize": "to 28x28"},
        "distance": {"name": "LPIPS", "weights": "456"},
        "metrics": {
            "fid": {"name": "FD-net", "value": fid, **facts},
            "kid": {"name": "KID-net", "value": fid / 10, "std": 0.25, "subset_size": 1000, "subsets": 100, **facts},
            "lpips_nearest": {"name": "nearest", "value": 0.1, "memorised_share": 0.021,
                              "training": {"fingerprint": "def"}},
            "lpips_diversity": {"name": "pairwise", "value": 0.3, "real": 0.33},
        },
        "floor": {"metrics": {"fid": {"name": "FD-net", "value": 19.0, **facts}}},
    }  # fmt: skip
    for path, value in changes.items():
        *parents, name = path.split("__")
        place = made
        for parent in parents:
            place = place[parent]
        place[name] = value
    return made


def test_alike_results_make_a_table_with_the_floor_below():
    table = comparison_table([record(20), record(30.5)], ["ours", "theirs"]).splitlines()
    assert table[0] == "|  | FD-net ↓ | KID-net ↓ | nearest | memorised | pairwise |"
    assert table[2] == "| ours | 20 | 2 ± 0.25 | 0.1 | 2.1% | 0.3000 (real 0.3300) |"
    assert table[3].startswith("| theirs | 30.5 | 3.05 ± 0.25 |")
    assert table[4] == "| floor: training images | 19 | – | – | – | – |"
    assert len([line for line in table if line.startswith("| floor")]) == 1
    assert "Measured alike: number of images 2000" in table[-1]


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("judged__n", 1000, "number of images"),
        ("judged__resolution", 32, "resolution"),
        ("real__split", "test", "real images"),
        ("real__fingerprint", "other", "real images"),
        ("real__n", 500, "number of real images"),
        ("extractor__weights", "other", "extractor"),
        ("extractor__settings", "other", "extractor"),
        ("extractor__resize", "to 224x224", "resize"),
        ("metrics__kid__subset_size", 500, "KID subsets"),
        ("distance__weights", "other", "perceptual distance"),
        ("metrics__lpips_nearest__training", {"fingerprint": "other"}, "training images"),
    ],
)
def test_different_evaluations_are_refused_unless_allow_unlike(path, value, name):
    records = [record(), record(**{path: value})]
    assert list(differences(records)) == [name]
    with pytest.raises(UserError, match=f"cannot be compared: the {name} differ .*--allow_unlike"):
        comparison_table(records, ["a", "b"])
    table = comparison_table(records, ["a", "b"], allow_unlike=True)
    assert "Compare with care" in table
    assert f"- {name}: a " in table


def test_metric_that_one_result_lacks_is_a_gap_and_not_a_difference():
    lacking = copy.deepcopy(record())
    del lacking["metrics"]["lpips_nearest"], lacking["distance"]
    table = comparison_table([record(), lacking], ["a", "b"])
    assert "| b | 20 | 2 ± 0.25 | – | – | 0.3000 (real 0.3300) |" in table


def test_command_prints_the_table_and_writes_both_forms(tmp_path, capsys):
    for name, fid in (("one", 20), ("two", 30)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(record(fid)))
    paths = [str(tmp_path / "one"), str(tmp_path / "two" / "metrics.json")]
    main(["compare", *paths, "--names", "A", "$B|_{", "--output", str(tmp_path / "out" / "table-1.0")])
    printed = capsys.readouterr().out
    assert "| A | 20 |" in printed
    assert "| $B\\|_{ | 30 |" in printed
    (tmp_path / "odd.json").write_text('{"judged": {}, "real": {}, "metrics": {}}')
    assert (tmp_path / "out" / "table-1.0.md").read_text() == printed
    with Image.open(tmp_path / "out" / "table-1.0.png") as picture:
        assert picture.width > 400
    for mistake, sentence in [
        (["compare", str(tmp_path / "odd.json")], "odd.json is not the metrics.json of an evaluation"),
        (["compare", str(tmp_path / "three")], "three is not the metrics.json of an evaluation"),
        (["compare", *paths, "--names", "A"], "--names has 1 names for 2 results"),
        (["compare", str(tmp_path / "out" / "table-1.0.md")], "is not the metrics.json of an evaluation"),
    ]:
        with pytest.raises(SystemExit) as stop:
            main(mistake)
        assert stop.value.code == 2
        assert sentence in capsys.readouterr().err
