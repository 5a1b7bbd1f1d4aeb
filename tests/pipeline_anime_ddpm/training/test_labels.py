"""Labels in the network, and in training."""

import pytest
import torch
from labelled_data import make_csv, make_parquet, settings

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import Batch, open_source
from pipeline_anime_ddpm.planning.report import fake_model
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.labels import RunLabels, merged, run_labels, with_labels
from pipeline_anime_ddpm.training.models import build_model, load_guide_to_keep
from pipeline_anime_ddpm.training.objective import draw_step
from pipeline_anime_ddpm.training.patches import PatchTrainingAdapter


def call(unet, classes):
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(len(classes), unet.config.in_channels, 16, 16, generator=generator)
    labels = {} if unet.class_embedding is None else {"class_labels": torch.tensor(classes)}
    with torch.no_grad():
        return unet(sample, torch.full((len(classes),), 5), return_dict=False, **labels)[0]


def test_network_that_gets_labels_begins_bit_identical(tiny_unet):
    names = {"eyes": ["red", "green"], "hair": ["black", "blonde", "pink"]}
    unet = tiny_unet()
    labelled = with_labels(unet, RunLabels(names, {}, names))
    assert labelled.config.num_class_embeds == 12
    assert torch.equal(call(unet, [0] * 12), call(labelled, [*range(12)]))
    assert torch.equal(labelled.class_embedding.weight, torch.zeros(12, labelled.class_embedding.weight.shape[1]))


def test_new_values_begin_with_vectors_of_their_own_and_any_as_it_was(tiny_unet):
    known, more = {"hair": ["black"]}, {"eyes": ["red"], "hair": ["black", "pink"]}
    before = tiny_unet(num_class_embeds=2)
    torch.nn.init.normal_(before.class_embedding.weight)
    after = with_labels(before, RunLabels(more, known, more), torch.Generator().manual_seed(0))
    table, old = after.class_embedding.weight.unflatten(0, (2, 3)), before.class_embedding.weight
    assert torch.equal(table[0, :2], old), "any, and what it knew"
    pink, red = table[0, 2] - old[0], table[1, 0] - old[0]
    torch.testing.assert_close(table[1, 2], old[0] + pink + red)
    torch.testing.assert_close(table[1, 1], old[1] + red)
    for vector in (pink, red, pink - red):
        assert 0.2 < vector.std() < 1.2


def test_more_labels_leave_those_it_knows_as_they_are(tiny_unet):
    known = {"hair": ["black", "blonde"]}
    more = merged(known, {"eyes": ["red"], "hair": ["pink", "black"]})
    assert more == {"eyes": ["red"], "hair": ["black", "blonde", "pink"]}
    before = tiny_unet(num_class_embeds=3)
    torch.nn.init.normal_(before.class_embedding.weight)
    after = with_labels(before, RunLabels(more, known, more))
    # by (eyes, hair): any or red, and any, black, blonde or pink, which begins as any
    assert torch.equal(call(after, [*range(8)]), call(before, [0, 1, 2, 0, 0, 1, 2, 0]))
    assert with_labels(before, RunLabels(known, known, known)) is before
    with pytest.raises(UserError, match="'black' and 'Black', which differ in case"):
        merged(known, {"hair": ["Black"]})


def test_classes_without_names_become_the_values_of_the_only_column(tiny_unet, tmp_path, make_set):
    where = make_set(make_parquet)
    unet = tiny_unet(num_class_embeds=3)
    torch.nn.init.normal_(unet.class_embedding.weight)
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler()).save_pretrained(tmp_path / "classes")
    config = settings(where, "hair", pretrained_model_name_or_path=str(tmp_path / "classes"), resolution=16)
    labels = run_labels(config, open_source(config))
    built, _ = build_model(config, labels)
    assert torch.equal(call(built, [1, 2, 3]), call(unet, [0, 1, 2]))
    with pytest.raises(UserError, match="has 3 classes without names, and the data set's label columns are age with 4"):
        run_labels(
            settings(where, "age", pretrained_model_name_or_path=str(tmp_path / "classes")),
            open_source(settings(where, "age")),
        )


