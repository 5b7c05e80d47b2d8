"""Labels by meaning: a labeller that compares sentence embeddings, data whose intents are known, and their agreement.

It answers what the simulator answers by rule, so it is apart from it. Its labels differ as a model's do, because each
request sees other labels, and only what the prompt says decides.
"""

from benchmarks.meaning.measuring import measure as measure
