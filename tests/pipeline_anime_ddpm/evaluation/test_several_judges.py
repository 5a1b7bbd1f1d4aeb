"""Several extractors judge the same images: drawn once, recorded, printed, compared and published."""

import json
import re

import numpy as np
import pytest
from evaluation_data import colour_extractor, pictures, save
from huggingface_hub import ModelCard

from pipeline_anime_ddpm.cli import main
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.evaluation import EvaluationConfig, drawing, evaluate, reference
from pipeline_anime_ddpm.evaluation.compare import comparison_table
from pipeline_anime_ddpm.evaluation.metrics import judges as judges_module
from pipeline_anime_ddpm.evaluation.metrics.judges import copy_check, judges
from pipeline_anime_ddpm.evaluation.networks import extractors

LABEL = "EfficientNet-Lite0 (ImageNet)"


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    """A small stand-in for EfficientNet-Lite0."""
    kind = colour_extractor()
    for module in (extractors, reference):
        monkeypatch.setattr(module, "EfficientNetExtractor", kind)
    return kind


@pytest.fixture
def both(settings, tiny_vit, tiny_pipeline):
    """The settings of an evaluation by two judges, without LPIPS."""
    settings |= {"model": str(tiny_pipeline), "extractor": f"{tiny_vit},efficientnet-lite0"}
    return settings | {"metrics": "fid,kid,copies"}


@pytest.fixture
def draws(monkeypatch):
    """The number of each image that is drawn, one entry a time."""
    numbers, draw = [], drawing.draw_batch

    def counted(pipeline, batch, *args, **kwargs):
        numbers.extend(batch)
        return draw(pipeline, batch, *args, **kwargs)

    monkeypatch.setattr(drawing, "draw_batch", counted)
    return numbers


def run(settings):
    return evaluate(EvaluationConfig(**settings), show_progress=False)


def test_two_judges_see_the_same_images_drawn_once(both, draws, tiny_vit, tmp_path):
    record = run(both)
    assert sorted(draws) == sorted([0, *range(24)])  # one to try the sampler, then each once
    first, second = judges(record)
    assert (first.name, second.name) == ("tiny-vit", LABEL)
    assert json.loads((tmp_path / "evaluation" / "metrics.json").read_text()) == record
    for name, judge in ((str(tiny_vit), first), ("efficientnet-lite0", second)):
        folder = str(tmp_path / judge.name)
        (alone,) = judges(run(both | {"extractor": name, "output_dir": folder, "metrics": "fid,kid"}))
        assert alone == judge
    assert set(second.floor) == {"fid", "kid"} and second.metrics["kid"]["name"] == f"KID-{LABEL}"


def test_frechet_distance_of_few_images_carries_a_note(both):
    first, second = judges(run(both))
    assert second.metrics["fid"]["note"] == "unreliable with fewer than 2,000 images on both sides"
    assert "note" not in first.metrics["fid"]


def test_features_of_real_images_are_kept_for_each_judge(both, monkeypatch, colours, tmp_path):
    both |= {"cache_dir": str(tmp_path / "cache")}
    run(both)
    seen, extract = [], colours.extract

    def counted(self, images, *args, **kwargs):
        seen.append(len(images))
        return extract(self, images, *args, **kwargs)

    monkeypatch.setattr(colours, "extract", counted)
    run(both | {"output_dir": str(tmp_path / "again")})
    assert [n for n in seen if n > 2] == [24]  # the judged ones; the two are for trying the extractor


def test_evaluation_that_was_killed_between_judges_draws_nothing_again(both, draws, monkeypatch):
    measure = reference.feature_metrics
    monkeypatch.setattr("pipeline_anime_ddpm.evaluation.recipe.feature_metrics", fails := _killed_at(measure, LABEL))
    with pytest.raises(KeyboardInterrupt):
        run(both)
    assert fails.calls == 2
    monkeypatch.undo()
    kind = colour_extractor()
    for module in (extractors, reference):
        monkeypatch.setattr(module, "EfficientNetExtractor", kind)
    drawn = len(draws)
    monkeypatch.setattr(drawing.Drawing, "draw", _only_checks)
    assert len(judges(run(both))) == 2
    assert len(draws) == drawn


def _killed_at(measure, label):
    def fails(config, extractor, *args):
        fails.calls += 1
        if extractor.label == label:
            raise KeyboardInterrupt
        return measure(config, extractor, *args)

    fails.calls = 0
    return fails


def _only_checks(self, *args, **kwargs):
    assert all(map(self._is_drawn, range(self.count)))


def test_command_prints_both_judges_and_what_finds_copies(both, capsys):
    main(["evaluate", *(f"--{name}={value}" for name, value in both.items())])
    printed = capsys.readouterr().out
    for said in ("  FD-tiny-vit: ", f"  FD-{LABEL}: ", f"  KID-{LABEL}: ", "unreliable with fewer than 2,000 images"):
        assert said in printed, said
    assert re.search(r"memorised: 0 of 24 images are nearer than .* to a training image", printed)
    assert printed.count("[floor ") == 4


