"""Plays Twilio's side of ConversationRelay against any server, and a person who makes phone calls.

There is no audio and no telephone network: speech-to-text and the voice are modelled, by lengths of texts and seeds.
It imports nothing of Parley's.
"""

ABOUT = "a simulator plays Twilio and the caller: speech-to-text and the voice are modelled, there is no audio"
