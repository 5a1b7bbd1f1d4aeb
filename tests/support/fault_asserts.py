"""Checks after the faults of a run."""

from fault_images import IMAGES
from fault_runs import BATCH, STEPS, Course
from recipe_runs import assert_same_bits, final_state


def assert_same(course: Course, whole: Course) -> None:
    """Every bit of weights, averages and optimiser; the images of every step; the losses; what was not finite; what it
    measured of itself, and the pipeline that it kept for that; the names of all files."""
    assert_same_bits(final_state(whole.output), final_state(course.output))
    assert course.ids() == whole.ids() and sorted(whole.ids()) == list(range(STEPS))
    assert course.losses() == whole.losses() and course.events() == whole.events()
    assert course.evaluations() == whole.evaluations()
    for best in whole.output.glob("best/unet/*.safetensors"):
        assert (course.output / best.relative_to(whole.output)).read_bytes() == best.read_bytes()
    assert course.files() == whole.files(), course.files() ^ whole.files()


def assert_each_image_once(whole: Course) -> None:
    """In every epoch that is complete. Workers that stream begin theirs at different times: see test_streaming."""
    if "dataloader_num_workers" in whole.settings:
        return
    order = [image for _, ids in sorted(whole.ids().items()) for image in ids]
    for epoch in range(STEPS * BATCH // IMAGES):
        assert sorted(order[epoch * IMAGES : (epoch + 1) * IMAGES]) == list(range(IMAGES))
