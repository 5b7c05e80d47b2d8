"""Why a chat was transferred to a person and where a user left, by the messages just before that.

In both tables, earlier entries rank higher.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from simulator.chats import texts_of
from simulator.intents import Concept
from simulator.phrases import Phrasebook, split_phrases, words
from simulator.wire import Message


@dataclass(frozen=True)
class Ending:
    """One reason for a transfer, or one place of a drop-off.

    `labels`: its labels. `label_cues`: cues that recognise other labels for it. `user`, `bot`: cues in the messages of
    the user and of the bot. `topics`, `actions`: intents that imply it.
    """

    labels: tuple[str, ...]
    label_cues: str
    user: str = ""
    bot: str = ""
    topics: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()


REASONS: Mapping[str, Ending] = {
    "legal": Ending(
        ("privacy or legal matter", "legal or privacy concern", "data protection case"),
        "privacy, legal*, data protection",
        "lawyer, data protection, gdpr, privacy, police, court, sue, suing, died, passed away, death, regulator,"
        "personal data,"
        "somebody else's data, abogad*, anwalt, datenschutz, avocat, rgpd, rodo, prawnik, advogado, avukat, kvkk",
    ),
    "accessibility": Ending(
        ("accessibility need", "accessibility support", "special assistance needed"),
        "accessib*, special assistance",
        "blind, screen reader, deaf, hard of hearing, tremor, large print, wheelchair, disab*, dyslex*, can't see,"
        "cannot see,"
        "ciego, blinden, gehorlos, aveugle, niewidom*, gorme engelli",
    ),
    "verification": Ending(
        ("could not verify identity", "identity verification failed", "failed verification"),
        "verif*, identity",
        "",
        "do not match, does not match, don't match, doesn't match, can't verify, cannot verify, could not verify,"
        "not verified, unable to verify, no coincide*, stimmen nicht, stimmt nicht, nicht bestatigen, ne correspond*,"
        "nie zgadza*, nao correspond*, nao confere*, uyusmuyor, eslesmiyor, dogrulayamiyorum",
    ),
    "complaint": Ending(
        ("escalated complaint", "complaint escalation", "upset customer complaint"),
        "complain*, escalat*",
        "unacceptable, ashamed, ridiculous, third time, fourth time, fifth time, complain*, complaint, disgrace,"
        "fed up, worst,"
        "liars, compensation, verguenza, inaceptable, unverschamt*, frechheit, inacceptable, skandal*, vergonha,"
        "rezalet",
    ),
    "human": Ending(
        ("asked for a human", "request for a human agent", "user requested an agent"),
        "human, asked for an agent, human agent, live agent, requested an agent, real person",
        "human*, real person, a person, agent, talk to someone, speak to someone, someone real, representative,"
        "operator,"
        "supervisor, not a bot, not a robot, no bot, persona, humano, agente, mensch*, mitarbeiter*, humain,"
        "conseiller*,"
        "czlowiek*, konsultant*, pessoa, atendente, insan, temsilci*, yetkili",
    ),
    "cancellation": Ending(
        ("cancellation request", "contract cancellation", "retention case"),
        "cancel*, retention",
        topics=("contract",),
        actions=("cancel",),
    ),
    "misunderstood": Ending(
        ("bot did not understand", "bot misunderstood the user", "bot failed to understand"),
        "not understand, misunderst*, failed to understand",
        "",
        "did not get that, didn't get that, not understand, don't understand, didn't understand, other words,"
        "rephrase,"
        "no he entendido, no entiendo, nicht verstanden, pas compris, nie rozumiem, nao entendi, anlamadim,"
        "anlayamadim",
    ),
    "billing": Ending(
        ("billing dispute", "complex billing issue", "disputed charge"),
        "billing, bill, charge*, disputed charge",
        topics=("bill", "refund", "balance"),
    ),
    "technical": Ending(
        ("technical fault", "unresolved technical issue", "technical problem"),
        "technical, fault, troubleshoot*",
        topics=("device", "app", "router", "technician"),
        actions=("fault", "slow", "setup"),
    ),
    "rights": Ending(
        ("needs agent rights", "action beyond the bot", "manual processing needed"),
        "agent rights, beyond the bot, manual*, rights",
    ),
}

PLACES: Mapping[str, Ending] = {
    "waiting": Ending(
        ("waiting for an agent", "agent queue", "waiting in the queue"),
        "wait*, queue",
        bot="queue, wait is, waiting time, pass you to, colleague*, transfer you, transferring you, connect you,"
        "an agent, all busy,"
        "cola, companer*, warteschlange, kolleg*, collegue*, file d'attente, kolejc*, konsultant*, fila, atendente*,"
        "kuyruk*,"
        "sira*, temsilci*",
    ),
    "verification": Ending(
        ("identity verification", "login or verification", "verification step"),
        "verif*, login, identity",
        bot="customer number, date of birth, verification code, the code, six digits, your password, verify,"
        "verification, log in,"
        "last four digits, do not match, does not match, numero de cliente, fecha de nacimiento, kundennummer,"
        "geburtsdatum,"
        "numero client, date de naissance, numer klienta, date* urodzenia, data de nascimento, numero de cliente,"
        "musteri numara*, dogum tarih*",
    ),
    "form": Ending(
        ("form or survey", "form filling", "survey form"),
        "form, survey, feedback",
        bot="form, fill in, fill out, survey, rate, from 1 to 5, all the fields, upload, formular*, encuesta,"
        "umfrage, ausfullen,"
        "enquete, formulaire, ankiet*, formulario, pesquisa, anket, pdf",
    ),
    "payment": Ending(
        ("payment", "payment step", "payment page"),
        "payment, checkout, paying",
        bot="pay, payment*, card number, your card, iban, checkout, amount, charge your, bank details, pagar, pago,"
        "tarjeta, zahlen,"
        "zahlung, karte, payer, paiement, carte, zaplac*, platnosc*, kart*, pagamento, cartao, ode*",
    ),
    "troubleshooting": Ending(
        ("troubleshooting step", "troubleshooting", "during troubleshooting"),
        "troubleshoot*",
        bot="restart, reboot, unplug, plug, cable*, reset, light*, speed test, test, try again, turn off, switch off,"
        "switch it off,"
        "press, hold, settings, update, browser, reinici*, cable, neu starten, neustart*, kabel*, redemarr*,"
        "zrestartuj,"
        "kabl*, desligue, yeniden baslat*, kapat*",
    ),
    "choice": Ending(
        ("plan or offer choice", "choosing an option", "option selection"),
        "plan, offer, choos*, option*, choice",
        bot="which one, which plan, choose, offer*, option*, plans, packages, per month, cual, welche, lequel, ktor*,"
        "qual, hangi",
    ),
    "confirmation": Ending(
        ("confirmation step", "confirming the request", "awaiting confirmation"),
        "confirm*",
        bot="please confirm, confirm*, is that correct, is this correct, is that right, shall i, should i,"
        "would you like me,"
        "do you want me, correcto, richtig, confirmez, potwierdz*, confirma, onayl*",
    ),
    "answer": Ending(
        ("after an answer", "after the bot's answer", "after an unhelpful answer"),
        "answer",
    ),
    "start": Ending(
        ("start of chat", "at the start", "first message"),
        "start, first message, greeting",
    ),
}
CLOSING = split_phrases(
    "are you still there, not heard from you, closing this chat, closed, sigues ahi, noch da, toujours la"
)


def _book(endings: Mapping[str, Ending], cues: Callable[[Ending], str]) -> Phrasebook[str]:
    return Phrasebook((phrase, name) for name, ending in endings.items() for phrase in split_phrases(cues(ending)))


def _label_cues(ending: Ending) -> str:
    return ",".join((ending.label_cues, *ending.labels))


REASON_NAMES, PLACE_NAMES = _book(REASONS, _label_cues), _book(PLACES, _label_cues)
USER_REASONS, BOT_REASONS = _book(REASONS, lambda ending: ending.user), _book(REASONS, lambda ending: ending.bot)
BOT_PLACES = _book(PLACES, lambda ending: ending.bot)
CLOSING_BOOK = Phrasebook((phrase, True) for phrase in CLOSING)


@lru_cache(maxsize=8192)
def ending_of_label(label: str, book: Phrasebook[str]) -> str | None:
    """Return the name of the ending with the longest cue in a label, or None."""
    hits = book.find(words(label))
    return max(hits, key=lambda hit: hit.end - hit.start).value if hits else None


def transfer_reasons(messages: Sequence[Message], concept: Concept) -> list[str]:
    """Return why a chat was transferred, the likeliest reason first; never empty.

    Only the messages before the first one of an agent count. `concept` is the intent of the chat.
    """
    first = next((position for position, message in enumerate(messages) if message.role == "agent"), len(messages))
    before = messages[:first]
    found = {*_values(USER_REASONS, texts_of("user", before)), *_values(BOT_REASONS, texts_of("bot", before))}
    implied = {name for name, ending in REASONS.items() if _is_implied(ending, concept)}
    return [name for name in REASONS if name in found | implied] or ["rights"]


def drop_off_places(messages: Sequence[Message]) -> list[str]:
    """Return where a user left, by what the bot's last message asks for, the likeliest place first; never empty."""
    bot_lines = [words(text) for text in texts_of("bot", messages)]
    lines = [line for line in bot_lines if not CLOSING_BOOK.find(line)] or bot_lines
    if len(lines) < 2 or not texts_of("user", messages):
        return ["start"]
    found = set(_values(BOT_PLACES, [" ".join(lines[-1])]))
    return [name for name in PLACES if name in found] or ["answer"]


def _values(book: Phrasebook[str], texts: Iterable[str]) -> Iterable[str]:
    return (hit.value for text in texts for hit in book.find(words(text)))


def _is_implied(ending: Ending, concept: Concept) -> bool:
    return concept.topic in ending.topics or concept.action in ending.actions
