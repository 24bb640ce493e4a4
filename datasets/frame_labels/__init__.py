"""Recordings with a label for every step: 50 Salads, GTEA, Breakfast and your own, in the layout of MS-TCN."""
