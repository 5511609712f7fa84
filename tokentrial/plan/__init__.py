"""The plan: what a trial takes before it is run."""
