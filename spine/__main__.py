"""`python -m spine` is `spine`."""

from spine.collecting import collecting_nothing

with collecting_nothing():
    from spine.cli import main

main()
