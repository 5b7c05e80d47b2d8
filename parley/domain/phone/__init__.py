"""Phone calls over Twilio ConversationRelay: frames, TwiML, signatures, keys, and what a caller heard."""
