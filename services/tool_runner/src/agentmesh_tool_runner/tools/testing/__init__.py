"""test_runner: pytest in the sandbox, with a result for each test."""
