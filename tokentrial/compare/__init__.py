"""Results of several systems, whoever wrote them: `read` loads them, `contrasts` pairs them, `contrast_tests` tests."""
