"""News-like texts of varying length, put together from parts; everything in them is invented."""

from __future__ import annotations

from random import Random

FIRST_NAMES = (
    "Amina", "Bjorn", "Carla", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ingrid", "Jamal", "Keiko", "Luis",
    "Marta", "Nadia", "Oscar", "Priya", "Rosa", "Stefan", "Tomas", "Ursula", "Wanda", "Yusuf",
)  # fmt: skip
LAST_NAMES = (
    "Almeida", "Berger", "Castellano", "Dvorak", "Eriksson", "Fontaine", "Ghosh", "Haddad", "Ivanova", "Jensen",
    "Kowalski", "Lindqvist", "Moreau", "Nakamura", "O'Brien", "Petrov", "Quispe", "Romano", "Sato", "van den Berg",
)  # fmt: skip
PLACES = (
    "Lisbon", "Oslo", "Nairobi", "Osaka", "Lima", "Antwerp", "Rotterdam", "Hamburg", "Cape Town", "Montreal", "Chile",
    "New Zealand", "Portugal", "Kenya", "the Baltic Sea", "North Yorkshire", "Santiago", "Marseille", "Belgrade",
)  # fmt: skip
ORGANISATIONS = (
    "Northwind Energy", "the World Bank", "the European Commission", "Harbour Rail", "Castellano & Sons",
    "the University of Porto", "Lakeside United", "Meridian Airlines", "the Ministry of Fisheries", "Orchard Foods",
    "the Central Bank of Kenya", "Tidewater Insurance", "the Nordic Council", "Blue Anchor Shipping",
)  # fmt: skip
ADJECTIVES = ("Portuguese", "Norwegian", "Kenyan", "Japanese", "Chilean", "European", "Canadian", "Serbian")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

SENTENCES = (
    "Shares fell.",
    "Nobody was hurt.",
    "{person} declined to comment.",
    "{organisation} opened an office in {place}.",
    "{person} flew from {place} to {place} on {day}.",
    "Rain stopped play in {place} with the {adjective} side at {number} for three.",
    "{organisation} said {adjective} exports rose {number} percent in the third quarter.",
    "{person}, who leads {organisation}, met {person} of {organisation} in {place} to talk about ferry prices.",
    "The {adjective} government has asked {organisation} for a loan of {number} million dollars, {person} said.",
    "Residents of {place} and {place} were told to boil their water after a pipe burst near a plant of {organisation}.",
    "{person} scored {number} points as {organisation} beat a tired team from {place} in front of {number},000 people.",
)
CLAUSES = (
    ", a spokesman for {organisation} said",
    ", although {person} had warned of delays",
    ", the second time since {day} that this has happened in {place}",
    ", according to a report that {organisation} and {organisation} published together in {place}",
    ", as talks between {person} and the {adjective} unions entered week {number}",
)


def text(random: Random) -> str:
    """Return one to four sentences; short texts come more often than long ones."""
    return " ".join(_sentence(random) for _ in range(random.choices((1, 2, 3, 4), (6, 3, 2, 1))[0]))


def _sentence(random: Random) -> str:
    pattern = random.choice(SENTENCES)
    for clause in random.sample(CLAUSES, random.choices((0, 1, 2, 3), (8, 4, 2, 1))[0]):
        pattern = pattern.removesuffix(".") + clause + "."
    filled = _fill(pattern, random)
    return filled[0].upper() + filled[1:]


def _fill(pattern: str, random: Random) -> str:
    """Return a pattern in which every {slot} has got a value of its own."""
    head, brace, rest = pattern.partition("{")
    if not brace:
        return pattern
    slot, _, tail = rest.partition("}")
    return head + _value(slot, random) + _fill(tail, random)


def _value(slot: str, random: Random) -> str:
    if slot == "person":
        return f"{random.choice(FIRST_NAMES)} {random.choice(LAST_NAMES)}"
    if slot == "number":
        return str(random.randint(4, 95))
    values = {"place": PLACES, "organisation": ORGANISATIONS, "adjective": ADJECTIVES, "day": DAYS}
    return random.choice(values[slot])
