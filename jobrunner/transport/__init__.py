"""Sockets, authentication, and the drivers that connect the cores with them."""
