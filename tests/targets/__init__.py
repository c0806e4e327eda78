"""The contract against implementations that we did not write, each in an environment of its own.

``make targets`` does all of it; ``python -m tests.targets --help`` says what else there is.
"""
