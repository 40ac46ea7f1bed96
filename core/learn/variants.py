"""Other numbers for a lesson's questions: another model and device, another place of the control, other constants.

A variant is a number. Equal numbers ask equal questions, so that a teacher can hand them out in an address; 0 asks
about the model and the device that were chosen. Answers come from the same functions as ever.
"""

from __future__ import annotations

from functools import cache

import msgspec

from core.learn.lesson import Lesson, Number, Scene, Step, said
from core.models.presets import presets
from core.models.spec import read
from core.types import ModelSpec
from hardware import catalogue as hardware

# Small enough that the head counts, with heads that are shared, and a head that is the embedding read backwards.
MODELS = ("smollm2-135m", "gemma-3-270m", "qwen2.5-0.5b", "gemma-3-1b", "llama-3.2-1b")
DEVICES = ("H100 SXM5 80GB", "A100 SXM4 80GB", "L4", "RTX 4090", "Apple M3 Max (40c GPU)")
SEARCHED = 20  # variants that are looked through for one that asks something else


@cache
def _model(name: str) -> ModelSpec:
    preset = next(p for p in presets() if p.id == name)
    return msgspec.structs.replace(read(preset.files["config"], "config"), name=preset.label)


def varied(lesson: Lesson, scene: Scene, variant: int) -> Scene:
    """The scene that a variant of the lesson's questions is about; scene: as the lesson stands."""
    if variant == 0:
        return scene
    other = scene._replace(seed=variant)
    options = (scene.value, *(v for v in lesson.control.options if v != scene.value))
    return other._replace(
        spec=_model(other.draw("model", ("", *(m for m in MODELS if _model(m).name != scene.spec.name)))),
        device=hardware.find(other.draw("device", ("", *(d for d in DEVICES if d != scene.device.name)))),
        value=other.draw("control", options),
    )


def following(lesson: Lesson, step: Step, scene: Scene, variant: int) -> int | None:
    """The next variant in which the step asks something else; None where there is nothing else to ask."""
    if not isinstance(step.check, Number):
        return None
    asked = said(step.check.question, varied(lesson, scene, variant))
    later = range(variant + 1, variant + 1 + SEARCHED)
    return next((n for n in later if said(step.check.question, varied(lesson, scene, n)) != asked), None)
