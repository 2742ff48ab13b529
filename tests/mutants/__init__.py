"""Changes one operator of the code at a time and tells which changes no test notices: ``make mutants``."""
