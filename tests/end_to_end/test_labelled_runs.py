"""Runs with labels, as a user starts them: stopped and resumed, fine-tuned, with patches, distilled."""

import os
import signal

import pytest
import torch
from recipe_runs import assert_same_bits, final_state, flags
from safetensors.torch import load_file

from pipeline_anime_ddpm import AnimeDDPMPipeline


@pytest.fixture(scope="module")
def labelled(work):
    """The pictures with a metadata.csv that names the hair of most and the eyes of some."""
    lines = ["file_name,hair,eyes"]
    for n in range(20):
        lines.append(f"{n:02d}.png,{('black', 'red', 'pink', '')[n % 4]},{('blue', '')[n % 2]}")
    (work / "faces" / "metadata.csv").write_text("\n".join(lines))
    return work


LABELS = {"label_columns": "hair,eyes", "label_dropout": 0.3, "max_train_steps": 24, "checkpointing_steps": 6}


def stop_at(monkeypatch, step):
    """Have the machine taken away in the middle of a run."""
    import train_anime_ddpm

    original = train_anime_ddpm.train_step

    def train_step(run, batch):
        if run.state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(run, batch)

    monkeypatch.setattr(train_anime_ddpm, "train_step", train_step)


@pytest.mark.parametrize("streaming", [False, True])
def test_labelled_run_resumes_bit_exact(labelled, in_process, monkeypatch, streaming):
    path = {"streaming": True, "shuffle_buffer_size": 7} if streaming else {}
    folders = [labelled / f"{name}-{streaming}" for name in ("whole", "stopped")]
    options = LABELS | path | {"logging_steps": 1, "random_flip": True}
    in_process(*flags(labelled, folders[0], **options))
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        stop_at(patched, 13)
        in_process(*flags(labelled, folders[1], **options))
    assert stopped.value.code == 130
    assert not (folders[1] / "model_index.json").exists()
    in_process(*flags(labelled, folders[1], **options))
    whole, resumed = map(final_state, folders)
    assert_same_bits(whole, resumed)
    assert whole["pipeline", "class_embedding.weight"].shape[0] == (1 + 1) * (3 + 1)


def test_pipeline_knows_its_labels_and_other_labels_are_another_run(labelled, in_process, capsys):
    folder = labelled / "known"
    in_process(*flags(labelled, folder, **LABELS))
    pipeline = AnimeDDPMPipeline.from_pretrained(folder)
    assert pipeline.labels == {"eyes": ["blue"], "hair": ["black", "pink", "red"]}
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(labels={"hair": ["red", "pink"]}, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 16, 16, 3)
    with pytest.raises(SystemExit):
        in_process(*flags(labelled, folder, **LABELS | {"label_columns": "hair"}))
    assert "holds another run (--label_columns" in capsys.readouterr().err


def test_unlabelled_network_gains_labels_without_changing_its_output(labelled, in_process, capsys):
    base, tuned = labelled / "base", labelled / "tuned"
    in_process(*flags(labelled, base, max_train_steps=4))
    options = LABELS | {"pretrained_model_name_or_path": base, "max_train_steps": 3, "learning_rate": 1e-3}
    arguments = [flag for flag in flags(labelled, tuned, **options) if not flag.startswith("--model_config")]
    in_process(*arguments)
    before, after = (AnimeDDPMPipeline.from_pretrained(folder) for folder in (base, tuned))
    assert (before.labels, [*after.labels]) == ({}, ["eyes", "hair"])
    assert "Labels: eyes (blue); hair (black, pink, red)." in capsys.readouterr().out
    weights = load_file(tuned / "checkpoint-3" / "ema.safetensors")
    assert weights["class_embedding.weight"].shape[0] == 8


@pytest.mark.parametrize("how", ["patches", "distilled"])
def test_patches_and_distillation_know_labels(labelled, in_process, how):
    folder = labelled / how
    options = LABELS | {"max_train_steps": 4, "ema_sigma_rels": "0.1", "save_guide_at": 8}
    if how == "patches":
        in_process(*flags(labelled, folder, **options, patch_sizes="8,16"))
    else:
        in_process(*flags(labelled, labelled / "teacher", **options))
        options = LABELS | {
            "max_train_steps": 4, "pretrained_model_name_or_path": labelled / "teacher", "distill": 2,
            "distill_guidance_scale": 1.5, "ddpm_num_inference_steps": 2,
        }  # fmt: skip
        arguments = [flag for flag in flags(labelled, folder, **options) if not flag.startswith("--model_config")]
        in_process(*arguments)
    pipeline = AnimeDDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert [*pipeline.labels] == ["eyes", "hair"]
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    drawn = pipeline(labels={"hair": ["red", "any"]}, generator=generators, num_inference_steps=2, output_type="pt")
    assert not torch.equal(*drawn.images), "the label matters"
    if how == "patches":
        assert pipeline.guide_unet.config.num_class_embeds == 8
