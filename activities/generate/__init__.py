"""The activities of `Generate`.

`deciding` has the free steps: choose the candidates, and end without an answer. `paid_steps` has the steps on a
provider's queue: request an answer, condense a long prompt, grade an answer.
"""
