"""Trainings, evaluations and samplings of the pages, cut down to a second or two; what they are given stays checked."""

import dataclasses
import shutil
from pathlib import Path

import pytest

FEW, STEPS = 8, 4  # images that are trained on or judged; sampling steps at most
MODEL, DATA = "runs/mine", "faces/"  # that stand in for names of the Hub
JUDGE = "efficientnet-lite0"  # the only one that needs no download
NOT_TAKEN = (  # settings that need a GPU, minutes or a network; their flags are still read and checked
    "max_train_steps", "mixed_precision", "torch_compile", "allow_tf32", "push_to_hub", "hub_model_id", "hub_card",
    "hub_private_repo", "hub_strategy", "hub_token", "eval_extractor_weights", "eval_dataset", "eval_split",
    "dataloader_num_workers", "channels_last",
)  # fmt: skip


def local(name: str | None, stand_in: str) -> str | None:
    """`name` if it is a path that is there or nothing, and else what stands in for a name of the Hub.

    Raises:
        AssertionError: the name is a path, and nothing is there.
    """
    if name is None or Path(name).exists():
        return name
    is_hub_name = name.count("/") == 1 and not name.endswith("/") and name.split("/")[0] in ("you", "google")
    assert is_hub_name, f"{name} is not there; make it before in the page, or name one of {MODEL} and {DATA}"
    return stand_in


class Little:
    """Replaces what trains, evaluates and samples by the same in little, in the current folder."""

    def __init__(self, cache: Path):
        self.cache = cache
        self.trained: dict[str, object] = {}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        import pipeline_anime_ddpm
        import train_anime_ddpm
        from pipeline_anime_ddpm import evaluation
        from pipeline_anime_ddpm.evaluation import recipe, stats
        from pipeline_anime_ddpm.pipeline_anime_ddpm import AnimeDDPMPipeline
        from pipeline_anime_ddpm.planning import report

        train, evaluate = train_anime_ddpm.train, recipe.evaluate
        measure, plan = stats.measure_statistics, report.report
        prepare = AnimeDDPMPipeline.prepare_timesteps

        def little_train(config):
            config = self.training(config)
            self.begin(config)
            folder = train(config)
            self.trained[config.output_dir] = config
            return folder

        def little_evaluate(config, pipeline=None, show_progress=False):
            return evaluate(self.evaluation(config), pipeline, show_progress=False)

        def little_timesteps(pipe, num_inference_steps, timesteps, device):
            steps = num_inference_steps or pipe.default_num_inference_steps()
            return prepare(pipe, min(steps, STEPS) if timesteps is None else None, timesteps, device)

        patch.setattr(train_anime_ddpm, "train", little_train)
        patch.setattr(pipeline_anime_ddpm, "train", little_train, raising=False)
        patch.setattr(recipe, "evaluate", little_evaluate)
        patch.setattr(evaluation, "evaluate", little_evaluate, raising=False)
        patch.setattr(stats, "measure_statistics", lambda config, side: measure(self.reference(config), side, False))
        patch.setattr(report, "report", lambda config, memories: plan(self.training(config), memories))
        patch.setattr(AnimeDDPMPipeline, "prepare_timesteps", little_timesteps)
        patch.setattr("pipeline_anime_ddpm.data.NUM_DRAWN_FACES", FEW)

    def begin(self, config) -> None:
        """Make room for another run than the one that is in the output folder."""
        folder = Path(config.output_dir)
        is_other = self.trained.get(config.output_dir) != config and not config.resume_from_checkpoint
        if is_other and folder.exists():
            shutil.rmtree(folder)

    def training(self, config):
        """The settings of a training that takes a second."""
        changes = {name: getattr(type(config), name) for name in NOT_TAKEN}
        changes |= {
            "max_train_images": FEW, "train_batch_size": 2, "lr_warmup_steps": 1, "checkpointing_steps": 2,
            "logging_steps": 1, "save_images_epochs": 1000, "validation_images": 2, "eval_batch_size": 2,
            "report_to": "none", "cache_dir": str(self.cache),
        }  # fmt: skip
        changes["ddpm_num_inference_steps"] = None if config.distill else 2
        changes["dataset_name"] = local(config.dataset_name, DATA)
        changes["train_data_dir"] = local(config.train_data_dir, DATA)
        if config.eval_steps:
            changes |= {"eval_steps": 1000, "eval_images": FEW, "eval_extractor": JUDGE, "eval_metrics": "kid"}
        if config.save_guide_at:
            changes["save_guide_at"] = FEW // 2
        if config.train_data_dir or config.ema_sigma_rels:  # what a run on few images keeps by itself
            changes |= {"ema_sigma_rels": config.ema_sigma_rels or "0.05,0.10", "ema_snapshot_images": 2}
        if config.pretrained_model_name_or_path:
            changes["pretrained_model_name_or_path"] = local(config.pretrained_model_name_or_path, MODEL)
            changes["max_train_images"] = FEW // 2
        else:
            name = config.model_config_name_or_path
            assert name in (None, "tiny", "small", "standard") or Path(name).exists(), f"{name} is not there"
            changes["model_config_name_or_path"] = "tiny"
        if not config.patch_sizes and not config.noise_calibration:  # a calibration is for one resolution
            changes["resolution"] = None if config.pretrained_model_name_or_path else 16 * config.space_to_depth
        return dataclasses.replace(config, **changes)

    def reference(self, config):
        """The settings of a measurement on a few images, with the network that needs no download."""
        metrics = [name for name in ("kid", "copies") if name in config.wanted] or ["kid"]
        return dataclasses.replace(
            config, dataset=local(config.dataset, DATA), extractor=JUDGE, extractor_weights=None, extractor_label=None,
            lpips="pixels", lpips_weights=None, floor=False, kid_subset_size=4, kid_subsets=2, num_images=FEW,
            num_real_images=None, device="cpu", cache_dir=str(self.cache), metrics=",".join(metrics),
        )  # fmt: skip

    def evaluation(self, config):
        config = self.reference(config)
        model = local(config.model, MODEL)
        return dataclasses.replace(config, model=model, images=local(config.images, DATA))
