"""The card says what is recorded, says so where nothing is, and is what the Hub takes for a card."""

import csv
import json
import re

import pytest
from huggingface_hub import ModelCard

from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.publishing.bundle import check_stock
from pipeline_anime_ddpm.publishing.card import CardFacts, is_made_here

FACTS = """
title: Small faces
subject: anime faces
license: other
license_name: research-only
license_link: https://example.org/licence
datasets: [somebody/faces]
base_model: google/ddpm-celebahq-256
data: Drawings by **many** artists.
who_is_drawn: Mostly young women.
intended_use: Research.
limits: No hands.
authors: A. Author and B. Author
tags: [art]
"""


@pytest.fixture
def card(finished, evaluated, publish, tmp_path):
    """The finished run's card, with facts and an evaluation."""
    (tmp_path / "facts.yaml").write_text(FACTS)
    publish(finished, "--output_dir", tmp_path / "out", "--evaluation", evaluated, "--card", tmp_path / "facts.yaml",
            "--repo_id", "you/small-faces", "--dry_run")  # fmt: skip
    return ModelCard((tmp_path / "out" / "README.md").read_text(), ignore_metadata_errors=False)


def test_the_hub_reads_what_it_wants_to_know(card):
    data = card.data.to_dict()
    assert data["license"] == "other" and data["license_name"] == "research-only"
    assert data["library_name"] == "diffusers" and data["pipeline_tag"] == "unconditional-image-generation"
    assert {"diffusers", "ddpm", "art"} <= set(data["tags"]) and data["datasets"] == ["somebody/faces"]
    assert data["base_model"] == "google/ddpm-celebahq-256" and data["metrics"] == ["fd", "kid", "lpips_nearest"]
    assert data["widget"] == [{"output": {"url": "samples/grid.png"}}] and data["inference"] is False
    results = {result.metric_type: result for result in card.data.eval_results}
    assert card.data.model_name == "small-faces" and results["fd"].metric_value == 12.5
    assert results["kid"].metric_args["std"] == 0.125 and results["kid"].metric_args["extractor"] == "tiny-vit"
    assert results["kid"].metric_args["n"] == 2000 and results["kid"].metric_args["num_inference_steps"] == 7
    assert results["fd"].dataset_type == "somebody/faces" and results["fd"].dataset_split == "validation"


def test_people_read_the_facts_and_the_numbers(card, finished):
    text = card.text
    for said in ("# Small faces", "anime faces of 16 × 16 pixels", "Drawings by **many** artists.",
                 "Mostly young women.", "No hands.", "Research.",
                 "| FD-tiny-vit | 12.5 | 6.25 |", "0.75 ± 0.12", "2,000 samples against 1,500 real images",
                 "26 of 2,000 samples (1.3 %)", "nearer than 0.0625", "1.1 % are", "no more than chance allows",
                 "7 steps of ddim, base seed 3", "| images seen | 80 |", "`metrics.json`", "A. Author and B. Author",
                 "is not FID"):  # fmt: skip
        assert said in text, said
    machine = json.loads((finished / "provenance.json").read_text())["machines"][0]
    assert machine["device"] in text and f"torch {machine['versions']['torch']}" in text
    assert "20 images" in text and "(a local data set)" in text


def test_the_card_links_the_published_settings_and_metrics(card, tmp_path):
    for name in ("training_config.yaml", "metrics.json"):
        assert f"[`{name}`]({name})" in card.text and (tmp_path / "out" / name).is_file()


