"""`python -m spine` is `spine`."""

from spine.cli import main

main()
