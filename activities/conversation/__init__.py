"""The steps of a conversation: the context of a turn, its end, and the work between turns."""
