"""Word lists for the comparison of questions. A word that is not listed is compared literally."""


def _words(text: str) -> list[str]:
    return text.split()


WOULD_YOU = r"(?:can|could|would|will) you"
GREETING = (
    r"(?:(?:hi|hello|hey|good (?:morning|afternoon|evening|day))(?: there)?|excuse me|quick question"
    r"|sorry(?! (?:for|about|that|to|if|i|but))|hallo|guten tag|hola|buenos dias|bonjour|ciao)"
)
# Verbs of actions, not of states: "how do I qualify" and "how can I qualify" are two questions.
ACTION = (
    r"(access|activate|add|block|book|buy|call|cancel|change|check|close|configure|connect|contact|copy|create|deactivate"
    r"|delete|disable|disconnect|download|edit|enable|export|extend|find|get|import|install|invite|join|leave|lock|login|logout"
    r"|merge|mute|open|order|pause|pay|print|reach|reactivate|record|redeem|register|remove|rename|renew|replace|report|request"
    r"|reschedule|reset|restart|restore|return|save|schedule|see|send|setup|share|signup|start|stop|submit|subscribe|switch|sync"
    r"|track|transfer|turn|unblock|uninstall|unlock|unmute|unsubscribe|update|upgrade|upload|use|verify|view|withdraw)"
)
# Wordings with the same meaning, replaced one after the other in lower-case text without punctuation. Each pattern
# matches whole words. `order!` and `framed` are marks that later patterns, or the comparison, remove.
# Contractions, and words run together.
CONTRACTIONS = (
    (r"(can|do|does|did|is|are|was|were|has|have|had|should|could|would|must|need)n't", r"\1 not"),
    (r"(do|does|did|is|are|was|were|has|have|had|should|could|would)nt", r"\1 not"),
    (r"(?:cannot|cant|ca not|can't)", "can not"),
    (r"(?:won't|wont)", "will not"),
    (r"(?:i'm|im)", "i am"),
    (r"(you|we|they|what|how|where|who)'re", r"\1 are"),
    (r"(i|you|we|they|who)'ve", r"\1 have"),
    (r"ive", "i have"),
    (r"(i|you|he|she|it|we|they|that|there)'ll", r"\1 will"),
    (r"(what|who|where|how|when|that|there|here|it|he|she)'s", r"\1 is"),
    (r"(what|where)s", r"\1 is"),
    (r"(i|we)'d like", r"\1 would like"),
    (r"e mail(s?)", r"email\1"),
    (r"wi fi", "wifi"),
    (r"(log|sign) (in|up)", r"\1\2"),
    (r"set up", "setup"),
    (r"asap", "as soon as possible"),
    (r"in order to", "to"),
    (r"ok", "okay"),
)
POLITENESS = (
    # A greeting or thanks with a name in it is left alone.
    (rf"^{GREETING}(?: {GREETING})*", ""),
    (r"(?:bitte|danke|por favor|s'il vous plaît|per favore)$", ""),
    (r"(?:(?:many )?thanks|thank you|thx|cheers)(?: a lot| so much| very much| in advance| for your help)*$", ""),
    (rf"^{WOULD_YOU} (?:please|pls|plz|kindly)", "order!"),
    (rf"^{WOULD_YOU} (.+) (?:please|pls|plz)$", r"order! \1"),
    (r"(?:please|pls|plz|kindly)", ""),
    # A question inside a phrase such as "tell me" is that question.
    (
        r"^(?:i (?:would like|want|wish|need) to (?:know|ask|find out)|i (?:was|am) (?:just )?wondering|i wonder"
        rf"|(?:order! |{WOULD_YOU} )?(?:tell me|explain to me|explain)|do you know|(?:can|could|may) i ask"
        r")(?= (?:how|what|where|why|who|which|if i can|whether i can)(?: |$))",
        "framed",
    ),
    (r"^framed (?:if|whether) i can", "can i"),
    (r"^framed (where|what) i can", r"\1 can i"),
    (r"^framed (where|what|who) (.+) (is|are|was|were)$", r"\1 \3 \2"),
    (rf"^framed how i {ACTION}", r"how to \1"),
    (r"^framed", ""),
    (rf"how (?:do i|can i|i can) {ACTION}", r"how to \1"),
    (r"^is it possible (?:for me )?to", "can i"),
    (r"i (?:would like|wish) to", "i want to"),
)
SPELLING = (
    (r"cancelation", "cancellation"),
    (r"(cancel|travel|label|model)(ed|ing|er)", r"\1l\2"),
    (r"(\w{2,}[rntld])is(e|ed|es|ing|ation)", r"\1iz\2"),
    (r"(col|fav|hon|lab|flav|behavi|neighb)our(s|ite|ites)?", r"\1or\2"),
    (r"licence(s?)", r"license\1"),
)
# In this order.
SAME = (*CONTRACTIONS, *POLITENESS, *SPELLING)

