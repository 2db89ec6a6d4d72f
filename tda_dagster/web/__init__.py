"""The web server of `tda ui`: Dagster's, behind a guard, with the processes it needs.

What belongs here: who may ask the server for what (`guard`), and starting and ending it together
with Dagster's daemon and code server (`services`, `child`).
"""

TOKEN_VARIABLE = "TDA_UI_TOKEN"
"""Environment variable of the token; the processes that the UI starts do not get it."""
