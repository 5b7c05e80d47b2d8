"""Phone calls: Twilio's webhooks and callbacks, and the WebSocket of ConversationRelay."""
