#!/usr/bin/env python
"""Throw damaged and hostile input at everything that reads what others have made, guided by the code that it reaches.

    pip install atheris
    python benchmarks/fuzz.py decode tar --seconds 300 --corpus fuzzed

A target reads bytes and may refuse them in the one way that is documented; whatever else it raises is a finding, is
written to `<corpus>/<target>/findings/` with its traceback, and the fuzzing goes on. What is kept of it,
`tests/corpus/<target>/`, is replayed by `tests/end_to_end/test_corpus.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SEPARATOR = b"\0"  # between the parts of an input that has several
INSTRUMENTED = ["pipeline_anime_ddpm", "schedulers", "PIL", "yaml", "tarfile", "argparse"]


def decode(content: bytes) -> None:
    """An image file, as it is read for training, both ways."""
    from pipeline_anime_ddpm.data.decoding import UndecodableImage, decode_image

    for as_float in (False, True):
        with contextlib.suppress(UndecodableImage):
            pixels = decode_image(content, 16, as_float)
            assert pixels.shape[0] == 3 and min(pixels.shape[1:]) == 16, pixels.shape


def upload(content: bytes) -> None:
    """An image that a visitor of the demo sends."""
    from pipeline_anime_ddpm.demo import limits as demo_limits
    from pipeline_anime_ddpm.demo import uploads as demo_uploads

    with contextlib.suppress(demo_limits.Refused):
        assert demo_uploads.read_upload(content, "picture").mode == "RGBA"


def tar(content: bytes) -> None:
    """A tar archive, all of whose images are decoded."""
    from pipeline_anime_ddpm.common.errors import UserError
    from pipeline_anime_ddpm.data.reading import Decoder, read_unit
    from pipeline_anime_ddpm.data.sources import open_source
    from pipeline_anime_ddpm.training.config import TrainingConfig

    with _folder() as folder, contextlib.suppress(UserError):
        (folder / "0.tar").write_bytes(content)
        source = open_source(TrainingConfig(train_data_dir=str(folder)))
        decoder = Decoder(16, True, False, source.remote, threads=1)
        assert len(list(decoder.decode(read_unit(source, 0)))) == source.num_images


def config(content: bytes) -> None:
    """A YAML file of settings, and after a zero byte the flags of the command line."""
    from pipeline_anime_ddpm.common.errors import UserError
    from pipeline_anime_ddpm.training.config import parse_config

    text, *flags = content.split(SEPARATOR)
    flags = [flag.decode(errors="replace") for flag in flags if not flag.startswith((b"-h", b"--h"))]
    with _folder() as folder, contextlib.suppress(UserError):
        (folder / "run.yaml").write_bytes(text)
        parse_config(["--config", str(folder / "run.yaml"), *flags])


def card(content: bytes) -> None:
    """A YAML file of facts for a model card."""
    from pipeline_anime_ddpm.common.errors import UserError
    from pipeline_anime_ddpm.publishing.card import CardFacts

    with _folder() as folder, contextlib.suppress(UserError):
        (folder / "facts.yaml").write_bytes(content)
        CardFacts.read(folder / "facts.yaml")


def model(content: bytes) -> None:
    """A pipeline's model_index.json, the configs of its parts, and the first bytes of its weights."""
    from pipeline_anime_ddpm.loading import load_pipeline

    files = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS)
    with _folder() as folder, contextlib.suppress(ValueError):
        for name, part in zip(files, content.split(SEPARATOR, 3), strict=False):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(part)
        load_pipeline(folder)


