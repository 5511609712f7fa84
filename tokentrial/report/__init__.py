"""The report: reads results only, and says what they show."""
