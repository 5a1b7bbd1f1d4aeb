"""Labels of training data, of every kind of file."""

import io
import json
import tarfile

import datasets
import pytest
from labelled_data import (
    AGE,
    COLOURS,
    HAIR,
    make_arrow,
    make_csv,
    make_jsonl,
    make_parquet,
    make_parquet_of_text,
    make_tar,
    picture,
    png,
    settings,
)

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.data import FeedPlan, open_data, open_source
from pipeline_anime_ddpm.loading import load_pipeline
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import TrainingConfig


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
