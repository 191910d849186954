"""The checker that conftest.py puts around every annotated function of gs_lift."""

from beartype import BeartypeConf, beartype

# An int is welcome where a float is annotated, as type checkers have it (PEP 484).
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
