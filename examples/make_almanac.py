"""Make almanac.md and almanac.questions.jsonl: an almanac of the invented island of Orrisay, over 12,000 words.

Everything follows from the seed. The island has twelve parishes, each a chapter; an entity (a town, a company, a ship)
is a paragraph, and a fact is a sentence. Entities of a parish refer to each other: a company has its head office in one
of the towns, a device is made by one of the companies. No name is given out twice.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from random import Random

Question = dict[str, object]

HERE = Path(__file__).resolve().parent
PLAN = (  # the entities of a parish, in the order of its chapter
    *("town", "town", "company", "company", "company", "device", "device", "device"),
    *("person", "person", "person", "person", "ship", "ship", "project", "project", "rule"),
    *("species", "species", "book", "event", "event", "mineral", "mineral"),
)
FACTS_PER_ENTITY = 7
QUESTIONS_PER_PARISH = 6

STEMS = """Alv,Arl,Beck,Birk,Bren,Cald,Carv,Corm,Dall,Dorr,Drev,Eld,Fald,Fenn,Foss,Gald,Garr,Glan,Gram,Hald,Harv,
Hest,Isk,Jarn,Jess,Kald,Kirr,Kress,Lorr,Marn,Mell,Morv,Nald,Nerr,Norr,Orl,Osk,Parr,Pell,Pran,Quill,Rask,Renn,Rull,Selv,
Skarr,Storr,Tald,Tarn,Trev,Ull,Vald,Varn,Voss,Wend,Wex,Zell"""
ENDINGS = {  # what a stem may be joined to; the result is a new name each time
    "surname": "ack,aden,amar,arro,berg,eck,elmar,enko,ering,ett,ewin,ick,idan,ingo,oran,ossi,ow,un",
    "place": "aby,fell,ford,haven,holm,mere,mouth,ness,stead,wick,worth",
    "river": "e,en,ow,er",
    "name": "a,ara,elle,enna,esta,ia,ina,issa,ona,ora,una,yra",
    "mineral": "ite,ium,ane,ine",
    "breed": "ish,y",
    "nick": "o,i,u",
}
WORDS = {
    "woman": "Agnes,Alma,Astrid,Camille,Dagmar,Dorothea,Edith,Elisa,Emma,Estelle,Flora,Frieda,Gerda,Hedda,Helga,"
    "Ilse,Ines,Johanna,Judith,Lea,Linnea,Lotte,Magda,Margot,Marta,Nell,Odile,Petra,Renata,Signe,Silvia,Thea,Ulla,Wanda",
    "man": "Adrian,Albert,Anders,Anton,Arne,Axel,Benno,Casper,Claude,Conrad,Cosimo,Damian,Edvard,Egon,Ernst,Fabian,"
    "Frank,Georg,Gregor,Gustav,Henrik,Jakob,Joris,Klaus,Lars,Lorenz,Magnus,Marius,Nikolai,Olaf,Rolf,Sven,Tobias",
    "firm": "Works,Ltd,Brothers,Group,Labs,Company",
    "trade": "baker,bookbinder,carpenter,chemist,cook,dentist,gardener,glazier,judge,lighthouse keeper,mason,midwife,"
    "nurse,pilot,potter,tailor,teacher,translator,vet,watchmaker,weaver",
    "pastime": "archery,birdwatching,chess,choir singing,cycling,dancing,fishing,painting,pottery,rowing,skating",
    "dish": "barley soup,bean stew,cherry cake,fish pie,fried mushrooms,goat cheese,onion bread,pear tart,plum jam",
    "pet": "cat,dog,donkey,goat,goose,hedgehog,parrot,pony,rabbit,raven,tortoise",
    "subject": "astronomy,botany,chemistry,geology,geometry,history,law,medicine,music,philosophy,physics",
    "landmark": "bell tower,castle,covered market,drawbridge,lighthouse,old mint,stone circle,windmill",
    "living": "basket weaving,beekeeping,boat building,cider making,fishing,glassmaking,sheep farming,slate mining",
    "feast": "plum fair,boat parade,candle night,cheese fair,drum festival,goose market,kite festival,lantern walk",
    "weekday": "Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday",
    "month": "January,February,March,April,May,June,July,August,September,October,November,December",
    "ware": "barometer,bicycle,camera,clock,heater,kettle,lamp,loom,microscope,oven,printer,radio,telescope",
    "stuff": "ash wood,brass,cast iron,cedar,ceramic,copper,cork,enamel,glass,leather,oak,slate,steel,tin,walnut",
    "colour": "black,blue,brown,crimson,green,grey,orange,purple,red,silver,turquoise,violet,white,yellow",
    "cargo": "apples,barley,bricks,butter,coal,copper ore,glass,linen,paper,salt,slate,sugar,timber,tin,wool",
    "aim": "build a tide mill,clear the old canal,drain the lower marsh,map the sea caves,plant an oak forest,"
    "rebuild the pier,repair the sea wall,replace the street lamps,test a new ferry,widen the coast road",
    "office": "archive,customs,forest,harbour,health,land,road,tax,water",
    "creature": "crab,finch,frog,hare,heron,lizard,moth,newt,otter,owl,seal,shrew,snail,toad,vole,wren",
    "home": "birch woods,heather moors,limestone caves,reed beds,rock pools,salt marshes,sand dunes,stone walls",
    "meal": "acorns,ants,berries,crickets,duckweed,grass seeds,kelp,mussels,pond snails,sand worms,spiders",
    "meeting": "Book Fair,Boat Show,Chess Week,Conference,Film Week,Flower Show,Games,Music Days",
    "award": "Medal,Prize,Cup",
    "fund": "Fund,Bank,Foundation",
}
# Dealt out one to a parish: the regions in this order, the others in an order that the seed decides.
REGIONS = "north,north-east,east,south-east,south,south-west,west,north-west,middle,lake country,high moors,outer cape"
RULES = "beach fire,boat,burial,dog,fishing,grazing,market stall,mushroom,peat cutting,sand,timber,well digging"
BOOKS = """The Amber Bell,The Borrowed Boat,The Crooked Candle,The Drowned Gate,The Empty House,The Forgotten Key,
The Narrow Map,The Patient Orchard,The Quiet Lantern,The Salt Stair,The Stolen Ferry,The Wooden Winter"""

# Kind of entity -> its name, then its facts: value, kind of question, question, statements. In a value {2-40} is a
# number of that range, {n} a large number, {word} a new name or a word of WORDS or of the parish.
KINDS: dict[str, tuple[str, list[tuple[str, ...]]]] = {
    "town": ("{own town}", [
        ("{1180-1790}", "when", "When was {s} founded?", "{s} was founded in {v}.", "{s} was settled in {v}."),
        ("{n}", "how many", "How many people live in {s}?", "{s} has {v} inhabitants.", "{v} people live in {s}."),
        ("{person}", "who", "Who is the mayor of {s}?", "The mayor of {s} is {v}.", "{v} was elected mayor of {s}."),
        ("the {river}", "what", "Which river runs through {s}?", "{v} river runs through {s}."),
        ("{landmark}", "what", "What is {s} famous for?", "{s} is famous for its {v}.", "The pride of {s} is its {v}."),
        ("{living}", "what", "What do most people in {s} live from?", "Most people in {s} live from {v}."),
        ("{weekday}", "when", "On which day is the market of {s} held?", "The market of {s} is held every {v}."),
        ("{feast}", "what", "What does {s} hold every autumn?", "Every autumn {s} holds a {v}."),
    ]),
    "company": ("{own company}", [
        ("{ware}s", "what", "What does {s} make?", "{s} makes {v}.", "{s} is known for its {v}."),
        ("{person}", "who", "Who founded {s}?", "{s} was founded by {v}.", "{v} founded {s}."),
        ("{1795-2012}", "when", "When was {s} established?", "{s} was established in {v}.", "{s} began in {v}."),
        ("{town}", "where", "Where is {s} based?", "{s} is based in {v}.", "The head office of {s} is in {v}."),
        ("{n}", "how many", "How many people does {s} employ?", "{s} employs {v} people.", "{v} people work for {s}."),
        ("{person}", "who", "Who runs {s}?", "{s} is run by {v}.", "The head of {s} is {v}."),
        ("${2-95} million", "how much", "How much did {s} earn last year?", "{s} earned {v} last year."),
    ]),
    "device": ("{name} {2-9}0", [
        ("{ware}", "what", "What kind of device is {s}?", "{s} is a new {v}.", "{s} is a small {v}."),
        ("{own company}", "what", "Which company makes {s}?", "{s} is made by {v}.", "The maker of {s} is {v}."),
        ("{person}", "who", "Who designed {s}?", "{s} was designed by {v}.", "The designer of {s} is {v}."),
        ("${18-940}", "how much", "How much does {s} cost?", "{s} costs {v}.", "The price of {s} is {v}."),
        ("{2-48} kilograms", "how much", "How much does {s} weigh?", "{s} weighs {v}.", "The weight of {s} is {v}."),
        ("{stuff}", "what", "What is the case of {s} made of?", "The case of {s} is made of {v}."),
        ("{colour}", "what", "In which colour is {s} sold?", "{s} is sold in {v}.", "The colour of {s} is {v}."),
        ("{1987-2024}", "when", "When did {s} go on sale?", "{s} went on sale in {v}.", "{s} came out in {v}."),
        ("{2-12} years", "how much", "How long is the warranty on {s}?", "The warranty on {s} lasts {v}."),
    ]),
    "person": ("{person}", [
        ("{trade}", "what", "What is the profession of {s}?", "{s} works as a {v}.", "By trade {s} is a {v}."),
        ("{place}", "where", "Where was {s} born?", "{s} was born in {v}.", "The birthplace of {s} is {v}."),
        ("{town}", "where", "Where does {s} live?", "{s} lives in {v}.", "The home of {s} is in {v}."),
        ("{subject}", "what", "What did {s} study?", "{s} studied {v}.", "{s} has a degree in {v}."),
        ("{pastime}", "what", "What does {s} like to do?", "{s} is fond of {v}.", "In free hours {s} enjoys {v}."),
        ("{dish}", "what", "What is the favourite dish of {s}?", "The favourite dish of {s} is {v}."),
        ("{pet} named {nick}", "what", "What pet does {s} keep?", "{s} keeps a {v}.", "{s} has a {v}."),
        ("{person}", "who", "Who is {s} married to?", "{s} is married to {v}."),
        ("the {surname} {award}", "what", "What did {s} win?", "{s} won {v}.", "{s} was awarded {v}."),
    ]),
    "ship": ("the {name}", [
        ("{person}", "who", "Who is the captain of {s}?", "The captain of {s} is {v}.", "{s} is commanded by {v}."),
        ("{1891-2019}", "when", "When was {s} launched?", "{s} was launched in {v}.", "{s} first sailed in {v}."),
        ("{14-180} metres", "how much", "How long is {s}?", "{s} is {v} long.", "The length of {s} is {v}."),
        ("{cargo}", "what", "What does {s} carry?", "{s} carries {v}.", "The usual cargo of {s} is {v}."),
        ("{place}", "where", "Where does {s} sail to?", "{s} sails to {v}.", "{s} is bound for {v}."),
        ("{town}", "where", "What is the home port of {s}?", "The home port of {s} is {v}."),
        ("{6-90} sailors", "how many", "How large is the crew of {s}?", "{s} has a crew of {v}.", "{v} serve on {s}."),
        ("{colour}", "what", "What colour is the hull of {s}?", "The hull of {s} is painted {v}."),
    ]),
    "project": ("Project {name}", [
        ("{aim}", "what", "What is the goal of {s}?", "The goal of {s} is to {v}.", "{s} was set up to {v}."),
        ("{person}", "who", "Who leads {s}?", "{s} is led by {v}.", "{v} is in charge of {s}."),
        ("${2-95} million", "how much", "What is the budget of {s}?", "The budget of {s} is {v}."),
        ("{1-28} {month} {2026-2031}", "when", "When is {s} due?", "{s} is due on {v}.", "{s} must end by {v}."),
        ("{town}", "where", "Where is {s} carried out?", "{s} is carried out in {v}.", "The site of {s} is {v}."),
        ("the {surname} {fund}", "who", "Who pays for {s}?", "{s} is paid for by {v}.", "{v} pays for {s}."),
        ("{5-85} people", "how many", "How many people work on {s}?", "{v} work on {s}.", "{s} keeps {v} busy."),
    ]),
    "rule": ("{rule} permits", [
        ("the {office} office", "what", "Which office issues {s}?", "{s} are issued by {v}.", "{v} issues {s}."),
        ("${4-220}", "how much", "What is the fee for {s}?", "{s} cost {v}.", "The fee for {s} is {v}."),
        ("{person}", "who", "Who signs {s}?", "{s} are signed by {v}.", "{v} signs all {s}."),
        ("room {2-140}", "where", "Where can you ask for {s}?", "You can ask for {s} at {v}."),
        ("{2-40} days", "how much", "How long does it take to get {s}?", "It takes {v} to get {s}."),
        ("{2-30} months", "how much", "How long are {s} valid?", "{s} are valid for {v}."),
    ]),
    "species": ("the {breed} {creature}", [
        ("{home}", "where", "Where does {s} live?", "{s} lives in {v}.", "{s} is found in {v}."),
        ("{meal}", "what", "What does {s} eat?", "{s} feeds on {v}.", "The main food of {s} is {v}."),
        ("{2-45} years", "how much", "How long does {s} live?", "{s} lives for {v}.", "{s} can reach an age of {v}."),
        ("{3-60} centimetres", "how much", "How large does {s} grow?", "{s} grows to {v}.", "{s} measures {v}."),
        ("{person}", "who", "Who first described {s}?", "{s} was first described by {v}.", "{v} discovered {s}."),
        ("{month}", "when", "When does {s} have its young?", "{s} has its young in {v}."),
    ]),
    "book": ('"{book}"', [
        ("{person}", "who", "Who wrote {s}?", "{s} was written by {v}.", "The author of {s} is {v}."),
        ("{1848-2024}", "when", "When was {s} published?", "{s} was published in {v}.", "{s} appeared in {v}."),
        ("{70-890} pages", "how many", "How many pages does {s} have?", "{s} has {v}.", "{s} is {v} long."),
        ("{town}", "where", "Where is {s} set?", "{s} is set in {v}.", "The story of {s} takes place in {v}."),
        ("{person}", "who", "Who is the main character of {s}?", "The main character of {s} is {v}."),
        ("{surname} Press", "who", "Who is the publisher of {s}?", "The publisher of {s} is {v}."),
    ]),
    "event": ("the {name} {meeting}", [
        ("{1-28} {month}", "when", "When does {s} open?", "{s} opens on {v}.", "The first day of {s} is {v}."),
        ("{town}", "where", "Where is {s} held?", "{s} is held in {v}.", "The venue of {s} is {v}."),
        ("{n}", "how many", "How many visitors did {s} draw last year?", "{s} drew {v} visitors last year."),
        ("{person}", "who", "Who will open {s}?", "{v} will open {s}.", "{s} will be opened by {v}."),
        ("${3-90}", "how much", "How much is a ticket for {s}?", "Entry to {s} costs {v}."),
        ("{2-14} days", "how much", "How long does {s} last?", "{s} lasts {v}."),
    ]),
    "mineral": ("{mineral}", [
        ("{colour}", "what", "What colour is {s}?", "Pure {s} is {v}.", "The colour of {s} is {v}."),
        ("{60-2400} degrees", "how much", "At what temperature does {s} melt?", "{s} melts at {v}."),
        ("{person}", "who", "Who discovered {s}?", "{s} was discovered by {v}.", "{v} discovered {s}."),
        ("{town}", "where", "Where is {s} mined?", "{s} is mined near {v}.", "Most {s} comes from {v}."),
        ("making {ware}s", "what", "What is {s} used for?", "{s} is used for {v}.", "The main use of {s} is {v}."),
        ("${2-480}", "how much", "How much does a kilogram of {s} cost?", "A kilogram of {s} costs {v}."),
    ]),
}  # fmt: skip


def listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",")]


class Maker:
    """Draws names and values; no name twice."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.taken: set[str] = set()

    def value(self, pattern: str, parish: dict[str, list[str]]) -> str:
        return re.sub(r"\{([^}]+)\}", lambda found: self._word(found.group(1), parish), pattern)

    def _word(self, key: str, parish: dict[str, list[str]]) -> str:
        if key in parish:
            return parish[key][0] if key.startswith("own ") else self.random.choice(parish[key])
        if key in WORDS:
            return self.random.choice(listed(WORDS[key]))
        if key in ENDINGS:
            return self._name(key)
        if key == "person":
            return self.value(self.random.choice(["{woman} {surname}", "{man} {surname}"]), parish)
        if key == "n":
            return f"{self.random.randint(101, 9899):,}"
        low, high = key.split("-")
        return str(self.random.randint(int(low), int(high)))

    def _name(self, key: str) -> str:
        while True:
            name = self.random.choice(listed(STEMS)) + self.random.choice(listed(ENDINGS[key]))
            if name.lower() not in self.taken:
                self.taken.add(name.lower())
                return name.lower() if key in ("mineral", "breed") else name

    def entity(self, kind: str, parish: dict[str, list[str]]) -> tuple[str, list[Question]]:
        """A paragraph about one new entity, and a question for each of its sentences."""
        pattern, table = KINDS[kind]
        name, pronoun = self.value(pattern, parish), "They" if kind == "rule" else "It"
        if kind == "person":
            pronoun = "She" if name.split()[0] in listed(WORDS["woman"]) else "He"
        sentences: list[str] = []
        questions: list[Question] = []
        named = False  # a pronoun follows only a sentence that begins with the name, and has no other person in it
        chosen = self.random.sample(table, min(len(table), FACTS_PER_ENTITY))
        for pattern, question_kind, question, *statements in chosen:
            answer, statement = self.value(pattern, parish), self.random.choice(statements)
            short = named and statement.startswith("{s}") and self.random.random() < 0.8
            sentence = statement.format(s=pronoun if short else name, v=answer)
            sentences.append(sentence[0].upper() + sentence[1:])
            evidence = " ".join(sentences[-2:] if short else sentences[-1:])
            asked: Question = {"question": question.format(s=name), "answers": variants(answer)}
            questions.append(asked | {"kind": question_kind, "evidence": evidence})
            named = statement.startswith("{s}") and not short and not (kind == "person" and pattern == "{person}")
        return " ".join(sentences), questions


