"""Conversations that remember: the contract of a turn, and the context in which it is answered."""
