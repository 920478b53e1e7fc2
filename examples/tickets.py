"""Writes made-up support tickets as training data: `python -m examples.tickets my-data`.

The sentences are ours, put together from templates and names, and free for any use. A third of the names and of the
templates never occurs in `train`, and some names are those of a person in one sentence and of a city, a company or a
product in another: so the figures say something about names never seen, if little about real tickets.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FILES = {"train": 600, "dev": 300, "test": 300}
"""How many sentences each file gets."""

SEEN = 2 / 3  # the share of names and of templates that `train` is made of

NAMES: Mapping[str, Sequence[str]] = {
    "PERSON": (
        "Anna Berg", "Tom Okafor", "Priya Nair", "Luis Ortega", "Mei Tanaka", "Jonas Weber", "Fatima Haddad",
        "Ivan Petrov", "Chloe Martin", "Samuel Osei", "Ingrid Dahl", "Marco Ricci", "Aisha Khan", "Peter Novak",
        "Sofia Costa", "Paris Vaughan", "Dallas Reed", "Victoria Lane", "Florence", "Ms Duarte", "Mr Lindqvist",
        "Dr Amari", "Kim", "Oluwaseun", "Rachel Stein", "Diego Paz", "Hana Sato", "Emil Kraus", "Nora Walsh",
        "Sydney Cole", "Austin Grey", "Mrs Iyer", "Yusuf", "Lena Moreau", "Carlos Vega", "Adelaide Brook",
    ),
    "CITY": (
        "Berlin", "Nairobi", "Lisbon", "Toronto", "Osaka", "Paris", "Dallas", "Victoria", "Florence", "New Delhi",
        "Buenos Aires", "Cape Town", "Helsinki", "Porto", "Lyon", "Accra", "Bergen", "Hanoi", "San Jose", "Leeds",
        "Prague", "Lima", "Sydney", "Austin", "Adelaide", "Kuala Lumpur", "Quito", "Turin", "St Gallen", "Rotterdam",
    ),
    "COMPANY": (
        "Brightline", "Northwind Freight", "Helio Energy", "Orchard Foods", "Bank of Lisbon", "Mercury Travel",
        "Castell & Sons", "Atlas Mining", "Lumen Health", "Pinewood", "Toronto Gas", "Redfern Media", "Delta Bakery",
        "Osaka Steel", "Silverlake Insurance", "Kite", "Harbour Logistics", "Vega", "Novak Brothers", "Sydney Water",
        "Greystone", "Falcon Air", "Union of Potters", "Marlow Print",
    ),
    "PRODUCT": (
        "PrintPro 300", "CloudBox", "Atlas", "Mercury 2", "the X40 router", "MailMover", "SafeKey Plus", "Delta",
        "PayPoint", "Scanlet", "the R7 dock", "FormFiller", "Pinboard", "VoiceDesk 5", "SyncMate", "Quill",
        "the Z9 headset", "Falcon 12", "TimeSheet Go", "Harbour", "LedgerLite", "Beacon", "the T2 tablet",
        "Kite Reader",
    ),
}  # fmt: skip
"""Names by label; `the` before one is not a part of it."""

THINGS = (
    "keyboard", "mouse", "screen", "charger", "door", "lamp", "camera", "cable", "headset", "scanner", "lift",
    "kettle", "projector", "badge reader", "microphone", "fan", "heater", "printer", "whiteboard", "coffee machine",
)  # fmt: skip
"""What stands for THING in a template, and is no entity."""

TEMPLATES: Sequence[str] = (
    "PERSON from COMPANY cannot log in to PRODUCT .",
    "Since Monday PRODUCT has crashed whenever PERSON opens a file .",
    "The office of COMPANY in CITY has no network .",
    "Please send PERSON a new licence for PRODUCT .",
    "COMPANY moved its servers from CITY to CITY .",
    "PERSON called twice about the invoice .",
    "Is PRODUCT sold in CITY , too ?",
    "The invoice for COMPANY went to PERSON by mistake .",
    "PRODUCT does not start after the update .",
    "PERSON works in CITY and needs the key on Friday .",
    "We return PRODUCT , since COMPANY delivers nothing to CITY .",
    "The THING is out of order again .",
    "Nobody answered my question about the THING .",
    "Who has taken the THING of room 12 ?",
    "Can PERSON and PERSON share one licence of PRODUCT ?",
    "COMPANY asks for a refund of 40 euros .",
    "PRODUCT and PRODUCT show different times .",
    "The technician drives to CITY tomorrow .",
    "I met PERSON of COMPANY in CITY , and they are happy with PRODUCT .",
    "Reset the password of PERSON , please .",
    "All screens in CITY went dark at noon .",
    "According to PERSON , COMPANY has cancelled PRODUCT .",
    "My THING makes a noise like a THING .",
    "CITY is offline .",
    "Ask PERSON .",
    "PERSON , COMPANY , CITY : the delivery is late .",
    "Why is PRODUCT slower than PRODUCT ?",
    "COMPANY bought PRODUCT for its staff in CITY .",
    "The THING and the THING are missing .",
    "Thanks for the quick help !",
    "PERSON reports that the stand in CITY lacks PRODUCT .",
    "Our contract with COMPANY ends in May .",
    "Has anybody at COMPANY tried PRODUCT on a phone ?",
    "The parcel for PERSON is still in CITY .",
    "Could you ring PERSON at COMPANY about PRODUCT ?",
    "PRODUCT lost the settings of PERSON .",
    "There is a smell of smoke near the THING .",
    "From CITY , PRODUCT takes a minute to load .",
    "COMPANY and COMPANY want the same discount .",
)


def main(arguments: Sequence[str]) -> int:
    """Write train, dev and test into the folder that is named, and say so."""
    if len(arguments) != 1:
        print("usage: python -m examples.tickets FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    sentences = distinct(random.Random(1))
    for name, count in FILES.items():
        path = folder / f"{name}.conll"
        path.write_text("".join(next(sentences[name != "train"]) for _ in range(count)), encoding="utf-8")
        print(f"{path}: {count} sentences")
    return 0


def distinct(draw: random.Random) -> tuple[Iterator[str], Iterator[str]]:
    """Return endless sentences for `train`, and those for the other files; none is given twice."""
    given: set[str] = set()

    def sentences(templates: Sequence[str], names: Mapping[str, Sequence[str]]) -> Iterator[str]:
        while True:
            lines = conll(draw.choice(templates), names, draw)
            if lines not in given:
                given.add(lines)
                yield lines

    seen = {label: of_label[: round(SEEN * len(of_label))] for label, of_label in NAMES.items()}
    return sentences(TEMPLATES[: round(SEEN * len(TEMPLATES))], seen), sentences(TEMPLATES, NAMES)


def conll(template: str, names: Mapping[str, Sequence[str]], draw: random.Random) -> str:
    """Return a sentence in CoNLL columns and an empty line, with names drawn for the labels in its template."""
    lines: list[str] = []
    for word in template.split():
        if word not in names:
            parts = draw.choice(THINGS).split() if word == "THING" else [word]
            lines += [f"{part}\tO\n" for part in parts]
            continue
        parts = draw.choice(names[word]).split()
        if parts[0] == "the":
            lines.append(f"{'the' if lines else 'The'}\tO\n")
            parts = parts[1:]
        lines += [f"{part}\t{'I' if index else 'B'}-{word}\n" for index, part in enumerate(parts)]
    return "".join([*lines, "\n"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
