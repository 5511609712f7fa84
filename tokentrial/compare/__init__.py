"""Results of several systems, whoever wrote them: `read` loads them, `contrasts` compares them."""
