"""Labels of data sets become classes of the network; what it knew before stays, bit for bit."""

import io
import json
import tarfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import Batch, FeedPlan, open_data, open_source
from pipeline_anime_ddpm.loading import load_pipeline
from pipeline_anime_ddpm.planning.report import fake_model
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import TrainingConfig
from pipeline_anime_ddpm.training.labels import RunLabels, merged, run_labels, with_labels
from pipeline_anime_ddpm.training.models import build_model, kept_guide
from pipeline_anime_ddpm.training.objective import draw_step
from pipeline_anime_ddpm.training.patches import PatchTrainingAdapter

COLOURS = ["red", "green", "blue"]
HAIR = [n % 3 if n % 5 else None for n in range(12)]  # every fifth has none
AGE = [n % 4 for n in range(12)]


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.full((8, 8, 3), number, np.uint8))


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def class_label(values):
    return datasets.Dataset.from_dict(
        {"image": [picture(n) for n in range(12)], "hair": values, "age": AGE},
        datasets.Features(
            {"image": datasets.Image(), "hair": datasets.ClassLabel(names=COLOURS), "age": datasets.Value("int32")}
        ),
    )


def make_parquet(folder):
    class_label(HAIR).to_parquet(folder / "train-0.parquet")


def make_parquet_of_text(folder):
    hair = ["" if h is None else f" {COLOURS[h]} " for h in HAIR]
    table = {"image": [picture(n) for n in range(12)], "hair": hair, "age": AGE}
    datasets.Dataset.from_dict(table).cast_column("image", datasets.Image()).to_parquet(folder / "train-0.parquet")


def make_arrow(folder):
    class_label(HAIR).save_to_disk(folder / "saved")
    (folder / "saved" / "dataset_info.json").rename(folder / "dataset_info.json")
    for file in (folder / "saved").glob("*.arrow"):
        file.rename(folder / "train-0.arrow")
    (folder / "dataset_info.json").unlink()
    (folder / "saved" / "state.json").unlink()
    (folder / "saved").rmdir()


def make_csv(folder):
    lines = ["file_name,hair,age"]
    for n in range(12):
        picture(n).save(folder / f"{n:02d}.png")
        lines.append(f"{n:02d}.png,{'' if HAIR[n] is None else COLOURS[HAIR[n]]},{AGE[n]}")
    (folder / "metadata.csv").write_text("\n".join(lines))


def make_jsonl(folder):
    (folder / "deep").mkdir()
    rows = []
    for n in range(12):
        picture(n).save(folder / "deep" / f"{n:02d}.png")
        hair = {} if HAIR[n] is None else {"hair": COLOURS[HAIR[n]]}
        rows.append(json.dumps({"file_name": f"deep/{n:02d}.png", "age": AGE[n]} | hair))
    (folder / "metadata.jsonl").write_text("\n".join(rows))


def make_tar(folder):
    with tarfile.open(folder / "faces.tar", "w") as archive:
        for n in range(12):
            hair = {} if HAIR[n] is None else {"hair": COLOURS[HAIR[n]]}
            values = json.dumps({"age": AGE[n], "seen": [1]} | hair).encode()
            for name, content in ((f"{n:02d}.json", values), (f"{n:02d}.png", png(n))):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def settings(tmp_path, columns="hair,age", flag="dataset_name", **more):
    return TrainingConfig(
        **{flag: str(tmp_path / "set")}, label_columns=columns, cache_dir=str(tmp_path / "cache"),
        output_dir=str(tmp_path / "run"), shuffle_buffer_size=5, **more,
    )  # fmt: skip


@pytest.fixture
def make_set(tmp_path):
    def make(write):
        (tmp_path / "set").mkdir()
        (tmp_path / "run").mkdir(exist_ok=True)
        write(tmp_path / "set")
        return tmp_path

    return make


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [make_parquet, make_parquet_of_text, make_arrow, make_csv, make_jsonl, make_tar])
def test_every_image_comes_with_its_labels(make_set, write, streaming):
    where = make_set(write)
    flag = "train_data_dir" if write in (make_tar, make_jsonl) else "dataset_name"
    data = open_data(settings(where, flag=flag, streaming=streaming), 8, False)
    names = data.labels["hair"]
    assert [*data.labels] == ["age", "hair"]
    assert names == COLOURS if write in (make_parquet, make_arrow) else names == sorted(COLOURS)
    seen = {}
    for batch in data.feed(FeedPlan(4, 0, 3)):
        for number, (age, hair) in zip(batch.images[:, 0, 0, 0].tolist(), batch.labels.tolist(), strict=True):
            seen[number] = (int(data.labels["age"][age - 1]), names[hair - 1] if hair else None)
    assert seen == {n: (AGE[n], None if HAIR[n] is None else COLOURS[HAIR[n]]) for n in range(12)}


