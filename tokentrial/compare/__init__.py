"""Results beside results, whoever wrote them: `read` loads, `contrasts` says what they show."""