def test_labelled_pipeline_is_trained_on_with_its_guide(tiny_unet, tmp_path, make_set):
    where = make_set(make_csv)
    names = {"hair": ["black", "red"]}
    networks = [tiny_unet(seed, num_class_embeds=3) for seed in (0, 1)]
    AnimeDDPMPipeline(networks[0], AnimeNoiseScheduler(), networks[1], labels=names).save_pretrained(tmp_path / "old")
    config = settings(where, "hair", pretrained_model_name_or_path=str(tmp_path / "old"), resolution=16)
    labels = run_labels(config, open_source(config))
    assert labels.names == {"hair": ["black", "red", "blue", "green"]}
    unet, _ = build_model(config, labels)
    guide = load_guide_to_keep(config, unet, labels)
    assert torch.equal(call(unet, [0, 1, 2]), call(networks[0], [0, 1, 2]))
    assert not torch.equal(call(unet, [0, 0, 0, 0])[3], call(unet, [0, 0, 0, 3])[3])
    assert torch.equal(call(guide, [0, 1, 2, 3, 4]), call(networks[1], [0, 1, 2, 0, 0])), "it is not trained on"
    alone = settings(where, None, pretrained_model_name_or_path=str(tmp_path / "old"), resolution=16)
    assert run_labels(alone, None).data == {}


def test_numbers_of_the_data_become_those_of_the_network():
    labels = RunLabels(
        {"eyes": ["red"], "hair": ["black", "blonde", "pink"]},
        {"hair": ["black", "blonde"]},
        {"hair": ["pink", "black"]},
    )
    values = torch.tensor([[0], [1], [2]])  # any, pink, black
    assert labels.classes(values, torch.ones(3, 2)).tolist() == [0, 3, 1]
    assert labels.classes(None, torch.ones(3, 2)).tolist() == [0, 0, 0]


def test_labels_are_dropped_each_by_itself_and_alike_on_any_number_of_ranks():
    names = {"eyes": ["red", "green"], "hair": ["black", "blonde", "pink"]}
    labels = RunLabels(names, {}, names, dropout=0.25)
    images, values = torch.zeros(4000, 3, 2, 2, dtype=torch.uint8), torch.tensor([[2, 3]]).repeat(4000, 1)

    def classes(rows=slice(None), **place):
        batch = Batch(images[rows], values[rows])
        return draw_step(batch, AnimeNoiseScheduler(), flip=True, seed=0, step=3, labels=labels, **place).class_labels

    drawn = classes()
    shares = {row: (drawn == row).float().mean().item() for row in drawn.unique().tolist()}
    expected = {0: 1 / 16, 3: 3 / 16, 8: 3 / 16, 11: 9 / 16}  # of (eyes, hair): none, hair, eyes, both
    assert shares == pytest.approx(expected, abs=0.03)
    parts = [classes(slice(r * 2000, (r + 1) * 2000), rank=r, world=2) for r in range(2)]
    assert torch.equal(torch.cat(parts), drawn)


def test_each_patch_has_the_label_of_its_image(tiny_unet):
    patches = PatchTrainingAdapter.from_unet(tiny_unet(), (8, 16), mode="constant_pixels")
    names = {"hair": ["black", "blonde", "pink"]}
    values = torch.tensor([[1], [2], [3]])
    images = values.to(torch.uint8).reshape(3, 1, 1, 1).expand(3, 3, 16, 16)
    labels = RunLabels(names, {}, names)
    step = draw_step(
        Batch(images, values), AnimeNoiseScheduler(), flip=False, seed=0, step=0, patches=patches, side=8, labels=labels
    )
    assert len(step) == 12
    assert torch.equal(step.class_labels, ((step.clean[:, 0, 0, 0] + 1) * 127.5).round().long())
    assert [part.class_labels.tolist() for part in step.split(6)] == [[1, 2, 3] * 2] * 2


def test_plan_counts_the_class_embedding(make_set):
    where = make_set(make_parquet)
    unet, _ = fake_model(settings(where, model_config_name_or_path="tiny", resolution=32))
    assert unet.config.num_class_embeds == (4 + 1) * (3 + 1)
