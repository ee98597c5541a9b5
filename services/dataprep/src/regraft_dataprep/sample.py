"""Writes an invented news corpus in the TRC2 file format, for trials, tests and demonstrations.

TRC2 itself is licensed and cannot be shipped. The stories follow a small grammar (markets, companies, elections,
weather, sport) with a few hundred words, so that a tiny model visibly learns within a few hundred steps, and they have
the awkward content of real files at the rates below. All of it follows from the seed. The trade-off: it is far more
regular than news; a loss reached on it says nothing about real text. Companies and people do not exist.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from regraft.errors import InvalidInputError

RATES = {
    "empty": 0.01,  # a headline's timestamp and nothing else
    "duplicate": 0.02,  # the text of an earlier story under a new id
    "html_entity": 0.05,
    "mojibake": 0.03,  # UTF-8 that was read as Latin-1
    "invalid_utf8": 0.02,
    "bracketed_code": 0.25,
    "advertisement": 0.05,
}
"""Share of the stories that have each kind of awkward content."""

_FIRST = datetime(2008, 1, 1, 0, 0, 3)
_LAST = datetime(2009, 2, 28, 23, 54, 14)
_MONTHS = ("Jan", "Feb", "March", "April", "May", "June", "July", "Aug", "Sept", "Oct", "Nov", "Dec")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_CITIES = ("London", "New York", "Tokyo", "Frankfurt", "Paris", "Sydney", "Madrid", "Oslo", "Toronto", "Seoul")
_COMPANIES = (
    "Northgate Steel", "Harbour Foods", "Castellan Bank", "Lumen Motors", "Blue Ridge Energy", "Ostrava Paper",
    "Pinewood Airlines", "Meridian Chemicals", "Quarrystone Mining", "Silverline Telecom",
)  # fmt: skip
_PEOPLE = ("Alda Renwick", "Tomas Varga", "Mirela Okafor", "Jonas Feld", "Priya Castell", "Henrik Solano")
_TEAMS = ("Rovers", "United", "Wanderers", "Athletic", "Rangers", "Harriers")
_GOODS = ("oil", "gold", "copper", "wheat", "sugar", "coffee")
_COUNTRIES = ("Valdoria", "Estmark", "Corvania", "Lower Tarn", "Miravia")

_GRAMMAR: dict[str, tuple[str, ...]] = {
    "markets": (
        "{good} prices {moved} {percent} percent on {day} as investors weighed the outlook for demand.",
        "The benchmark index in {city} {moved} {number} points to close at {level}.",
        "Traders said the market was waiting for data on jobs and inflation due on {day}.",
        "The dollar {moved} against the euro and the yen in {session} trade.",
        '"The market is nervous and volumes are thin," said {person}, an analyst at {company}.',
        "Bond yields {moved} after the central bank left interest rates unchanged at {rate} percent.",
    ),
    "companies": (
        "{company} said on {day} its quarterly net profit {moved} {percent} percent to ${number} million.",
        "Shares in {company} {moved} {percent} percent in {city}.",
        "The company expects full year sales of about ${number} million.",
        '"We are pleased with the results," chief executive {person} said in a statement.',
        "Analysts had expected a profit of ${number} million on average.",
        "{company} and {company} are in talks about a merger, sources close to the deal said.",
    ),
    "elections": (
        "Voters in {country} go to the polls on {day} to choose a new parliament.",
        "An opinion poll showed the ruling party with {percent} percent of the vote.",
        "Opposition leader {person} promised to cut taxes and to create {number} thousand jobs.",
        '"The people want change," {person} told supporters in the capital.',
        "The government has a majority of {percent} seats in the parliament.",
        "The election commission said the first results are expected on {day}.",
    ),
    "weather": (
        "Heavy rain and strong winds hit the coast of {country} on {day}.",
        "Officials said {number} homes were without power after the storm.",
        "The weather service expects temperatures of {percent} degrees by {day}.",
        "Farmers said the storm had damaged the {good} crop in the south.",
        "Flights from {city} were delayed and roads were closed.",
        '"We have not seen such rain in {percent} years," said {person}, a rescue worker.',
    ),
    "sport": (
        "{city} {team} beat {city} {team} {goals}-{goals} on {day} to move up to third in the table.",
        "{person} scored twice in the second half for {city} {team}.",
        '"It was a hard game and the players did well," coach {person} told reporters.',
        "The match in {city} was watched by a crowd of {level}.",
        "{city} {team} play {city} {team} at home on {day}.",
        "The champions are {goals} points behind the leaders with {goals} games left.",
    ),
}
_HEADLINES = {
    "markets": "{good} {moved} {percent} pct, {city} index closes at {level}",
    "companies": "{company} profit {moved} {percent} pct",
    "elections": "{country} votes on {day}, polls see close race",
    "weather": "Storm hits {country}, {number} homes without power",
    "sport": "{city} {team} beat {city} {team} {goals}-{goals}",
}
_FILLERS: dict[str, Callable[[random.Random], str]] = {
    "good": lambda r: r.choice(_GOODS),
    "moved": lambda r: r.choice(("rose", "fell", "gained", "lost")),
    "percent": lambda r: str(r.randint(2, 48)),
    "number": lambda r: str(r.randint(1, 40) * 10),
    "level": lambda r: f"{r.randint(1, 40) * 500:,}",
    "rate": lambda r: f"{r.randint(2, 5)}.{r.choice('05')}",
    "goals": lambda r: str(r.randint(0, 5)),
    "day": lambda r: r.choice(_DAYS),
    "session": lambda r: r.choice(("early", "late", "quiet")),
    "city": lambda r: r.choice(_CITIES),
    "company": lambda r: r.choice(_COMPANIES),
    "person": lambda r: r.choice(_PEOPLE),
    "team": lambda r: r.choice(_TEAMS),
    "country": lambda r: r.choice(_COUNTRIES),
}
_ENTITIES = (
    " Ridge &amp; Vale was quoted lower.",
    " Prices were &lt;mixed&gt; at noon.",
    " Dealers spoke of &quot;calm&quot;.",
)
_MOJIBAKE = tuple(
    text.encode().decode("latin-1") for text in (" The café was full.", " SÃO PAULO closed higher.", " It cost €20.")
)
_BROKEN_BYTES = (b" Sales \xff\xfe rose.", b" The caf\xe9 reopened.", b" A deal \xe2\x82 was signed.")
_ADVERTISEMENT = b"\n(Click on the Z... for more stories from the newsroom)"


def write_trc2_sample(path: Path, *, stories: int, seed: int) -> dict[str, int]:
    """Write `stories` stories in chronological order; how many have each kind of awkward content, and the bytes.

    Raises:
        InvalidInputError: fewer than one story asked for.
    """
    if stories < 1:
        raise InvalidInputError("a corpus needs a story", field="stories", value=stories, remedy="Ask for 1 or more.")
    counts = Counter({"stories": stories, **dict.fromkeys(RATES, 0)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for story in _stories(random.Random(seed), stories=stories, counts=counts):
            counts["bytes"] += file.write(story)
    return dict(counts)


def _stories(rng: random.Random, *, stories: int, counts: Counter[str]) -> Iterator[bytes]:
    moments = sorted(rng.uniform(0, (_LAST - _FIRST).total_seconds()) for _ in range(stories))
    earlier: list[bytes] = []
    for number, seconds in enumerate(moments):
        moment = _FIRST + timedelta(seconds=round(seconds))
        text = _content(rng, moment, earlier=earlier, counts=counts)
        yield _tagged(number, moment, text)


def _content(rng: random.Random, moment: datetime, *, earlier: list[bytes], counts: Counter[str]) -> bytes:
    """Headline and body; a new story is remembered in `earlier`, whose last hundred may be sent again."""
    if _happens(rng, "empty", counts):
        return b""
    if earlier and _happens(rng, "duplicate", counts):
        return rng.choice(earlier)
    text = _awkward(rng, _story(rng, moment), counts=counts)
    earlier.append(text)
    del earlier[:-100]
    return text


def _story(rng: random.Random, moment: datetime) -> str:
    topic = rng.choice(sorted(_GRAMMAR))
    sentences = [_filled(rng, rng.choice(_GRAMMAR[topic])) for _ in range(rng.randint(5, 8))]
    dateline = f"{rng.choice(_CITIES).upper()}, {_MONTHS[moment.month - 1]} {moment.day} (Reuters) - "
    half = len(sentences) // 2
    paragraphs = dateline + " ".join(sentences[:half]), " ".join(sentences[half:])
    return _filled(rng, _HEADLINES[topic]).upper() + "\n\n" + "\n\n".join(paragraphs)


def _filled(rng: random.Random, template: str) -> str:
    """Each {name} replaced by its own draw; the first letter is a capital."""
    pieces = template.replace("}", "{").split("{")
    text = "".join(_FILLERS[piece](rng) if number % 2 else piece for number, piece in enumerate(pieces))
    return text[:1].upper() + text[1:]


def _awkward(rng: random.Random, story: str, *, counts: Counter[str]) -> bytes:
    if _happens(rng, "html_entity", counts):
        story += rng.choice(_ENTITIES)
    if _happens(rng, "mojibake", counts):
        story += rng.choice(_MOJIBAKE)
    text = story.encode()
    if _happens(rng, "invalid_utf8", counts):
        text += rng.choice(_BROKEN_BYTES)
    if _happens(rng, "bracketed_code", counts):
        text += f" [ID:nL{rng.randint(100_000, 999_999)}]".encode()
    if _happens(rng, "advertisement", counts):
        text += _ADVERTISEMENT
    return text


def _happens(rng: random.Random, kind: str, counts: Counter[str]) -> bool:
    happens = rng.random() < RATES[kind]
    counts[kind] += happens
    return happens


def _tagged(number: int, moment: datetime, text: bytes) -> bytes:
    header = (
        f"<DOC>\n<DOCNO>TRC2-{moment:%Y-%m-%d}-{number:04d}</DOCNO>\n"
        f"<BLOGS08DAY>{(moment - _FIRST).days}</BLOGS08DAY>\n<CONTENT>\n{moment:%Y-%m-%d %H:%M:%S} "
    )
    return header.encode() + text + b"\n</CONTENT>\n</DOC>\n"
