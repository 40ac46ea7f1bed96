"""The text on which importance is measured: written for this app, and in no evaluation of it.

Prose, explanations, code, tables, arithmetic and dialogues, so that activations are those of ordinary use.
"""

from __future__ import annotations

from pathlib import Path

from core.tokenizers.chat import render_messages
from core.tokenizers.folder import named, tokenizer_file
from core.tokenizers.library import library_tokenizer
from core.types import ModelSpec

LENGTH = 128  # tokens of a sequence

PASSAGES = (
    """The harbour wakes before the town does. At half past four the first boats come round the breakwater with \
their lamps still lit, and the women of the auction hall are already spreading ice over the long metal tables. \
Nobody speaks much. A crate of mackerel is weighed, a number is chalked on its side, and somebody drags it across \
the wet floor to the next scale. By six the sun has reached the roofs on the hill, the vans have gone, and only \
the gulls are left to argue about the scraps.""",
    """A heat pump moves warmth instead of making it. A cold liquid picks up energy from the outside air and boils, \
because its boiling point lies far below zero. A compressor squeezes the vapour, which raises its temperature, and \
the hot gas gives its energy to the water of the heating system. Then a valve lets the pressure fall and the cycle \
begins again. For every unit of electricity that the compressor uses, three or four units of heat arrive in the \
house, although the share is smaller on very cold days.""",
    '''def moving_average(values, width):
    """Mean of every run of `width` neighbouring values."""
    if width < 1 or width > len(values):
        raise ValueError("width must lie between 1 and the number of values")
    total = sum(values[:width])
    means = [total / width]
    for i in range(width, len(values)):
        total += values[i] - values[i - width]
        means.append(total / width)
    return means


for row in moving_average([3, 5, 9, 4, 6, 8], 3):
    print(f"{row:.2f}")
''',
    """In 1876 the council voted to replace the wooden bridge. The engineer, a careful man named Albrecht Thorne, \
proposed three arches of granite; the treasurer preferred iron, which was cheaper by a third. After two winters of \
dispute the river settled the question itself: the flood of March 1878 carried the old bridge away in one night. \
The iron bridge that followed stood for sixty years. Thorne kept the drawing of his arches on the wall of his study \
until he died, and it is the only record that we have of the plan.""",
    """Ingredients: 300 g of flour, 200 ml of warm water, one teaspoon of salt, half a packet of dry yeast, two \
spoonfuls of olive oil. Mix the flour with the salt, dissolve the yeast in the water, and knead everything for ten \
minutes until the dough is smooth. Let it rest under a cloth for an hour. Heat the oven to 230 degrees, roll the \
dough out thinly, brush it with oil, scatter rosemary over it and bake it for twelve minutes, until the edges are \
brown.""",
    """CREATE TABLE loans (id INTEGER PRIMARY KEY, book TEXT NOT NULL, member INTEGER, due DATE);
SELECT member, COUNT(*) AS late FROM loans WHERE due < '2021-06-01' GROUP BY member HAVING COUNT(*) > 2 ORDER BY \
late DESC LIMIT 10;
UPDATE loans SET due = DATE(due, '+14 days') WHERE id = 4711;""",
    """The cell membrane is a double layer of fat molecules about five nanometres thick. Their heads like water and \
face outwards; their tails avoid it and hide in the middle. Small molecules such as oxygen slip through, but ions \
and sugars need proteins that act as gates or pumps. The sodium pump, for example, throws three sodium ions out and \
takes two potassium ions in, and it spends one molecule of fuel each time. A resting nerve cell uses most of its \
energy for this alone.""",
    """I bought this kettle in spring and regret it. The lid sticks, the handle gets hot, and after four months \
there is rust around the spout. The shop answered my first letter politely and the second not at all. My sister has \
the older model, which cost half as much and still works perfectly after nine years. If you only want tea, take \
that one; if you want something beautiful that stands on a shelf, this one may do.""",
    """Question: A train leaves at 9:40 and arrives at 12:05. How long is the journey?
Answer: From 9:40 to 12:00 are 2 hours and 20 minutes; 5 more minutes make 2 hours and 25 minutes.
Question: Seven pencils cost 4.20. What do ten cost?
Answer: One costs 4.20 / 7 = 0.60, so ten cost 10 * 0.60 = 6.00.
Question: What is 15% of 80?
Answer: 0.15 * 80 = 12.""",
    """When Marta opened the letter she read the first line twice. Her uncle, whom she had not seen since she was a \
child, had left her the mill. She remembered the wheel, green with moss, and the smell of grain in the loft; she \
remembered that he never laughed. "What will you do with it?" asked her husband. She folded the paper along its old \
creases. "Go and look," she said. "There is a train on Friday." He nodded, because he had known her for eleven years \
and knew what that tone meant.""",
    """Dear Ms Okafor, thank you for your message of 3 May. We have checked the meter and found that two readings \
were exchanged, so the amount of 318.40 was wrong. The correct sum is 138.40, and the difference will be in your \
account within five working days. You need not do anything. We are sorry for the trouble and have told our service \
partner about the mistake. Yours sincerely, the customer service team.""",
    """{"city": "Tromsø", "population": 77544, "coordinates": {"lat": 69.65, "lon": 18.96}, "districts": ["Centre", \
"Kroken", "Tomasjord"], "polar_night": true, "mean_temperature": {"january": -3.8, "july": 12.3}}""",
    """English: The museum is closed on Mondays. French: Le musée est fermé le lundi. German: Das Museum ist montags \
geschlossen. Spanish: El museo cierra los lunes. English: Could you tell me where the station is? French: \
Pourriez-vous me dire où se trouve la gare ? German: Können Sie mir sagen, wo der Bahnhof ist? Spanish: ¿Podría \
decirme dónde está la estación?""",
    """A glacier is a river that moves too slowly to be seen. Snow falls on its upper part every winter and is pressed \
into ice by the snow of later years; lower down more melts than falls. Between the two runs a line that climbs the \
mountain when the climate warms. The ice creeps downhill by sliding over its bed and by deforming under its own \
weight, some centimetres on a cold slope and several metres in a day where meltwater lifts it from the rock.""",
    """Three rules for a good meeting. First, say in one sentence what should be different afterwards; if nobody can, \
there is no need to meet. Second, invite the people who decide and those who know, and nobody else. Third, write \
down who does what by when before anyone leaves the room. Most teams know all three and follow none, because it is \
easier to put an hour into a calendar than to think about what it is for.""",
    """The election of the chair took place in the town hall on 14 October. Of 212 members 187 were present. In the \
first round Ms Halloran received 81 votes, Mr Petrov 67 and Dr Anand 39, so that none had the majority. Dr Anand \
withdrew and asked her supporters to vote as they pleased. In the second round Mr Petrov won by 96 votes to 91. He \
thanked both opponents and promised to publish the accounts every quarter.""",
    """for (int i = 0; i < n; ++i) {
    if (seen.count(words[i]) == 0) {
        seen.insert(words[i]);
        result.push_back(words[i]);
    }
}
std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
""",
    """Bees tell one another where the flowers are by dancing. A scout that comes home runs in a straight line over \
the comb, shaking her body, then circles back and runs again. The angle of the line against the vertical is the \
angle of the flowers against the sun, and the length of the run is the distance. The other bees follow her in the \
dark with their antennae on her sides. Karl von Frisch worked this out by moving dishes of sugar water about a \
meadow, year after year.""",
)

