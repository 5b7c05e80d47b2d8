"""Coaching: the rubric, the request and the reply of a model, the checks of what it says, and progress over time."""