# A clause that begins with one of these may be before or after the rest of the question.
MOVABLE = frozenset(_words("for in on with at if when since because during via through inside within"))
# With one of these words in a question, the position of every word matters.
PLACED = frozenset(
    _words("""
not no never none nobody nothing nor neither without only just even also too still already all every each any some both
more most less least fewer than then before after until first last next instead except but or and either rather
""")
)
# A sentence that begins with one of these is a question, with a question mark or without.
ASKING = frozenset(
    _words("""
how what when where why who whom whose which is are am was were do does did can could will would shall should may might
must has have had wie wann wo wer warum welche welcher welches kann comment quand où qui pourquoi quel quelle combien
cómo qué cuándo dónde quién cuánto cuál puedo jak kiedy gdzie dlaczego quando dove hoe wanneer waar waarom quanto onde
""")
)
# After one of these a comma begins another sentence.
NEGATORS = frozenset(_words("no not never nein nicht non pas nie ne nunca jamais niet"))
# Words of English that are rare in other languages: misspellings are corrected in texts with one of them.
ENGLISH = frozenset(
    _words("""
the how what when where why which with from your you this that these those does and would could should did been have
not cannot can't don't doesn't didn't isn't haven't i'm i'd i've want cancel delete change reset order account please
""")
)
# These have another meaning in capitals.
CASE_MATTERS = frozenset(
    _words("""
us it who may march august polish turkey china will mark bill rich apple can aids ram pin act sat id general windows
word excel office teams access outlook target shell gap visa mint square stripe slack zoom signal edge chrome safari
reading nice mobile bath cork hr ad ads
""")
)
UNITS = {
    word: value
    for value, word in enumerate(
        _words("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen
""")
    )
}
TENS = {
    word: 10 * value
    for value, word in enumerate(_words("twenty thirty forty fifty sixty seventy eighty ninety"), start=2)
}

# Words of support and sales whose misspellings are recognised.
SPELLED = frozenset(
    _words("""
accept accepted access account accounts activate activated active address addresses advance agreement allowed already
alternative always amount annual another answer answers application appointment approve approved archive arrive
arrived assistant attach attached attachment august authentication automatic automatically available average balance
because become before behind benefit benefits between billed billing blocked booked booking branch broken browser
budget business button calculate calendar called campaign cancel cancellation cancelled cancelling cannot category
change changed changes changing channel charge charged charges cheaper checked checkout choose client clients closed
collect combine comment commission company compare compared comparison complain complaint complete completed computer
condition conditions conference confirm confirmation confirmed connect connected connection consultation contact
contacts contain content continue contract contracts conversation conversion convert correct country coupon course
create created credit currency current currently customer customers damaged dashboard database deadline december
decide decline declined decrease default defective delayed delete deleted deliver delivered delivery department
deposit describe description desktop detail details device devices difference different digital direct disable
disabled discount discounts dispatch display document documents domain downgrade download downloaded duplicate during
earlier easily eligible email emails employee enable enabled encrypted engine english enough enterprise environment
errors especially estimate exactly example exceed except exchange existing expect expected expensive expire expired
expires explain export exported external failed family faster favourite feature features february feedback figure
filter finance finished follow forgot forgotten format forward forwarded frequently friday friend friends function
further general generate german getting government guarantee happen happened happens hardware having headset height
history holiday however identity immediately import important imported include included includes including increase
increased individual industry information inside install installation installed instead instructions insurance
integrate integration interest interested internal international internet invitation invite invited invoice invoices
issues january keyboard language laptop latest letter licence licences license licenses limits location locked logout
longer machine mailbox maintenance manage manager manual market marketing maximum meaning meeting meetings member
members membership message messages method microphone minimum minute minutes missing mobile modify monday monitor
monthly months morning mortgage multiple necessary network newsletter nothing notice notification notifications
november number numbers october offers office official offline online opened opening operator opportunity option
options ordered orders organisation organization original outside overdue overview package packages parcel partner
partners password passwords payment payments paypal pending people perform permission permissions person personal
picture pipeline planned please points policy popular portal position possible postpone preferred premium prepare
present previous prices pricing printer priority privacy private probably problem problems process processed product
products profile program project promised promotion prospect provide provided provider purchase purchased quality
quantity quarter question questions quickly reactivate really reason receipt receipts receive received recommend
recommended record recording recover reduce reference refund refunded refunds region register registered registration
regular reject release reliable remaining remember reminder reminders remove removed renewal replace replaced
replacement report reports request requested requests require required reschedule reserve resolve response restart
restore result results return returned returns review reviews reward router sample saturday schedule scheduled screen
search season second secure security select selected seller separate september server service services session setting
settings several shared shipment shipped shipping should signature signed similar simple single software someone
something sometimes special specific standard started status storage street strong student subscribe subscribed
subscription subscriptions successful summary sunday supplier support supported suspend suspended switch system tablet
target technical technician technicians telephone template templates temporary thought through thursday ticket tickets
together tomorrow tracking transaction transactions transfer transferred transferring travel trouble tuesday
understand unlimited unlock unsubscribe unused update updated updates upgrade upgraded upgrading upload uploaded
usually vacation vendor verification verify version vision voucher waiting warehouse warning warranty webinar website
websites wednesday weekend weekly weight welcome window wireless withdraw withdrawal without working written yearly
yesterday
""")
)
# Words at one edit from one of those, as contact is from contract and massage from message: never corrected.
LOOKALIKES = frozenset(
    _words("""
accent accented addressees annul anther archie attacked balled balling became bilked bilking blacked blanch booed
booing bookend boomed booming booted booting boozed boozing brooked browner brunch bulled bulling burton cabled calmed
celled champaign chance chanced chances chancing chanel changers chanted chanting chargers charging charles charmed
charnel charred charted cheated cheater chocked chose chucked clanging clint cloned coarse commuter compadre compete
competed compliant concert confection conform conformation conformed consent contest context contrast contrasts
convection convent county covert crate crated creaked creamed crease creased cremate cremated crested culled currant
curse daring decade decayed decease decode deplete depleted deportment derail derails deride detains detective devise
devises direst dismount duping empire empires eternal excerpt exhort exhorted exiting expansive expert extensive
extort extorted fabled fallow falter farther fatter fellow fester fiend fiends filed filler fitter flailed foiled
forget foster fried gutting haring hating hazing heaving hight identify impart imparted incite incited infernal
instill instilled interval invitee lacked lamest langer latent latter lester licensee licensees licked linger litter
locution lodger logger loner looked lucked mange manger manuel massage massages massing melting menage messing meting
minuses misting misusing moaning montes mooning mortgagee moths mourning mouths mussing noshing noting novice outride
painter paints panned papal pardners parson pearson pease penning pervious pints planted pointer poplar positron
postal precious preform premised preset prevent pricking pricks prides pries primacy primate primes priming princes
prints prizes produces profess professed protect prowess qualify quantify rally realty recommenced regaining regally
regard reilly remainder remainders remote remover replayed requite requited resect resister resort resorts retaining
retard retort retorts reverence revolve rewording rooter roster rotter sarong scared sealer seared seating servile
settling sever shaded shamed shaped shard shaved sheared shingle shopped shopping shored shred sighed simile singe
singed sinned sipped sipping sitting skipped skipping slipped slipping smarted snared snipped snipping snitch soared
spacial spared speller starch stared starred startled starved stated states stats statues stitch string strung summery
sundry swatch tacking thicket thickets thorough though tracing tricking trough trucking unblock undated unload
unloaded uprated verily verity versification vocation wafting wailing waiving waning wanting warding waring warming
warping warring wasting weakly whiting widow wight winnow withdrew wording worming wright writing
""")
)
