"""What things are and the rules that govern them: types and pure functions, no I/O, no clock, no randomness."""
