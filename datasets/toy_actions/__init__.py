"""Generated sequences with six kinds of actions: the data of the quickstart."""