def build(seed: int) -> tuple[str, list[Question]]:
    """The almanac's Markdown and its questions."""
    maker = Maker(seed)
    rules, books = listed(RULES), listed(BOOKS)
    maker.random.shuffle(rules)
    maker.random.shuffle(books)
    parts = [
        "# The almanac of Orrisay",
        "This almanac describes the island of Orrisay. It has a chapter for each of the twelve parishes.",
    ]
    questions: list[Question] = []
    for region, rule, book in zip(listed(REGIONS), rules, books, strict=True):
        towns = [maker.value("{place}", {}) for _ in range(PLAN.count("town"))]
        firms = [maker.value("{name} {firm}", {}) for _ in range(PLAN.count("company"))]
        wares = maker.random.sample(listed(WORDS["ware"]), len(firms))
        parts.append(f"## The parish of {towns[0]}")
        parts.append(f"This parish lies in the {region} of Orrisay. Its towns are {' and '.join(towns)}.")
        asked: list[Question] = []
        for index, kind in enumerate(PLAN):
            turn = PLAN[:index].count(kind)
            parish = {"town": towns, "rule": [rule], "book": [book], "own town": [towns[turn % len(towns)]]}
            if kind in ("company", "device"):
                parish |= {"own company": [firms[turn]], "ware": [wares[turn]]}
            paragraph, found = maker.entity(kind, parish)
            parts.append(paragraph)
            asked += found
        size = len(asked) // QUESTIONS_PER_PARISH  # one question from every stretch of this many
        questions += [maker.random.choice(asked[size * i : size * (i + 1)]) for i in range(QUESTIONS_PER_PARISH)]
    return "\n\n".join(parts) + "\n", questions


def variants(answer: str) -> list[str]:
    """The answer, and other ways of writing it that are as right."""
    found = [answer]
    if re.fullmatch(r"\d+,\d+", answer):
        found.append(answer.replace(",", ""))
    if money := re.fullmatch(r"\$(\d+)( million)?", answer):
        found.append(f"{money[1]}{money[2] or ''} dollars")
    if date := re.fullmatch(r"(\d+) ([A-Z][a-z]+)( \d{4})?", answer):
        found.append(f"{date[2]} {date[1]}" + (f",{date[3]}" if date[3] else ""))
    if answer.startswith("the "):
        found.append(answer[4:])
    if re.fullmatch(r"\d+ (people|sailors|pages)", answer):
        found.append(answer.split()[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Make almanac.md and almanac.questions.jsonl.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    args = parser.parse_args()
    text, questions = build(args.seed)
    lines = "".join(json.dumps(question, ensure_ascii=False) + "\n" for question in questions)
    (args.out / "almanac.md").write_text(text, encoding="utf-8")
    (args.out / "almanac.questions.jsonl").write_text(lines, encoding="utf-8")
    print(f"{args.out / 'almanac.md'}: {len(text.split()):,} words, {len(questions)} questions")


if __name__ == "__main__":
    main()
