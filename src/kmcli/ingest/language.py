"""Which language a text is in: by its script, else by its commonest words. As sure as it has to be to warn somebody."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection

NAMES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek", "en": "English",
    "es": "Spanish", "fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish", "ta": "Tamil", "th": "Thai",
    "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""By their codes of two letters (ISO 639-1), as model cards give them."""

_SCRIPTS = {
    "ja": "\u3040-\u30ff", "ko": "\uac00-\ud7af", "zh": "\u4e00-\u9fff", "ru": "\u0400-\u04ff", "ar": "\u0600-\u06ff",
    "el": "\u0370-\u03ff", "he": "\u0590-\u05ff", "hi": "\u0900-\u097f", "bn": "\u0980-\u09ff", "ta": "\u0b80-\u0bff",
    "th": "\u0e00-\u0e7f", "": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
}  # fmt: skip
"""The characters of one language's script; Cyrillic, Arabic and Devanagari count as their commonest one's; "": Latin."""
_WORDS = {
    "cs": "a v na se je že z do o to jako pro za by jsou nebo ve byl který od také při však jeho podle",
    "da": "og at det som en er af for på med den til ikke har de om et var jeg vi fra kan efter blev mellem",
    "de": "der die und das von den mit zu ist dem des ein eine nicht auf im sich auch für als wird bei aus nach werden",
    "en": "the of and to in is was for that it with as on by at from are this be which or an have not were has you if",
    "es": "el la los las que y en del se por con una para es su al como más un sus ha pero este lo fue",
    "fi": "ja on ei se että oli hän ovat mutta kun sekä tai joka mukaan myös kuin olla tämä sen jos vain",
    "fr": "le la les des et est une dans pour que qui sur pas par au du avec ce sont il plus cette aux ses en",
    "hu": "a az és hogy nem is egy volt ez de csak meg már azt el van mint vagy ki szerint",
    "id": "yang dan di ini itu dengan untuk dari pada tidak dalam akan adalah oleh juga ke sebagai telah",
    "it": "il che di la è per una non sono con del della si dei nel gli le da al come anche più ha alla",
    "nl": "de het een van en dat is niet zijn op te met voor aan er ook die door bij uit naar werd wordt om",
    "no": "og å det som en er av for på med den til ikke har de om et var jeg vi fra kan etter ble mellom",
    "pl": "i w na z się nie do jest że jak o od po przez dla oraz są był ale jego może który",
    "pt": "que o os as não uma para com do da em dos das por mais como foi ao ou no na sua é são à",
    "ro": "și în de la cu pe nu este o un care din pentru mai au a fost sunt sau că prin",
    "sv": "och att det som en är av för på med den till inte har de om ett var jag vi från kan efter mellan",
    "tr": "ve bir bu da de için ile olarak olan daha çok gibi en kadar sonra ancak değil ise ya",
    "vi": "và của là có được trong cho không với các một người những để này khi đã ở từ",
}
_COMMON = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_LOOKED_AT = 20_000
"""Characters."""
_FEWEST = 4
"""Letters, or different common words, of less than which nothing is said."""
_CLEARLY = 1.5
"""So many times the common words of any language that is read, those of another must be."""


def foreign(text: str, read: Collection[str]) -> str:
    """The code of the language that a text is in, if that is clearly none of those that are read; else ""."""
    sample = text[:_LOOKED_AT]
    counts = {code: len(re.findall(f"[{letters}]", sample)) for code, letters in _SCRIPTS.items()}
    if counts["ja"] * 10 > counts["zh"]:  # Japanese has both
        counts["ja"] += counts.pop("zh")
    script = max(counts, key=lambda code: counts[code])
    if script:
        code = "uk" if script == "ru" and re.search("[ґєіїҐЄІЇ]", sample) else script
        return code if counts[script] >= _FEWEST and code not in read else ""
    words = Counter(re.findall(r"[^\W\d_]+", sample.lower()))
    shares = {code: sum(words[word] for word in common) for code, common in _COMMON.items()}
    best = max(shares, key=lambda code: shares[code])
    known = max((shares.get(code, 0) for code in read), default=0)
    enough = len(_COMMON[best] & words.keys()) >= _FEWEST and shares[best] * 10 >= words.total()
    return best if best not in read and enough and shares[best] > _CLEARLY * known else ""
