"""Messages between peers: their fields, limits and bytes, and the session that carries them in order."""
