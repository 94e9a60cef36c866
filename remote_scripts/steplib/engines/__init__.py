"""Dose engines. `base` says what an engine gets and gives; each other module is one engine or a part of one."""
