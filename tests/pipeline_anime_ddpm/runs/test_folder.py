"""An output folder belongs to one run, and the pipeline in it always loads."""

import pytest

from pipeline_anime_ddpm import AnimeDDPMPipeline
from pipeline_anime_ddpm.common.errors import UserError
from pipeline_anime_ddpm.runs.folder import check_output_dir, claim_output_dir, export_pipeline, is_same_resume_request
from pipeline_anime_ddpm.schedulers import AnimeNoiseScheduler
from pipeline_anime_ddpm.training.config import TrainingConfig


def config(folder, **settings):
    return TrainingConfig(train_data_dir="faces", output_dir=str(folder), **settings)


def test_same_command_may_resume(tmp_path):
    claim_output_dir(config(tmp_path / "run"))
    check_output_dir(config(tmp_path / "run"))
    check_output_dir(config(tmp_path / "run", num_epochs=200, logging_steps=1, hub_token="t"))


def test_another_run_or_other_files_are_refused_untouched(tmp_path):
    claim_output_dir(config(tmp_path / "run"))
    before = (tmp_path / "run" / "training_config.yaml").read_text()
    with pytest.raises(UserError, match=r"another run .*--learning_rate 0\.0001 there, 0\.001 now"):
        check_output_dir(config(tmp_path / "run", learning_rate=1e-3))
    assert (tmp_path / "run" / "training_config.yaml").read_text() == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not a training run"):
        check_output_dir(config(tmp_path / "thesis"))
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not a training run"):
            check_output_dir(config(tmp_path / "thesis", overwrite_output_dir=overwrite))
    for below in ("", "deeper"):
        with pytest.raises(UserError, match="is a file"):
            check_output_dir(config(tmp_path / "thesis" / "thesis.tex" / below))


def test_damaged_record_is_refused(tmp_path):
    for content in ("", "a: [", "- 1"):
        (tmp_path / "training_config.yaml").write_text(content)
        with pytest.raises(UserError, match="is damaged"):
            check_output_dir(config(tmp_path))
    (tmp_path / "training_config.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is damaged"):
        check_output_dir(config(tmp_path))


def test_run_remembers_its_resume_from_checkpoint(tmp_path):
    told = config(tmp_path / "run", resume_from_checkpoint="checkpoint-3")
    assert not is_same_resume_request(told)
    claim_output_dir(told)
    assert is_same_resume_request(told) and not is_same_resume_request(
        config(tmp_path / "run", resume_from_checkpoint="checkpoint-6")
    )


def test_overwriting_takes_a_link_away_and_not_what_it_leads_to(tmp_path):
    folder, kept = tmp_path / "run", tmp_path / "kept"
    claim_output_dir(config(folder))
    kept.mkdir()
    (folder / "samples").symlink_to(kept)
    claim_output_dir(config(folder, overwrite_output_dir=True))
    assert kept.is_dir() and not (folder / "samples").exists()


def test_overwriting_deletes_the_run(tmp_path):
    folder = tmp_path / "run"
    claim_output_dir(config(folder))
    (folder / "checkpoint-7").mkdir()
    (folder / "metrics.csv").write_text("images\n")
    (folder / "notes.txt").write_text("mine")
    again = config(folder, learning_rate=1e-3, overwrite_output_dir=True)
    check_output_dir(again)
    claim_output_dir(again)
    assert sorted(p.name for p in folder.iterdir()) == ["notes.txt", "training_config.yaml"]


def test_exported_pipeline_replaces_the_old_one_and_leaves_nothing_behind(tiny_unet, tmp_path):
    for expected in (tiny_unet(), tiny_unet()):
        export_pipeline(AnimeDDPMPipeline(expected, AnimeNoiseScheduler()), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "unet",
        "scheduler",
        "model_index.json",
        "pipeline_anime_ddpm.py",
    }
    loaded = AnimeDDPMPipeline.from_pretrained(tmp_path).unet.state_dict()
    assert all((loaded[name] == tensor).all() for name, tensor in expected.state_dict().items())
