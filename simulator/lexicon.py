"""What users request from bots: actions and topics, the cues that recognise them, and the labels that name them.

Cues are phrases separated by commas. A word with `*` is a stem. A `?` before a phrase makes it a weak cue, which
decides only if there is no strong one. All cues are in English; those about customer support are also in Spanish,
German, French, Polish, Portuguese and Turkish. Some cues were added because chats of `samples/chats` were labelled
wrongly, so accuracy measured on those chats is too high.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Action:
    """Something to do with a topic.

    `labels`: patterns of labels, `{}` is the topic. `urgency`: its weight compared with other actions.
    """

    labels: tuple[str, ...]
    cues: str = ""
    urgency: float = 1.0


@dataclass(frozen=True)
class Topic:
    """A subject of requests.

    `nouns`: its names in labels. `actions`: the possible ones, the default first. `action_cues`: cues that name both
    the topic and one of its actions, by action.
    """

    nouns: tuple[str, ...]
    actions: tuple[str, ...]
    cues: str
    action_cues: Mapping[str, str] = field(default_factory=dict)


ACTIONS: Mapping[str, Action] = {
    "find": Action(
        ("{} search", "find {}", "{} lookup", "search for {}"),
        "find*, search*, look* for, lookup, recommend*, suggest*, discover*, show me, busc*, encontrar, such*,"
        "finde*,"
        "cherche*, trouver, szuka*, procur*, bul*, ariyorum",
    ),
    "book": Action(
        ("{} booking", "book {}", "{} reservation", "reserve {}"),
        "book, booking*, booked, reserv*, table for, buch*, reservier*, rezerw*, rezervasyon",
        1.2,
    ),
    "appoint": Action(
        ("{} appointment", "{} appointment booking", "book {} appointment"),
        "appointment*, book*, schedul*, reserv*, make an appointment, termin*, cita, rendez vous, wizyt*, consulta,"
        "randevu*",
        1.2,
    ),
    "visit": Action(
        ("{} viewing", "schedule {} visit", "{} visit"),
        "visit*, viewing*, schedul*, tour, view it, see it in person",
        1.2,
    ),
    "buy": Action(
        ("{} ticket purchase", "buy {} tickets", "{} tickets"),
        "buy*, purchas*, ticket*, get tickets, comprar, kauf*",
        1.2,
    ),
    "times": Action(
        ("{} dates", "{} times", "{} dates and times"),
        "when is, when are, when does, when will, dates, date of, date for, times, what time, show times, showtime*,"
        "what day",
        1.1,
    ),
    "play": Action(
        ("play {}", "{} playback", "{} streaming"), "play, playing, playback, listen*, hear, stream, streaming", 1.1
    ),
    "check": Action(("{} check", "check {}", "{} inquiry"), "check*"),
    "add": Action(("add {} entry", "new {} entry"), "add*, put, create, entry, remind*, save it", 1.2),
    "send": Action(("{}", "make {}", "{} request")),
    "cancel": Action(
        ("cancel {}", "{} cancellation", "{} termination"),
        "cancel*, terminat*, end, quit, kundig*, stornier*, anul*, annul*, resili*, rozwiaz*, wypowied*, iptal*,"
        "desist*",
        3.0,
    ),
    "change": Action(
        ("change {}", "{} change", "{} modification"),
        "chang*, modif*, reschedul*, updat*, switch*, cambi*, ander*, modifi*, zmien*, zmian*, mud*, alter*, degis*",
        2.0,
    ),
    "fault": Action(
        ("{} problem", "{} issue", "{} not working", "{} fault"),
        "problem*, issue*, trouble*, fault*, error*, broken, broke, not working, no working, isn't working,"
        "doesn't work,"
        "does not work, doesnt work, not work, wont, won't, down, dead, gone, outage*, no signal, offline, crash*,"
        "freez*, frozen, keeps, drop*, dropping, lost, fail*, stuck, nothing happens, red light, blink*,"
        "cant connect,"
        "can't connect, no picture, black, no funciona, no va, sin, averia, caido, fallo, funktioniert nicht,"
        "geht nicht,"
        "kein, keine, ausgefallen, ausfall, storung, kaputt, ne marche pas, ne fonctionne, panne, coupure, plus de,"
        "nie dziala, brak, awaria, nao funciona, sem, caiu, calismiyor, kesildi, yok, ariza, gitti",
        1.2,
    ),
    "slow": Action(
        ("slow {}", "{} speed problem", "{} too slow"),
        "slow*, speed*, mbit*, mbps, lag, lags, laggy, ping, buffer*, faster, lento, lenta, langsam*,"
        "geschwindigkeit,"
        "lent, lente, debit, wolny, wolno, predkosc, devagar, velocidad*, yavas, hiz*",
        1.6,
    ),
    "setup": Action(
        ("{} setup", "set up {}", "{} configuration", "{} installation"),
        "setup, set up, install*, configur*, connect my, einricht*, installier*, instal*, konfigur*, kurulum, kur",
        1.1,
    ),
    "order": Action(
        ("new {} order", "order {}", "{} order"),
        "order*, sign up, get a new, do you sell, want to get, available at, is available, availability, bestell*,"
        "pedir,"
        "contratar, commander, souscrire, zamow*, encomend*, siparis*",
        1.1,
    ),
    "dispute": Action(
        ("{} dispute", "{} question", "{} problem", "{} complaint"),
        "dispute*, wrong, why, explain*, too high, twice, double, mistake*, what is this, never ordered, reclam*,"
        "falsch,"
        "zu hoch, erreur, trop, incorrect, incorrecta, blad, za wysok*, errad*, yanlis, cok yuksek",
        1.1,
    ),
    "pay": Action(
        ("{} payment", "pay {}", "{} payment question"),
        "pay, paying, payment*, pagar, pago, zahlen, bezahlen, zahlung, payer, paiement, zaplac*, platnosc,"
        "pagamento,"
        "ode, odemek, odeme*",
        1.1,
    ),
    "track": Action(
        ("{} status", "{} tracking", "track {}"),
        "status, track*, where is, where's, wheres, when will, late, arriv*, not arrived, donde esta, wo ist,"
        "wo bleibt,"
        "ou est, gdzie, onde esta, nerede",
    ),
    "ask": Action(("{} request", "{} claim", "{} question")),
    "help": Action(("{} question", "{} request", "{} help")),
    "say": Action(("{}",)),
}


def _topic(nouns: str, actions: str, cues: str, **action_cues: str) -> Topic:
    return Topic(tuple(noun.strip() for noun in nouns.split(",")), tuple(actions.split()), cues, action_cues)


TOPICS: Mapping[str, Topic] = {
    # Going out, travelling, living
    "restaurant": _topic(
        "restaurant, dining place",
        "find book cancel change",
        "restaurant*, place to eat, places to eat, eat, eating, dining, dinner, lunch, cuisine, food, diner, hungry,"
        "restaurante, gaststatte, lokanta",
        book="table reservation, reserve a table, book a table, table for",
    ),
    "hotel": _topic(
        "hotel, hotel room, accommodation",
        "find book cancel change",
        "hotel*, motel*, hostel*, accommodation*, lodging, place to sleep, hotel room",
        book="room booking, hotel room booking, book a room, reserve a room",
    ),
    "house": _topic(
        "holiday home, house stay",
        "find book cancel change",
        "house*, place to stay, places to stay, vacation home*, vacation rental*, holiday home*, holiday house,"
        "airbnb,"
        "villa, where to stay, house stay",
    ),
    "apartment": _topic(
        "apartment, flat to rent",
        "find visit",
        "apartment*, flat to rent, flat for rent, bed apartment, bedroom apartment, condo, studio flat, property",
        visit="apartment viewing, property visit, visit the property, visit the apartment",
    ),
    "flight": _topic(
        "flight, plane ticket",
        "find book cancel change",
        "flight*, airline*, airport, plane, fly, flying, airfare, one way ticket*, round trip, roundtrip,"
        "economy class,"
        "premium economy, business class ticket*, economy ticket*, vuelo*, flug*, vol, lot, voo, ucus, ?oneway,"
        "?one way",
    ),
    "bus": _topic(
        "bus", "find buy cancel change", "bus, buses, busses, coach, autobus*, otobus", buy="bus ticket*,coach ticket*"
    ),
    "train": _topic(
        "train", "find buy cancel change", "train, trains, railway, tren, zug, pociag, trem", buy="train ticket*"
    ),
    "rental car": _topic(
        "rental car, car rental",
        "find book cancel change",
        "rental car*, car rental*, rent a car, rent car, rental vehicle, hire car, car hire, hatchback, sedan, suv,"
        "rental, pick up the car, ?car, ?cars, ?vehicle",
    ),
    "ride": _topic("ride, taxi, cab", "book cancel", "ride, rides, taxi*, cab, cabs, uber, lyft, chauffeur"),
    "event": _topic(
        "event, concert",
        "find buy times cancel",
        "event*, concert*, gig, gigs, festival*, a show, ?shows, play tickets, sport*, game, games, ?match, ?matches,"
        "baseball, basketball, football, soccer, music event*, theater play, theatre play, something fun,"
        "interesting to do, something to do, ?ticket*, ?anything to do, ?things to do",
        times="event dates, dates for events, dates for",
        buy="event ticket*, concert ticket*, ?tickets for, ?tickets to",
    ),
    "attraction": _topic(
        "tourist attraction, sightseeing",
        "find",
        "attraction*, sightseeing, sights, museum*, park, parks, tourist*, landmark*, places to visit, places to see,"
        "place to visit, things to see, tour, garden",
    ),
    "movie": _topic(
        "movie, film",
        "find times play buy",
        "movie*, film, films, cinema*, something to watch, movie theat*, film theat*",
        times="show times, showtimes, show time, showing time*, movie times",
        buy="movie ticket*, film ticket*",
        play="watch it now, start the movie, play it with subtitles",
    ),
    "music": _topic(
        "song, music",
        "find play",
        "song*, music, album*, tune, tunes, singer, playlist*, something to listen",
        play="hear",
    ),
    "weather": _topic(
        "weather, weather forecast",
        "check",
        "weather*, forecast*, rain*, humid*, temperature*, windy, sunny, snow*, hava",
    ),
    # Appointments and services
    "calendar": _topic(
        "calendar, personal schedule",
        "check add",
        "calendar*, my schedule, personal schedule, am i free, i am free, i'm free, when i'm available, my agenda,"
        "my availability, free time, available time, i have planned, my plans",
        add="add to calendar, add it to my calendar, add to my calendar, put it on my calendar",
        check="events on my calendar, events in my calendar, my events, my day, available on",
    ),
    "dentist": _topic(
        "dentist, dental clinic", "find appoint cancel change", "dentist*, dental*, tooth*, zahnarzt, dentiste"
    ),
    "doctor": _topic(
        "doctor, physician",
        "find appoint cancel change",
        "doctor*, physician*, gynecolog*, dermatolog*, ophthalmolog*, pediatric*, clinic, specialist*,"
        "general practitioner,"
        "medical, arzt, medico, lekarz*, doktor*",
    ),
    "therapist": _topic(
        "therapist, counsellor",
        "find appoint cancel change",
        "therapist*, psychologist*, psychiatrist*, counsel*, therapy, family counselor",
    ),
    "salon": _topic(
        "hair salon, hair stylist",
        "find appoint cancel change",
        "salon*, hair*, stylist*, barber*, unisex salon*, beauty*",
    ),
    "home service": _topic(
        "home repair, household service",
        "find appoint cancel",
        "plumber*, electrician*, cleaner*, cleaning service*, handyman, gardener*, home repair*, household service*",
    ),
    "alarm": _topic("alarm, alarm clock", "check add", "alarm*, wake me", add="set an alarm, set alarm, new alarm"),
    # Money
    "balance": _topic(
        "account balance, bank balance",
        "check",
        "balance*, how much money, savings account, checking account, saldo, kontostand, solde, bakiye",
    ),
    "money transfer": _topic(
        "money transfer, bank transfer",
        "send",
        "money transfer*, transfer money, transferring, send money, transfer some, transfer dollars, bank transfer*,"
        "bucks,"
        "transfer funds, make a transfer, wire, transfer the money, like to transfer, want to transfer,"
        "need to transfer, transferencia, uberweis*, virement, przelew*, havale, ?transfer",
    ),
    "bank card": _topic(
        "bank card, credit card",
        "help fault",
        "credit card, debit card, bank card, card blocked, block my card, lost my card, tarjeta, kreditkarte",
    ),
    "bill": _topic(
        "bill, billing, invoice",
        "dispute pay",
        "bill, bills, billing, billed, invoice*, charge*, charged, overcharg*, fee, fees, credit note, reminder fee,"
        "owe,"
        "debt collector, rechnung*, abgebucht, factura*, cobr*, facture*, preleve*, faktur*, rachunek*, rachunk*,"
        "naliczon*,"
        "fatura*, conta, ucret*, recibo",
        dispute="charged twice, double charge*, wrong bill, billing dispute, overpaid, took money",
        pay="direct debit, autopay, auto pay, standing order, instalment*, installment*, top up, topup,"
        "due date, pay in parts, pay my bill, pay the bill, bill payment*, payment*, lastschrift, prepaid,"
        "domiciliacion,"
        "prelevement, polecenie zaplaty, ?pay, ?paying, ?paid, ?pagar, ?zahlen, ?payer, ?zaplac*, ?odeme*, ?odemek",
    ),
    "refund": _topic(
        "refund, money back",
        "ask",
        "refund*, money back, get my money, reimburs*, compensat*, get something back, pay back, erstatt*,"
        "ruckerstattung,"
        "geld zuruck, reembols*, devolucion*, rembours*, zwrot*, zwroc*, devoluc*, iade*",
    ),
    "discount": _topic(
        "discount, promotion",
        "help",
        "discount*, promo*, coupon*, voucher*, gift card*, rabatt, gutschein*, descuento*, reduction, rabat*, kupon*,"
        "cupom",
    ),
    # Telecommunications and utilities
    "internet": _topic(
        "internet, internet connection",
        "fault slow order",
        "internet*, wifi, wi fi, wlan, broadband, fibre, fiber, connection, network, net, netz, line, conexion,"
        "fibra,"
        "connexion, polaczenie, conexao, baglanti*, swiatlowod, landline, ?download*, ?upload*",
        fault="?panne, ?kesinti*, ?brak, outage*, internet outage, line dead, cable cut, no internet, no net,"
        "los light, line is down,"
        "power cut,"
        "maintenance, storung, stoerung, awaria, averia, apagon, ariza",
        slow="slow internet, slow wifi, speed test, mbit*, mbps, lag spikes, ping, buffers, ?slow*, ?speed*,"
        "?langsam*,"
        "?lent*, ?woln*, ?yavas*",
        order="is fibre available, order fibre, internet for",
    ),
    "router": _topic(
        "router, wifi router",
        "setup fault",
        "router*, modem*, mesh, bridge mode, wps, guest wifi, wifi password, wifi name, name of my wifi,"
        "my wifi name,"
        "firmware, open a port, port forwarding, wifi router, ruter, enrutador, routeur",
        setup="change my wifi, name of my wifi, new router, bridge mode",
    ),
    "tv": _topic(
        "tv, television",
        "fault change",
        "tv, tvs, television*, telly, channel*, picture, remote, subtitle*, set top, the box, box shows,"
        "pay per view, pixels,"
        "record series, fernbedienung*, fernseh*, sender, tele, chaine*, televis*, telewizj*, kanal*, canal*,"
        "televizyon",
    ),
    "roaming": _topic(
        "roaming, mobile data, data roaming",
        "help",
        "roaming, mobile data, data, gb, abroad, data usage, travel pass, network coverage, coverage, wifi calling,"
        "no network, datos, datenvolumen, ausland, extranjero, donnees, etranger, dane, za granica, dados, yurt disi",
    ),
    "sim": _topic(
        "sim card, esim",
        "help",
        "sim, sims, esim*, puk, multi sim*, sim card*, sim swap, tarjeta sim, karta sim, karty sim, carte sim,"
        "simkarte*,"
        "sim kart*, chip",
    ),
    "number porting": _topic(
        "number porting, number transfer",
        "help",
        "?port, porting, ported, number port*, port out, keep my number, old number, take my number,"
        "number transfer*,"
        "transfer my number, rufnummer*, rufnummernmitnahme, portabilidad, portabilite, przenie* numer*,"
        "przeniesienie numeru, portabilidade, numara tasi*",
    ),
    "plan": _topic(
        "plan, tariff",
        "change",
        "plan, plans, tariff*, tarif, upgrad*, downgrad*, bundle, my package, smallest you have, family plan,"
        "student plan,"
        "plan tarifario, tarifa, tarifwechsel, forfait, taryf*, plano, tarife, paket*",
        change="change plan, plan change, switch plan",
    ),
    "contract": _topic(
        "contract, subscription",
        "help cancel",
        "?contract, ?contracts, subscription*, membership*, vertrag*, kundigung*, abonnement*, contrato*,"
        "suscripcion, contrat,"
        "umow*,"
        "umowa, abonament, assinatura, sozlesme*, abonelik*, ?cancel*, ?cancell*, ?terminate, ?kundig*, ?resili*,"
        "?anular,"
        "?cancelar, ?iptal*, ?wypowied*",
        cancel="want to leave, darme de baja, dar de baja, baja, rezygn*, resilier, cancel everything,"
        "cancel my contract, undo my cancellation",
    ),
    "new service": _topic(
        "new service, new line",
        "order",
        "new service*, sign up, second line, new line, become a customer, new contract, new customer, new here,"
        "do you sell,"
        "want to order, i'd like to order, ordering, promo code, flyer, neuer anschluss, nuevo servicio,"
        "nouvelle ligne,"
        "nowa usluga, novo servico, yeni hat, ?order*, ?bestell*, ?pedir, ?contratar, ?commander, ?zamow*,"
        "?available",
    ),
    "move": _topic(
        "house move, relocation",
        "help",
        "move house, house move*, moving house, moving, moved in, move in, moving out, relocat*, new address,"
        "new flat,"
        "new place, umzug*, umzieh*, mudanza*, mudar*, demenag*, przeprowadz*, mudanca*, tasin*, ?move, ?moving",
    ),
    "technician": _topic(
        "technician visit, engineer visit",
        "appoint",
        "technician*, tech guy, fitter, engineer*, installer, techniker*, tecnico, technicien*, technik, teknisyen*",
    ),
    # Shops, accounts, everything else
    "delivery": _topic(
        "delivery, parcel, shipment",
        "track",
        "deliver*, parcel*, shipment*, shipping, courier, tracking, my order, order status, package hasn't,"
        "my package is,"
        "paket nicht, paquete, lieferung*, sendung*, colis, livraison*, przesylk*, paczk*, dostaw*, encomenda*,"
        "entrega*,"
        "kargo*, teslimat*, pedido",
        track="order status, order tracking, where is my order",
    ),
    "return": _topic(
        "product return, equipment return",
        "ask",
        "?return*, return the, return my, return an, return it, send back, sent back, product return*,"
        "equipment return*,"
        "take back,"
        "exchange it, zuruckschick*, rucksendung*, devolver, retourner, odeslac, geri gonder*",
    ),
    "warranty": _topic("warranty, guarantee", "ask", "warrant*, guarantee*, garantie, garantia, gwarancj*, garanti*"),
    "device": _topic(
        "device, equipment",
        "fault",
        "device*, laptop*, printer*, tablet*, phone screen, screen broken, equipment*, ?phone, ?camera, ?battery",
    ),
    "app": _topic(
        "app, website", "fault", "app, apps, website*, webpage*, web page*, aplicacion, aplikacj*, uygulama*, site"
    ),
    "login": _topic(
        "login, account access, password",
        "fault",
        "login*, log in, logging in, log out, log on, sign in, signing in, password*, passcode*, locked out,"
        "username*,"
        "user name, 2fa, two factor, verification code, activation email, account access, captcha, unlock,"
        "access my account,"
        "can't access, pin, einlogg*, anmeld*, passwort*, kennwort, contrasena*, iniciar sesion, acceder, clave,"
        "mot de passe, connecter, identifiant*, logowan*, zaloguj*, zalogow*, haslo, hasla, senha*, entrar na,"
        "acesso,"
        "sifre*, parola*, giris*, ?logged, ?code, ?codigo, ?kod*",
    ),
    "account details": _topic(
        "account details, personal details",
        "change",
        "account details, personal details, my details, my email, my e mail, email address, e mail address,"
        "bank details, iban,"
        "my name changed, change my name, name change*, phone number, new bank, my address, billing address,"
        "?account",
    ),
    "fraud": _topic(
        "fraud, scam, security concern",
        "help",
        "fraud*, scam*, phishing, stolen, hacked, identity theft, security concern*, betrug*, estafa*, arnaque*,"
        "oszust*,"
        "golpe, dolandir*, ?security",
    ),
    "privacy": _topic(
        "privacy, data protection",
        "help",
        "privacy, data protection, gdpr, personal data, delete my data, data about me, somebody else's data,"
        "call records,"
        "datenschutz, dsgvo, rgpd, rodo, lgpd, kvkk, meine daten, mis datos, mes donnees, moje dane, kisisel veri*",
    ),
    "hours": _topic(
        "opening hours, shop hours",
        "help",
        "opening hours, opening hrs, opening times, shop hours, store hours, open on, open until, are you open,"
        "when do you open,"
        "when do you close, closing time, nearest shop, nearest store, offnungszeit*, geoffnet, horario*, abren,"
        "horaires*, ouvert*, godzin*, otwart*, acik mi, calisma saat*",
    ),
    "complaint": _topic(
        "complaint, service complaint",
        "say",
        "complain*, service complaint*, ?feedback, ?praise, ?unacceptable, ?terrible service, ?worst, beschwer*,"
        "queja*, reclamacion*,"
        "reclamation*, skarg*, reklamacj*, reclamacao, sikayet*",
    ),
    "human": _topic(
        "request for a human, human agent request",
        "say",
        "?human, ?agent, ?representative, ?real person, ?speak to someone, ?talk to someone, ?operator, ?humano,"
        "?mensch,"
        "?mitarbeiter, ?conseiller, ?konsultant*, ?atendente, ?temsilci*, request for a human, human agent request",
    ),
    "reservation": _topic(
        "reservation, booking",
        "book cancel change",
        "?reservation*, ?booking*, ?appointment*, ?reserve, ?termin*, ?cita, ?rezerwacj*, ?rezervasyon*",
    ),
}

# Topics of a session without a request.
GREETING, UNCLEAR, OFF_TOPIC = "greeting", "unclear", "off topic"
OTHERS: Mapping[str, tuple[str, ...]] = {
    GREETING: ("greeting", "greeting only", "small talk"),
    UNCLEAR: ("unclear request", "unclear message", "unclear intent"),
    OFF_TOPIC: ("off-topic message", "off-topic request"),
}
# Topics of leisure and daily life. A chat that is mostly about them is unlikely to be about a contract, and vice versa.
LEISURE = frozenset(TOPICS) & {
    *("restaurant", "hotel", "house", "apartment", "flight", "bus", "train", "rental car", "ride", "event"),
    *("attraction", "movie", "music", "weather", "calendar", "dentist", "doctor", "therapist", "salon", "home service"),
    *("alarm", "reservation"),
}
OTHER_CUES: Mapping[str, str] = {
    GREETING: "greeting*, small talk, hi, hey, hello, hallo, hola, bonjour, salut, ola, oi, czesc, merhaba, selam,"
    "good morning, good evening, guten tag, dzien dobry, buenos dias, bom dia, gunaydin, thanks, thank you",
    UNCLEAR: "unclear*",
    OFF_TOPIC: "off topic",
}
# Frequent words without meaning for the topic, in the other languages.
FUNCTION_WORDS = """
que con por para una los las del mi me quiero tengo hay esta como muy pero der die das und ich nicht ist ein eine
mein meine bitte mit auf geht habe wie kann les des est pas une moi mon dans sur pour avec ne je vous svp nie jest
sie mam moj prosze jak czy nao uma com meu minha bir var icin ama ben bana lutfen cok nasil
"""
