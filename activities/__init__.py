"""Side effects, thin: one file per capability. paid_call.py is the one door to money."""
