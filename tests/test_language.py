"""The language of a text, and who is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_cases import Km, runner
from kmcli.bases.folder import read_languages
from kmcli.ingest.language import _WORDS, NAMES, foreign
from kmcli.types import Event
from kmcli.workflows.house import open_house
from kmcli.workflows.reading import Foreign

TEXTS = {
    "ar": "يفتح الميناء في الساعة السادسة صباحا كل يوم.",
    "cs": "Přístav se otevírá v šest ráno a zavírá večer. Lodě, které jsou v přístavu, musí být přihlášeny na úřadě.",
    "da": "Havnen åbner klokken seks om morgenen, og skibe har ikke lov til at ligge der efter midnat mellem moler.",
    "de": "Der Hafen öffnet um sechs Uhr, und die Schiffe werden von dem Büro für die Liegeplätze nicht mehr bedient.",
    "el": "Το λιμάνι ανοίγει στις έξι το πρωί.",
    "es": "El puerto abre a las seis de la mañana y los barcos que llegan por la noche esperan en el muelle.",
    "fi": "Satama avataan kello kuusi ja laivat, jotka ovat myöhässä, eivät ole siellä kun se on suljettu.",
    "fr": "Le port ouvre à six heures du matin et les bateaux qui arrivent dans la nuit attendent sur le quai.",
    "he": "הנמל נפתח בשש בבוקר.",
    "hi": "बंदरगाह सुबह छह बजे खुलता है।",
    "hu": "A kikötő reggel hatkor nyit, és a hajók csak az engedély után mehetnek be, de az nem drága.",
    "id": "Pelabuhan dibuka pada pukul enam pagi dan kapal yang datang dari laut tidak akan menunggu di luar.",
    "it": "Il porto apre alle sei del mattino e le navi che arrivano di notte non sono ammesse nel bacino della città.",
    "ja": "港は朝六時に開きます。船は静かに待ちます。",
    "ko": "항구는 아침 여섯 시에 문을 엽니다.",
    "nl": "De haven gaat om zes uur open en het schip dat te laat is moet bij de kade wachten voor een plaats.",
    "no": "Havna åpner klokka seks om morgenen, og skip har ikke lov å ligge der etter midnatt mellom moloene, av og til.",
    "pl": "Port jest otwarty od szóstej rano i nie ma w nim miejsca dla statków, które są za duże na to nabrzeże.",
    "pt": "O porto abre às seis da manhã e os navios que chegam não são recebidos no cais da cidade por mais de um dia.",
    "ro": "Portul se deschide la ora șase și navele care sosesc din larg nu sunt primite în bazin pentru că este plin.",
    "ru": "Порт открывается в шесть часов утра.",
    "sv": "Hamnen öppnar klockan sex och fartyg som är sena får inte ligga där efter midnatt, för det är på natten.",
    "th": "ท่าเรือเปิดเวลาหกโมงเช้า",
    "tr": "Liman sabah altıda açılır ve gelen gemiler için bir yer yoktur; daha sonra ise bu da değil.",
    "uk": "Порт відкривається о шостій годині ранку, її причал вільний.",
    "vi": "Cảng mở cửa vào lúc sáu giờ sáng và các tàu đến trong đêm không được vào cảng khi đã đầy.",
    "zh": "港口早上六点开放。",
}  # fmt: skip
ENGLISH = "The port opens at six in the morning, and ships that arrive in the night wait at the quay."


@pytest.mark.parametrize("code", TEXTS)
def test_each_language_is_known_by_itself(code: str) -> None:
    assert foreign(TEXTS[code], ["en"]) == code
    assert foreign(TEXTS[code], [code, "en"]) == ""
    assert foreign(ENGLISH, [code]) == "en"


def test_every_language_that_is_told_apart_has_a_name() -> None:
    assert {*TEXTS, *_WORDS} <= NAMES.keys()


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH,
        "",
        "12 34 56",
        "def main(): return x + y",
        "Berth permits: 40. Fee: $75. Die cast, 3 days.",
        "He said la la la, de facto the end.",
        "α is the angle of the beam, and β is the other one; the sum of these is π.",
        (Path(__file__).parent.parent / "examples" / "harbour.md").read_text(),
        (Path(__file__).parent.parent / "docs" / "design.md").read_text(),
    ],
)
def test_nothing_is_said_of_english_or_of_no_language(text: str) -> None:
    assert foreign(text, ["en"]) == ""


@pytest.mark.parametrize(
    ("name", "content", "languages"),
    [
        ("card.json", '{"languages": ["en", "de"]}', ("en", "de")),
        ("README.md", "---\nlicense: mit\nlanguage: en\n---\n# A model", ("en",)),
        ("README.md", "---\nlanguage: [en, fr]\ntags:\n- x\n---\n", ("en", "fr")),
        ("README.md", "---\nlanguage:\n- en\n- zh\ntags:\n- x\n---\n", ("en", "zh")),
        ("README.md", "---\nlanguage: multilingual\n---\n", ()),
        ("README.md", "# A model\nlanguage: en\n", ()),
        ("other", "", ()),
    ],
)
def test_what_a_base_says_that_it_reads(tmp_path: Path, name: str, content: str, languages: tuple[str, ...]) -> None:
    (tmp_path / name).write_text(content)
    assert read_languages(tmp_path) == languages


@pytest.fixture
def km(capsys: pytest.CaptureFixture[str]) -> Km:
    return runner(capsys)


def test_the_person_is_told_once(km: Km, tmp_path: Path) -> None:
    for number, code in enumerate(("de", "de", "de", "de", "fr")):
        (tmp_path / f"d{number}.md").write_text(f"{TEXTS[code]} {number}")
    (tmp_path / "e.md").write_text(ENGLISH)
    told = [line for line in km("add", str(tmp_path)).err.splitlines() if "it seems" in line]
    assert told == [
        "warning: d0, d1, d2 and 1 more: in German, it seems, and the base reads English; for others see km models",
        "warning: d4: in French, it seems, and the base reads English; for others see km models",
    ]
    assert "it seems" not in km("add", str(tmp_path)).err  # all are there already
    events: list[Event] = []
    with open_house({}, events.append) as house:
        Foreign(house).tell_of(house.library.documents())
        Foreign(house, tmp_path).tell_of(house.library.documents())  # a base that does not say what it reads
    assert [event.message.partition(":")[0] for event in events] == ["d0, d1, d2 and 1 more", "d4"]
