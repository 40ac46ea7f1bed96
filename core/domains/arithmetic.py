"""Word problems of one to three steps with a worked line as the answer, judged by the final number.

Train and test share no thing that is counted and no pair of numbers to begin with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Literal, NamedTuple

from core.domains.questions import Question

Split = Literal["train", "test"]

NAMES = {
    "train": "Anna Ben Carla David Emma Frank Grace Hugo Irene Jack Karen Leo Maria Nick Olga Paul",
    "test": "Rosa Sam Tina Victor Wendy Adam Bella Chris Diana Eric Fiona George",
}
THINGS = {
    "train": "apples books coins cards pencils stamps shells balls marbles cookies roses eggs pears toys tickets cups",
    "test": "lemons buttons candles ribbons spoons stickers beads plums badges muffins keys kites",
}
BOXES = {"train": "boxes bags baskets shelves jars", "test": "crates trays drawers sacks"}
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Story(NamedTuple):
    """Text of the problem without its last question, the calculation so far, and its value."""

    text: str
    work: str
    value: int


class Scene(NamedTuple):
    rng: Random
    split: Split
    name: str
    other: str
    thing: str
    box: str

    def pair(self, low: int, high: int) -> tuple[int, int]:
        """Two numbers in the range; their sum is divisible by 4 in the test split alone."""
        while True:
            a, b = self.rng.randint(low, high), self.rng.randint(low, high)
            if ((a + b) % 4 == 0) == (self.split == "test"):
                return a, b

    def say(self, *phrasings: str, **words: object) -> str:
        return self.rng.choice(phrasings).format(
            name=self.name, other=self.other, thing=self.thing, box=self.box, one=_one(self.box), **words
        )


def _one(plural: str) -> str:
    return {"boxes": "box", "shelves": "shelf"}.get(plural, plural[:-1])


def _gain(s: Scene) -> Story:
    a, b = s.pair(3, 60)
    text = s.say(
        "{name} has {a} {thing} and buys {b} more.",
        "{name} had {a} {thing}. Then {other} gave {name} {b} {thing}.",
        "There were {a} {thing} on the table, and {name} put {b} more there.",
        "{name} found {a} {thing} on Monday and {b} {thing} on Tuesday.",
        a=a,
        b=b,
    )
    return Story(text, f"{a} + {b}", a + b)


def _loss(s: Scene) -> Story:
    a, b = sorted(s.pair(3, 80), reverse=True)
    text = s.say(
        "{name} has {a} {thing} and gives {b} of them to {other}.",
        "{name} had {a} {thing} but lost {b}.",
        "Of {a} {thing}, {name} sold {b}.",
        "{name} bought {a} {thing} and used {b} of them.",
        a=a,
        b=b,
    )
    return Story(text, f"{a} - {b}", a - b)


def _product(s: Scene) -> Story:
    a, b = s.pair(2, 12)
    text = s.say(
        "{name} has {a} {box} with {b} {thing} in each.",
        "There are {b} {thing} in every {one}, and {name} owns {a} {box}.",
        "{name} fills {a} {box}, each with {b} {thing}.",
        "Each of {a} {box} holds {b} {thing}, and all of them belong to {name}.",
        a=a,
        b=b,
    )
    return Story(text, f"{a} * {b}", a * b)


def _share(s: Scene) -> Story:
    each, friends = s.pair(2, 12)
    text = s.say(
        "{name} shares {a} {thing} equally among {b} friends and looks at the part of one friend.",
        "{name} puts {a} {thing} into {b} {box}, the same number in each, and keeps one {one}.",
        "{a} {thing} are split equally between {b} children, and one of them is {name}.",
        "{b} children get {a} {thing}, all the same number, and {name} is one of them.",
        a=each * friends,
        b=friends,
    )
    return Story(text, f"{each * friends} / {friends}", each)


def _more(s: Scene, value: int) -> tuple[str, str, int]:
    b = s.rng.randint(2, 30)
    text = s.say(
        "Then {name} gets {b} more.", "{other} adds {b} {thing}.", "Later {name} buys another {b} {thing}.", b=b
    )
    return text, f"+ {b}", value + b


def _fewer(s: Scene, value: int) -> tuple[str, str, int]:
    b = s.rng.randint(1, value - 1)
    text = s.say("Then {name} loses {b}.", "{other} takes {b} of them.", "Later {name} gives away {b} {thing}.", b=b)
    return text, f"- {b}", value - b


def _times(s: Scene, value: int) -> tuple[str, str, int]:
    b = s.rng.choice((2, 3))
    word = {2: "double", 3: "triple"}[b]
    text = s.say("Then the number of {thing} is {word}d.", "After a week there are {b} times as many.", word=word, b=b)
    return text, f"* {b}", value * b


STARTS: tuple[Callable[[Scene], Story], ...] = (_gain, _loss, _product, _share)
STEPS: tuple[Callable[[Scene, int], tuple[str, str, int]], ...] = (_more, _fewer, _times)


def generate(split: Split, n: int, seed: int) -> list[Question]:
    """n different problems. The first k are the same for every n >= k."""
    return list(islice(written(split, begin(split, seed), set()), n))


def begin(split: Split, seed: int) -> Random:
    """What the first problem of a seed is drawn from."""
    return Random(f"arithmetic {split} {seed}")


def written(split: Split, rng: Random, seen: set[str]) -> Iterator[Question]:
    """Problems without end, each drawn when it is asked for. seen: the prompts so far, to which each is added."""
    while True:
        name, other = rng.sample(NAMES[split].split(), 2)
        thing, box = rng.choice(THINGS[split].split()), rng.choice(BOXES[split].split())
        scene = Scene(rng, split, name, other, thing, box)
        start = rng.choice(STARTS)
        text, work, value = start(scene)
        lines = [f"{work} = {value}"]
        for _ in range(rng.choice((0, 0, 1, 1, 2))):
            added, step, after = (rng.choice(STEPS) if value > 2 else _more)(scene, value)
            text, lines, value = f"{text} {added}", [*lines, f"{value} {step} = {after}"], after
        asked = scene.say(
            "How many {thing} does {name} have now?",
            "How many {thing} are there for {name} in the end?",
            "What is the number of {thing} that {name} has then?",
            "Now how many {thing} are with {name}?",
        )
        prompt = f"{text} {asked}"
        if prompt in seen:
            continue
        seen.add(prompt)
        digest = hashlib.sha256(prompt.encode()).hexdigest()[:12]
        answer = f"{', '.join(lines)}. The answer is {value}."
        yield Question(
            id=f"arithmetic-{split}-{digest}", cluster=f"{thing} {start.__name__}", prompt=prompt, answer=answer
        )


def judge(question: Question, output: str) -> bool:
    """Whether the number after the last "answer is", or else the last number, is the gold one."""
    assert question.answer is not None
    return final_number(output) == final_number(question.answer)


def final_number(text: str) -> float | None:
    parts = re.split(r"(?i)\banswer is\b", text)
    numbers = _NUMBER.findall(parts[-1]) if len(parts) > 1 else []
    if numbers:
        return _value(numbers[0])
    numbers = _NUMBER.findall(text)
    return _value(numbers[-1]) if numbers else None


def _value(number: str) -> float:
    return float(number.replace(",", ""))