DIALOGUES = (
    (
        "What is the difference between weather and climate?",
        "Weather is what happens in the air on a given day: rain, wind, a warm afternoon. Climate is the pattern of "
        "weather over many years, for instance how much rain falls in an average June. One hot day says little about "
        "the climate; thirty years of them say a lot.",
    ),
    (
        "Summarize in one sentence: The bakery on Mill Street, which opened in 1952, will close in August because the "
        "owner is retiring and none of her children wants to take over; customers have collected signatures to save "
        "it, and a cooperative is looking for bakers who would run it together.",
        "The bakery on Mill Street will close in August as its owner retires, unless a cooperative finds new bakers.",
    ),
    (
        "Write a Python function that counts the vowels in a text.",
        "def count_vowels(text):\n    return sum(letter in 'aeiou' for letter in text.lower())\n\nIt lowers the text "
        "first, so that capital vowels are counted as well.",
    ),
    (
        "I cannot sleep before exams. What can I do?",
        "Stop working an hour before bed, put the phone in another room, and write down what worries you together with "
        "the next small step for each thing. If you lie awake for more than twenty minutes, get up and read something "
        "dull until you are tired. One bad night costs less than most people fear.",
    ),
    (
        "Is this review positive or negative? 'The room was clean, but music from the bar kept us awake until two.'",
        "Negative: the clean room does not make up for the noise.",
    ),
    (
        "Name three rivers that flow through Vienna, Cairo and Baghdad.",
        "The Danube flows through Vienna, the Nile through Cairo, and the Tigris through Baghdad.",
    ),
)


def sequences(folder: Path, spec: ModelSpec) -> list[list[int]]:
    """The text as token ids in sequences of equal length, with the folder's tokenizer and chat template.

    Without a tokenizer each byte is a token, as the PyTorch backend has it.
    """
    length = min(LENGTH, spec.max_context or LENGTH)
    ids = _encoded(folder, spec.vocab_size)
    return [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]


def _encoded(folder: Path, vocab_size: int) -> list[int]:
    if tokenizer_file(folder) is None:
        text = "\n\n".join((*PASSAGES, *(part for dialogue in DIALOGUES for part in dialogue)))
        return [byte % vocab_size for byte in text.encode()]
    tokenizer = library_tokenizer(folder)
    template = named(tokenizer.chat_template).get("default")
    ids: list[int] = []
    for passage in PASSAGES:
        ids += [*tokenizer.encode(passage + "\n\n", add_special_tokens=False)]
    for question, answer in DIALOGUES:
        if template:
            said = [("user", question), ("assistant", answer)]
            marks = tokenizer.bos_token or "", tokenizer.eos_token or ""
            text = render_messages(template, said, *marks, answer=False)
        else:
            text = f"{question}\n{answer}\n\n"
        ids += tokenizer.encode(text, add_special_tokens=False)
    return [i for i in ids if i < vocab_size]
