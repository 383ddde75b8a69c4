"""A configuration made live: composed, run, resumed, opened, evaluated. The only room that finds studies by name."""
