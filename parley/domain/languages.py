"""Languages by the codes and names that speech-to-text services use."""

# A BCP 47 tag. It is part of prompts, so it must not be arbitrary text.
LANGUAGE = r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}$"
# Written without blanks between words, so that words are not counted there.
WITHOUT_BLANKS = frozenset({"zh", "ja", "th", "lo", "km", "my", "bo", "yue", "wuu", "nan", "hak"})
# ISO 639-2 and 639-3 codes, and English names, of the languages that have a code of two letters.
NAMES: dict[str, tuple[str, ...]] = {
    "af": ("afr", "afrikaans"),
    "am": ("amh", "amharic"),
    "ar": ("ara", "arabic"),
    "az": ("aze", "azerbaijani"),
    "be": ("bel", "belarusian"),
    "bg": ("bul", "bulgarian"),
    "bn": ("ben", "bengali"),
    "bo": ("bod", "tib", "tibetan"),
    "bs": ("bos", "bosnian"),
    "ca": ("cat", "catalan"),
    "cs": ("ces", "cze", "czech"),
    "cy": ("cym", "wel", "welsh"),
    "da": ("dan", "danish"),
    "de": ("deu", "ger", "german"),
    "el": ("ell", "gre", "greek"),
    "en": ("eng", "english"),
    "es": ("spa", "spanish", "castilian"),
    "et": ("est", "estonian"),
    "eu": ("eus", "baq", "basque"),
    "fa": ("fas", "per", "persian"),
    "fi": ("fin", "finnish"),
    "fr": ("fra", "fre", "french"),
    "ga": ("gle", "irish"),
    "gl": ("glg", "galician"),
    "gu": ("guj", "gujarati"),
    "ha": ("hau", "hausa"),
    "he": ("heb", "hebrew"),
    "hi": ("hin", "hindi"),
    "hr": ("hrv", "croatian"),
    "hu": ("hun", "hungarian"),
    "hy": ("hye", "arm", "armenian"),
    "id": ("ind", "indonesian"),
    "is": ("isl", "ice", "icelandic"),
    "it": ("ita", "italian"),
    "ja": ("jpn", "japanese"),
    "ka": ("kat", "geo", "georgian"),
    "kk": ("kaz", "kazakh"),
    "km": ("khm", "khmer"),
    "kn": ("kan", "kannada"),
    "ko": ("kor", "korean"),
    "lo": ("lao",),
    "lt": ("lit", "lithuanian"),
    "lv": ("lav", "latvian"),
    "mk": ("mkd", "mac", "macedonian"),
    "ml": ("mal", "malayalam"),
    "mn": ("mon", "mongolian"),
    "mr": ("mar", "marathi"),
    "ms": ("msa", "may", "malay"),
    "mt": ("mlt", "maltese"),
    "my": ("mya", "bur", "burmese"),
    "nb": ("nob",),
    "ne": ("nep", "nepali"),
    "nl": ("nld", "dut", "dutch"),
    "no": ("nor", "norwegian"),
    "pa": ("pan", "punjabi"),
    "pl": ("pol", "polish"),
    "pt": ("por", "portuguese"),
    "ro": ("ron", "rum", "romanian"),
    "ru": ("rus", "russian"),
    "sk": ("slk", "slo", "slovak"),
    "sl": ("slv", "slovenian"),
    "sq": ("sqi", "alb", "albanian"),
    "sr": ("srp", "serbian"),
    "sv": ("swe", "swedish"),
    "sw": ("swa", "swahili"),
    "ta": ("tam", "tamil"),
    "te": ("tel", "telugu"),
    "th": ("tha", "thai"),
    "tl": ("tgl", "tagalog"),
    "tr": ("tur", "turkish"),
    "uk": ("ukr", "ukrainian"),
    "ur": ("urd", "urdu"),
    "uz": ("uzb", "uzbek"),
    "vi": ("vie", "vietnamese"),
    "yo": ("yor", "yoruba"),
    "zh": ("zho", "chi", "cmn", "chinese", "mandarin"),
    "zu": ("zul", "zulu"),
}
SHORT = {name: code for code, names in NAMES.items() for name in names}


def language_tag(given: str) -> str:
    """A language as a BCP 47 tag with the short code: `eng` and `English` are `en`, `en_US` is `en-US`.

    A code that is not known stays as it is.
    """
    first, separator, rest = given.strip().replace("_", "-").partition("-")
    return SHORT.get(first.lower(), first) + separator + rest


def has_blanks(language: str) -> bool:
    """Whether a language, given by its tag, writes blanks between words."""
    return language.partition("-")[0].lower() not in WITHOUT_BLANKS
