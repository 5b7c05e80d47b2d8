"""The steps of conversations: what is remembered of a user, and how it is recalled."""