@pytest.mark.parametrize("metrics", ["fid,kid,copies", "fid,kid,lpips,copies"])
@pytest.mark.parametrize("held_out", [True, False], ids=["held out", "flat folder"])
def test_results_of_two_judges_are_published(both, tiny_pipeline, tmp_path, metrics, held_out, monkeypatch):
    monkeypatch.setattr(judges_module, "LEAST_MEANINGFUL", 24)
    if not held_out:
        both |= {"dataset": str(save(tmp_path / "flat", pictures(50, seed=0)))}
    run(both | {"metrics": metrics})
    out = tmp_path / "published"
    main(["publish", str(tiny_pipeline), "--evaluation", both["output_dir"], "--output_dir", str(out)])
    card = ModelCard((out / "README.md").read_text(), ignore_metadata_errors=False)
    results = {result.metric_name: result for result in card.data.eval_results or ()}
    copies = f"cosine distance of {LABEL} features to the nearest training image"
    assert bool(results) == held_out
    if held_out:
        assert results[f"FD-{LABEL}"].metric_type == results["FD-tiny-vit"].metric_type == "fd"
        assert results[f"KID-{LABEL}"].metric_args["extractor"] == LABEL
        assert results["KID-tiny-vit"].metric_args["extractor"] == "tiny-vit"
        assert "extractor" not in results[copies].metric_args
    assert f"| FD-{LABEL} | " in card.text and f"by {copies}" in card.text
    assert f"- FD-{LABEL}: unreliable with fewer than 2,000" in card.text
    assert ("The floor is what 24 training images reach" in card.text) == held_out


def test_compare_shows_both_judges_and_aligns_them_by_name(both, tiny_vit, tmp_path):
    one = run(both)
    other = run(both | {"extractor": "efficientnet-lite0", "output_dir": str(tmp_path / "other"), "metrics": "fid,kid"})
    header, _, first, second, *_ = comparison_table([one, other], ["one", "other"]).splitlines()
    assert header.startswith(f"|  | FD-tiny-vit ↓ | KID-tiny-vit ↓ | FD-{LABEL} ↓ | KID-{LABEL} ↓ | memorised, cosine")
    assert second.startswith("| other | – | – | ")
    assert first.split(" | ")[3] == second.split(" | ")[3]  # the same images, the same distance
    alone = run(both | {"extractor": str(tiny_vit), "output_dir": str(tmp_path / "alone"), "metrics": "fid,kid"})
    with pytest.raises(UserError, match="the extractor differ"):
        comparison_table([alone, other], ["alone", "other"])


MISTAKES = {
    "none": ({"extractor": " , "}, "--extractor is empty"),
    "one twice": ({"extractor": "efficientnet-lite0,efficientnet-lite0"}, f"names '{LABEL}' twice"),
    "two of one name": ({"extractor": "a/vit,b/vit"}, "names 'vit' twice; give another one, or --extractor_label"),
    "labels that do not fit": ({"extractor": "a/vit,b/vit", "extractor_label": "a"}, "has 1 labels for 2 vision"),
    "a label for none": ({"extractor": "inception,efficientnet-lite0", "extractor_label": "a"}, "is for vision models"),
    "weights for none": ({"extractor_weights": "x.pth"}, "--extractor_weights is for inception"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_the_names_is_refused(both, mistake):
    changes, sentence = MISTAKES[mistake]
    with pytest.raises(UserError, match=re.escape(sentence)):
        EvaluationConfig(**both | changes)


def test_labels_go_to_vision_models_in_their_order(both):
    given = both | {"extractor": "a/vit,inception,b/vit", "extractor_label": "one, two"}
    assert EvaluationConfig(**given).extractors == [("a/vit", "one"), ("inception", None), ("b/vit", "two")]
    given = both | {"extractor": "a/vit,efficientnet-lite0", "extractor_label": "one, of two"}
    assert EvaluationConfig(**given).extractors == [("a/vit", "one, of two"), ("efficientnet-lite0", None)]


@pytest.mark.parametrize("held_out", [True, False], ids=["held out", "flat folder"])
def test_mirrored_copies_are_found_by_features(both, data_set, tmp_path, held_out):
    copies = pictures(60 if held_out else 50, seed=0)[:24, ..., ::-1]
    if not held_out:
        both |= {"dataset": str(save(tmp_path / "flat", pictures(50, seed=0)))}
    for name in ("model", "num_inference_steps", "batch_size"):
        del both[name]
    record = run(both | {"images": str(save(tmp_path / "copies", np.ascontiguousarray(copies))), "metrics": "copies"})
    found = copy_check(record)
    assert found["memorised"] == 24 and found["suspicious"]
    assert found["feature"]["weights"] == "0123456789abcdef"
    assert found["held_out"]["memorised_share"] < 0.2


def test_without_the_package_copies_are_searched_for_by_lpips(both, monkeypatch, tiny_vit):
    def missing(device="cpu"):
        raise UserError("Not installed; run pip install it.")

    monkeypatch.setattr(extractors, "EfficientNetExtractor", missing)
    monkeypatch.setattr(reference, "EfficientNetExtractor", colour_extractor())
    record = run(both | {"metrics": "kid,lpips,copies"})
    reason = "Not installed; run pip install it."
    assert {"metrics": "copies", "reason": reason} in record["skipped"]
    assert {"metrics": "kid by efficientnet-lite0", "reason": reason} in record["skipped"]
    assert [judge.name for judge in judges(record)] == ["tiny-vit"]
    assert copy_check(record)["name"] == "mean squared pixel difference to the nearest training image"


def test_statistics_of_both_judges_are_computed_ahead(both, capsys):
    names = ("dataset", "metrics", "num_images", "extractor", "kid_subset_size", "kid_subsets", "device", "cache_dir")
    main(["stats", "--resolution=16", *(f"--{name}={both[name]}" for name in names)])
    printed = capsys.readouterr().out
    assert "  FD-tiny-vit: " in printed and f"  FD-{LABEL}: " in printed
    assert f"cosine distance of {LABEL} features from 40 validation images to the nearest of 60" in printed