def test_hours_are_those_of_the_steps(card, finished):
    with open(finished / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    before = [0, *(float(row["images"]) for row in rows[:-1])]
    seconds = sum((float(r["images"]) - b) / float(r["images_per_second"]) for b, r in zip(before, rows, strict=True))
    assert f"| time | {seconds / 3600:.2f} hours" in card.text


def test_what_is_not_known_is_said_to_be_unknown(finished, publish, tmp_path):
    (finished / "provenance.json").unlink()
    publish(finished, "--output_dir", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    for said in ("has not said where the images come from", "none was stated, so ask", "has not said who",
                 "has not stated one", "was not measured", "It was not evaluated."):  # fmt: skip
        assert said in text, said
    data = ModelCard(text, ignore_metadata_errors=False).data.to_dict()
    assert not {"license", "model-index", "datasets", "metrics", "base_model"} & data.keys()


def test_a_hub_data_set_and_network_are_named_without_being_told(finished, publish, tmp_path):
    record = json.loads((finished / "provenance.json").read_text())
    record |= {"data": {"name": "me/faces", "local": False, "num_images": None},
               "went_on_from": {"name": "google/ddpm-cat-256", "local": False}}  # fmt: skip
    (finished / "provenance.json").write_text(json.dumps(record))
    publish(finished, "--output_dir", tmp_path / "out")
    data = ModelCard((tmp_path / "out" / "README.md").read_text()).data.to_dict()
    assert data["datasets"] == ["me/faces"] and data["base_model"] == "google/ddpm-cat-256"


def test_several_evaluations_share_one_table(finished, evaluated, publish, tmp_path):
    record = json.loads((evaluated / "metrics.json").read_text())
    others = [record | {"drawn": record["drawn"] | {"num_inference_steps": 50}}, record | {"date": "2026-01-03"}]
    paths = []
    for number, other in enumerate(others, 1):
        paths.append(tmp_path / f"metrics{number}.json")
        paths[-1].write_text(json.dumps(other))
    publish(finished, "--output_dir", tmp_path / "two", "--evaluation", evaluated, paths[0])
    text = (tmp_path / "two" / "README.md").read_text()
    assert text.count("| metric | sampled with | value | floor |") == 1
    first, second = "7 steps of ddim, base seed 3", "50 steps of ddim, base seed 3"
    rows = (
        f"| FD-tiny-vit | {first} | 12.5 | 6.25 |\n| FD-tiny-vit | {second} | 12.5 | 6.25 |\n| KID-tiny-vit | {first}"
    )
    assert rows in text and f"- {first}; {second}: 2,000 samples" in text
    publish(finished, "--output_dir", tmp_path / "alike", "--evaluation", evaluated, paths[1])
    text = (tmp_path / "alike" / "README.md").read_text()
    assert f"| FD-tiny-vit | {first} (2) | 12.5" in text
    assert f"- {first} (1): " in text and f"- {first} (2): " in text


def test_a_model_that_copies_is_not_praised(finished, evaluated, publish, tmp_path):
    record = json.loads((evaluated / "metrics.json").read_text())
    record["metrics"]["lpips_nearest"]["suspicious"] = True
    (evaluated / "metrics.json").write_text(json.dumps(record))
    publish(finished, "--output_dir", tmp_path / "out", "--evaluation", evaluated)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "assume that the model copies" in text and "no more than chance" not in text


def test_only_inceptions_distance_is_called_fid(finished, evaluated, publish, tmp_path):
    record = json.loads((evaluated / "metrics.json").read_text())
    record["extractor"]["name"], record["metrics"]["fid"]["name"] = "inception", "FID"
    (evaluated / "metrics.json").write_text(json.dumps(record))
    publish(finished, "--output_dir", tmp_path / "out", "--evaluation", evaluated)
    card = ModelCard((tmp_path / "out" / "README.md").read_text())
    assert card.data.to_dict()["metrics"][0] == "fid" and "is not FID" not in card.text


@pytest.mark.parametrize("judged, held_out, said", [
    (32, True, "32 generated and 1,500 real images are too few for these numbers to mean anything"),
    (2000, False, "The real images are a training split"),
])  # fmt: skip
def test_numbers_that_say_little_carry_a_caution_and_are_not_in_the_index(
    judged, held_out, said, finished, evaluated, publish, tmp_path
):
    record = json.loads((evaluated / "metrics.json").read_text())
    record["judged"]["n"], record["real"]["is_held_out"] = judged, held_out
    record["metrics"]["lpips_nearest"]["held_out"]["what"] = "other training images"
    (evaluated / "metrics.json").write_text(json.dumps(record))
    publish(finished, "--output_dir", tmp_path / "out", "--evaluation", evaluated)
    card = ModelCard((tmp_path / "out" / "README.md").read_text())
    assert said in card.text and "0.75 ± 0.12" in card.text
    assert "Of other training images, 1.1 % are." in card.text
    assert not {"model-index", "metrics"} & card.data.to_dict().keys()


def test_pictures_of_the_card_are_in_the_bundle(card, tmp_path):
    pictures = re.findall(r'(?:\]\(|<img src=")([^")]+\.png)', card.text)
    assert len(pictures) == 2 and all((tmp_path / "out" / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("text, said", [
    ("- a\n", "cannot be read"), ("titel: x\n", "did you mean title"), ("title: 3\n", "title is 3; give a text"),
    ("datasets: me/faces\n", "give a list"), ("tags: [1]\n", "give a list"), ("a: b: c", "cannot be read"),
])  # fmt: skip
def test_facts_that_cannot_be_meant(tmp_path, text, said):
    (tmp_path / "facts.yaml").write_text(text)
    with pytest.raises(UserError, match=said):
        CardFacts.read(tmp_path / "facts.yaml")


def test_cards_of_ours_are_told_from_those_of_others(card):
    assert is_made_here(card.content) and not is_made_here("# My own words")


def test_an_evaluation_may_lack_features_and_floor(finished, evaluated, publish, tmp_path):
    record = json.loads((evaluated / "metrics.json").read_text())
    for name in ("extractor", "floor"):
        del record[name]
    del record["metrics"]["fid"], record["metrics"]["kid"]
    (evaluated / "metrics.json").write_text(json.dumps(record))
    publish(finished, "--output_dir", tmp_path / "out", "--evaluation", evaluated)
    assert "ST-LPIPS to the nearest training image" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_of_a_labelled_model_lists_what_can_be_asked_for_and_its_code_runs(
    tiny_unet, publish, tmp_path, run_python
):
    names = {"eyes": ["blue", "red"], "hair": ["black", "pink"]}
    pipeline = AnimeDDPMPipeline(tiny_unet(num_class_embeds=9), AnimeNoiseScheduler(100), labels=names)
    pipeline.save_pretrained(tmp_path / "source")
    publish(tmp_path / "source", "--output_dir", tmp_path / "out", "--repo_id", "you/faces", "--dry_run")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| hair | black, pink |" in text and "You can ask only for eyes and hair" in text
    assert "unconditional diffusion model" not in text
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "pipe.labels" in block)
    load = (
        "import sys\nfrom diffusers import DiffusionPipeline\n"
        "pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
    )
    run_python(load + code, tmp_path / "out", package=False)


def test_no_stock_pipeline_is_made_of_a_labelled_network(tiny_unet):
    pipeline = AnimeDDPMPipeline(tiny_unet(num_class_embeds=3), AnimeNoiseScheduler(100), labels={"hair": ["a", "b"]})
    with pytest.raises(UserError, match="The network draws labels"):
        check_stock(pipeline)
