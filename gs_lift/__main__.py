"""`python -m gs_lift` is `gslift`."""

from gs_lift.cli import main

main()
