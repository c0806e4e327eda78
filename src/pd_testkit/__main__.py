"""``python -m pd_testkit``: the command, where its script is not on the path."""

from pd_testkit.cli import main

main(prog_name="pd-testkit")
