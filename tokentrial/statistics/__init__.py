"""Pure functions from paired scores to a verdict: `paired` tests, `power` plans, `decision` judges."""