def test_the_names_of_folders_are_labels(make_set):
    def write(folder):
        for n in range(12):
            (folder / COLOURS[n % 3]).mkdir(exist_ok=True)
            picture(n).save(folder / COLOURS[n % 3] / f"{n}.png")

    where = make_set(write)
    for flag in ("train_data_dir", "dataset_name"):
        data = open_data(settings(where, "label", flag, streaming=flag == "dataset_name"), 8, False)
        assert data.labels == {"label": sorted(COLOURS)}
        for batch in data.feed(FeedPlan(4, 0, 3)):
            found = [data.labels["label"][i - 1] for i in batch.labels[:, 0].tolist()]
            assert found == [COLOURS[n % 3] for n in batch.images[:, 0, 0, 0].tolist()]


def test_a_cls_file_of_a_tar_is_a_label(make_set):
    def write(folder):
        with tarfile.open(folder / "faces.tar", "w") as archive:
            for n in range(12):
                for name, content in ((f"{n}.png", png(n)), (f"{n}.cls", str(n % 3).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))

    data = open_data(settings(make_set(write), "cls", "train_data_dir"), 8, False)
    assert data.labels == {"cls": ["0", "1", "2"]}
    for batch in data.feed(FeedPlan(4, 0, 3)):
        assert [n % 3 + 1 for n in batch.images[:, 0, 0, 0].tolist()] == batch.labels[:, 0].tolist()


def test_caches_with_and_without_labels_are_two_and_a_changed_label_makes_a_new_one(make_set):
    where = make_set(make_csv)
    plain = open_data(settings(where, None), 8, False).entry
    labelled = open_data(settings(where), 8, False).entry
    assert labelled.folder != plain.folder
    assert plain.labels() is None and labelled.labels().shape == (12, 2)
    assert open_data(settings(where), 8, False).entry == labelled, "it is found again"
    table = where / "set" / "metadata.csv"
    table.write_text(table.read_text().replace("green", "blue", 1))
    assert open_data(settings(where), 8, False).entry.folder != labelled.folder
    (labelled.folder / "labels.npy").write_bytes(b"damaged")


BAD_COLUMNS = {
    "eyes": "no such column; it has age, hair",
    "score": "and labels are text or whole numbers",
    "image": "no such column",
    "caption": "not a name of 1 to 100 characters",
    "id": "4,096",
    "case": "differ in case or spaces only",
}


@pytest.mark.parametrize("column", BAD_COLUMNS)
def test_columns_that_are_no_labels_are_refused_in_a_sentence(make_set, column):
    def write(folder):
        table = {"image": [picture(n) for n in range(2)] * 2100, "hair": ["red"] * 4200, "age": [3] * 4200}
        extra = {
            "score": [0.5] * 4200,
            "caption": ["a girl " * 20] * 4200,
            "id": [*range(4200)],
            "case": ["Red", "red"] * 2100,
        }
        table |= {name: values for name, values in extra.items() if name == column}
        datasets.Dataset.from_dict(table).cast_column("image", datasets.Image()).to_parquet(folder / "train.parquet")

    with pytest.raises(UserError) as error:
        open_source(settings(make_set(write), column))
    assert BAD_COLUMNS[column] in str(error.value)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def test_too_many_combinations_of_several_columns_are_refused(make_set):
    def write(folder):
        table = {"image": [picture(n % 9) for n in range(80)], "a": [*range(80)], "b": [*range(80)]}
        datasets.Dataset.from_dict(table).cast_column("image", datasets.Image()).to_parquet(folder / "train.parquet")

    with pytest.raises(UserError, match="6,561 combinations of a and b"):
        open_source(settings(make_set(write), "a,b"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"label_columns": "hair,hair", "dataset_name": "x"}, "names hair twice"),
        ({"label_columns": " , ", "dataset_name": "x"}, "names no column"),
        ({"label_columns": "hair"}, "needs a data set with labels"),
        ({"label_dropout": 0.2}, "--label_dropout does nothing without --label_columns"),
        ({"label_columns": "hair", "dataset_name": "x", "label_dropout": 1.0}, "--label_dropout is 1.0"),
    ],
)
def test_settings_of_labels_that_make_no_sense_are_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        TrainingConfig(**given)


def test_metadata_with_fractions_without_images_or_of_one_folder_are_refused(make_set):
    where = make_set(make_csv)
    table = where / "set" / "metadata.csv"
    table.write_text("file_name,score\n00.png,0.25\n01.png,0.5\n")
    with pytest.raises(UserError, match=r"numbers with fractions, such as 0\.25"):
        open_source(settings(where, "score"))
    table.write_text("file_name,score\n00.png,0.25\n01.png,0.0\n")  # one of which is whole
    with pytest.raises(UserError, match=r"numbers with fractions, such as 0\.25"):
        open_source(settings(where, "score"))
    table.write_text("name,hair\n00.png,red\n")
    with pytest.raises(UserError, match=r"Row 1 of .* has no file_name"):
        open_source(settings(where, "hair"))
    table.unlink()
    with pytest.raises(UserError, match="are in one; sort them into folders"):
        open_source(settings(where, "label"))