def statistics(content: bytes) -> None:
    """Features of real images that are kept in a cache: made again where they are damaged."""
    from pipeline_anime_ddpm.evaluation.metrics.statistics import ARRAYS, FACTS, _read

    with _folder() as folder:
        (folder / FACTS).write_text("{}")
        (folder / ARRAYS).write_bytes(content)
        _read(folder)


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (decode, upload, tar, config, card, model, statistics)
}


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """In memory, where there is such a place."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory) as folder:
        yield Path(folder)


def seeds(target: str) -> Iterator[bytes]:
    """Sound inputs to begin with."""
    if target in ("decode", "upload"):
        yield from _pictures()
    elif target == "tar":
        yield from _archives()
    elif target == "config":
        yield b"resolution: 64\nlearning_rate: 1e-4\nuse_ema: no\npatch_sizes: [16, 32]\n"
        yield b"report_to: none\nlr_scheduler: cosine" + SEPARATOR.join(
            [b"", b"--train_batch_size", b"8", b"--streaming"]
        )
    elif target == "card":
        yield b"title: Faces\nlicense: apache-2.0\ntags: [anime, faces]\nlimits: |\n  some\n  more\n"
    elif target == "model":
        yield _model()
    else:
        yield _arrays()


def _pictures() -> Iterator[bytes]:
    import numpy as np
    from PIL import Image

    from pipeline_anime_ddpm.data.decoding import FORMATS

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in FORMATS:
        for mode in ("RGB", "RGBA", "P", "L", "I;16", "CMYK"):
            buffer = io.BytesIO()
            with contextlib.suppress(OSError, ValueError, KeyError):
                base = picture.convert("L").convert(mode) if mode == "I;16" else picture.convert(mode)
                base.save(buffer, name, **({"exif": exif} if mode == "RGB" else {}))
                yield buffer.getvalue()
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", progressive=True)
    yield buffer.getvalue()
    buffer = io.BytesIO()
    picture.save(buffer, "GIF", save_all=True, append_images=[picture.rotate(90)])
    yield buffer.getvalue()


def _archives() -> Iterator[bytes]:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PNG")
    kinds = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
            for number, kind in enumerate((*kinds, tarfile.REGTYPE)):
                member = tarfile.TarInfo(f"{'../é' if number % 2 else '/abs'}/{number}.png")
                member.type, member.linkname = kind, "/etc/passwd"
                member.size = len(picture.getvalue()) if kind == tarfile.REGTYPE else 0
                archive.addfile(member, io.BytesIO(picture.getvalue()))
        yield buffer.getvalue()


def _model() -> bytes:
    from diffusers import UNet2DModel

    from pipeline_anime_ddpm import AnimeDDPMPipeline, AnimeNoiseScheduler

    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = UNet2DModel(16, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1, **blocks)
    with _folder() as folder:
        AnimeDDPMPipeline(unet, AnimeNoiseScheduler(num_train_timesteps=10)).save_pretrained(folder)
        scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        parts = [(folder / "model_index.json").read_bytes(), (folder / "unet" / "config.json").read_bytes()]
        weights = (folder / WEIGHTS).read_bytes()
    return SEPARATOR.join([*parts, json.dumps(scheduler).encode(), weights])


def _arrays() -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, features=np.zeros((2, 3), np.float32))
    return buffer.getvalue()


def keep_going(target: Callable[[bytes], None], findings: Path) -> Callable[[bytes], None]:
    """`target`, but what it finds is written down, one input for each place in the code that raises."""
    known: set[str] = set()

    def run(content: bytes) -> None:
        try:
            target(content)
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:]]
            name = f"{type(error).__name__}-{hashlib.sha256(repr(place).encode()).hexdigest()[:8]}"
            if name not in known:
                known.add(name)
                findings.mkdir(parents=True, exist_ok=True)
                (findings / name).write_bytes(content)
                (findings / f"{name}.txt").write_text(traceback.format_exc())
                print(f"FOUND {name} {place}: {str(error)[:200]}", flush=True)

    return run


def fuzz(target: str, seconds: int, most_bytes: int, corpus: Path) -> None:
    """Fuzz one target for so long; never returns."""
    import atheris

    kept = ROOT / "tests" / "corpus" / target
    folders = [str(corpus), *([str(kept)] if kept.is_dir() else [])]
    options = [f"-max_total_time={seconds}", f"-max_len={most_bytes}", "-timeout=60", "-rss_limit_mb=4096"]
    options += ["-print_final_stats=1", f"-artifact_prefix={corpus}/crash-"]
    atheris.Setup([sys.argv[0], *folders, *options], keep_going(TARGETS[target], corpus / "findings"))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", choices=TARGETS, nargs="+")
    parser.add_argument("--seconds", type=int, default=300, help="for each target, one after the other")
    parser.add_argument("--corpus", type=Path, required=True, help="what reaches new code is kept here")
    parser.add_argument("--most_bytes", type=int, default=4096, help="of an input")
    arguments = parser.parse_args()

    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        for target in arguments.targets:
            folder = arguments.corpus / target
            folder.mkdir(parents=True, exist_ok=True)
            for seed in seeds(target):
                (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
                TARGETS[target](seed)  # which imports what it needs
    for target in arguments.targets:
        child = os.fork()  # libFuzzer ends its process, and imports need not be repeated
        if child == 0:
            fuzz(target, arguments.seconds, arguments.most_bytes, arguments.corpus / target)
        _, status = os.waitpid(child, 0)
        print(f"{target}: status {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main()
