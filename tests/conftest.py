"""What all tests of the kit share: pytest's own test helper."""

pytest_plugins = ["pytester"]