def test_metadata_that_name_images_elsewhere_are_refused_and_some_of_them_are_told(make_set, caplog):
    where = make_set(make_csv)
    table = where / "set" / "metadata.csv"
    table.write_text("file_name,hair\nimages/00.png,red\nimages/01.png,blue\n")
    with pytest.raises(UserError, match=r"None of the 2 images that the metadata of .* name is there"):
        open_source(settings(where, "hair"))
    table.write_text("file_name,hair\n00.png,red,extra,cells\n01.png,blue\n99.png,green\n")
    assert open_source(settings(where, "hair")).labels.names == {"hair": ["blue", "red"]}
    assert "1 of the 3 images that metadata name are not there" in caplog.text
    with pytest.raises(UserError, match="no such column; it has hair, label"):
        open_source(settings(where, "colour"))


NAMES = {"\u9752\u3000\u9aea": None, "Stra\u00dfe|STRASSE": "differ in case", "a\tb": "control character", "1|01": None}


@pytest.mark.parametrize("names", NAMES)
def test_names_that_are_trained_can_be_loaded_and_others_are_refused_at_once(make_set, tiny_unet, tmp_path, names):
    def write(folder):
        for n in range(len(names.split("|"))):
            (folder / f"{n}").mkdir()
            picture(n).save(folder / f"{n}" / "0.png")
        rows = [json.dumps({"file_name": f"{n}/0.png", "hair": name}) for n, name in enumerate(names.split("|"))]
        (folder / "metadata.jsonl").write_text("\n".join(rows))

    where = make_set(write)
    if NAMES[names]:
        with pytest.raises(UserError, match=NAMES[names]):
            open_source(settings(where, "hair"))
        return
    found = open_source(settings(where, "hair")).labels.names
    unet = tiny_unet(num_class_embeds=len(found["hair"]) + 1)
    AnimeDDPMPipeline(unet, AnimeNoiseScheduler(), labels=found).save_pretrained(tmp_path / "saved")
    assert load_pipeline(tmp_path / "saved").labels == found


def test_a_tar_takes_the_labels_of_examples_alone_and_not_what_macos_adds(make_set):
    def write(folder):
        with tarfile.open(folder / "faces.tar", "w") as archive:
            for n in range(12):
                label = json.dumps({"hair": COLOURS[n % 3]}).encode()
                for name, content in ((f"{n}.png", png(n)), (f"{n}.json", label), (f"._{n}.json", b"\x00\x05\x16")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))

    where = make_set(write)
    assert open_source(settings(where, "hair", "train_data_dir")).labels.names == {"hair": sorted(COLOURS)}
    with tarfile.open(where / "set" / "faces.tar", "w") as archive:  # all labels after all images
        for name in [f"{n}.png" for n in range(3)] + [f"{n}.json" for n in range(3)]:
            content = png(0) if name.endswith("png") else b'{"hair": "red"}'
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(UserError, match="has no such column"):
        open_source(settings(where, "hair", "train_data_dir"))


def call(unet, classes):
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(len(classes), unet.config.in_channels, 16, 16, generator=generator)
    labels = {} if unet.class_embedding is None else {"class_labels": torch.tensor(classes)}
    with torch.no_grad():
        return unet(sample, torch.full((len(classes),), 5), return_dict=False, **labels)[0]


def test_a_network_that_gets_labels_begins_bit_identical(tiny_unet):
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


def test_a_labelled_pipeline_is_trained_on_with_its_guide(tiny_unet, tmp_path, make_set):
    where = make_set(make_csv)
    names = {"hair": ["black", "red"]}
    networks = [tiny_unet(seed, num_class_embeds=3) for seed in (0, 1)]
    AnimeDDPMPipeline(networks[0], AnimeNoiseScheduler(), networks[1], labels=names).save_pretrained(tmp_path / "old")
    config = settings(where, "hair", pretrained_model_name_or_path=str(tmp_path / "old"), resolution=16)
    labels = run_labels(config, open_source(config))
    assert labels.names == {"hair": ["black", "red", "blue", "green"]}
    unet, _ = build_model(config, labels)
    guide = kept_guide(config, unet, labels)
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


def test_a_plan_counts_the_class_embedding(make_set):
    where = make_set(make_parquet)
    unet, _ = fake_model(settings(where, model_config_name_or_path="tiny", resolution=32))
    assert unet.config.num_class_embeds == (4 + 1) * (3 + 1)
